"""Training on a real GPU; skipped where there is none."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mech_grok.config import CellConfig
from mech_grok.train_stage import repeatable_on_gpu
from mech_grok.training import trainer as training
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import Rows, Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

STEPS = 40
MODELS = [{"placement": "off"}, {"placement": "pre", "n_layers": 2}, {"qk_norm": True, "activation": "gelu"}]


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    repeatable_on_gpu()
    yield
    torch.use_deterministic_algorithms(False)


def trained(device: str, model: dict[str, object], dtype: str = "float32") -> tuple[torch.Tensor, Rows]:
    config = CellConfig.model_validate(
        {
            "task": {"p": 23},
            "model": {"d_model": 32, "n_heads": 2, **model},
            "training": {"seeds": [3, 1, 5], "evaluate_every": 2, "device": device, "dtype": dtype},
        }
    )
    trainer = Trainer(config, ParameterStack.initial(config))
    rows = trainer.advance(STEPS)
    return trainer.parameters.flat, rows


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_gpu_trains_as_the_cpu_does(model: dict[str, object]) -> None:
    (here, expected), (there, rows) = (trained(device, model, "float64") for device in ("cpu", "cuda"))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-8, atol=1e-10)
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], values, rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_replays_are_bit_for_bit_what_single_kernels_give(
    model: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, rows), (again, _) = trained("cuda", model), trained("cuda", model)
    monkeypatch.setattr(training, "captured", lambda work, _: work)
    one_by_one, expected = trained("cuda", model)
    assert torch.equal(first, again)
    assert torch.equal(first, one_by_one)
    for name, values in expected.items():
        np.testing.assert_array_equal(rows[name], values, err_msg=name)
