"""A step can be recorded and replayed: it waits for nothing, and depends on nothing but tensors that stay."""

from typing import Any

import numpy as np
import pytest
import torch
from recorded_kernels import stand_in_for_cuda

from mech_grok.config import CellConfig
from mech_grok.placement import all_placements
from mech_grok.training import loss
from mech_grok.training import trainer as training
from mech_grok.training.capture import _Captured, captured
from mech_grok.training.data import Examples, examples
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import Trainer


def cell(**model: object) -> CellConfig:
    return CellConfig.model_validate(
        {
            "task": {"p": 11},
            "model": {"d_model": 16, "n_heads": 2, **model},
            "training": {"seeds": [3, 1], "steps": 40, "evaluate_every": 2},
        }
    )


MODELS: list[dict[str, Any]] = [
    *({"placement": str(placement)} for placement in all_placements()),
    {"placement": "pre", "n_layers": 2},
    {"placement": "post", "n_layers": 3, "activation": "swiglu"},
    {"qk_norm": True, "activation": "gelu", "norm": "rms"},
    {"final_norm": "on", "tied_unembed": True},
]


@pytest.fixture
def on_the_stacked_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: all seeds in one pass, and no look whether there are ties."""
    monkeypatch.setattr(loss, "_is_right", lambda logits, answers, *_: loss.correct(logits, answers))
    for name in ("passes", "passes_at_once", "seed_groups"):
        real = getattr(training, name)
        monkeypatch.setattr(training, name, lambda *a, _real=real: _real(*_as_on_a_gpu(a)))


def _as_on_a_gpu(arguments: tuple[Any, ...]) -> list[Any]:
    return ["cuda" if x == "cpu" else x for x in arguments]


def trained(config: CellConfig, steps: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    trainer = Trainer(config, ParameterStack.initial(config))
    rows = trainer.advance(steps)
    return trainer.parameters.flat, rows


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.usefixtures("on_the_stacked_path")
def test_replayed_steps_are_the_steps_bit_for_bit(
    model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cell(**model)
    expected, expected_rows = trained(config, 12)
    trainer = Trainer(config, ParameterStack.initial(config))
    update = trainer.update
    counts = [count for piece in update._pieces for count in piece.counts]
    stand_in_for_cuda(monkeypatch, trainer.parameters.flat, update.gradient, update._moments, *counts)
    trainer._learn, trainer._take_test = _Captured(trainer._learning), _Captured(trainer._testing)
    rows = trainer.advance(12)
    assert len(trainer._learn._graph.kernels) > 100
    assert trainer._take_test._graph.kernels
    assert torch.equal(trainer.parameters.flat, expected)
    for name, values in expected_rows.items():
        np.testing.assert_array_equal(rows[name], values, err_msg=name)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_step_waits_for_no_device(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's `meta` device, which has no numbers that a host could look at, and mixes with no other."""
    config = cell(**model)
    monkeypatch.setattr(training, "examples", lambda *a: _without_numbers(examples(*a)))
    stack = ParameterStack.initial(config)
    stack.flat = stack.flat.to("meta")
    stack.frozen = {name: x.to("meta") for name, x in stack.frozen.items()}
    trainer = Trainer(config, stack)
    (norms, trained), (tested,) = trainer._learning(), trainer._testing()
    assert norms.shape == (3, 2, len(stack.groups))
    assert trained.shape == tested.shape == (2, 2)
    assert norms.device.type == trained.device.type == tested.device.type == "meta"


def _without_numbers(data: Examples) -> Examples:
    return Examples(data.pairs.to("meta"), data.answers.to("meta"))


def test_nothing_is_recorded_where_there_is_no_gpu() -> None:
    def work() -> list[torch.Tensor]:
        return []

    assert captured(work, torch.device("cpu")) is work
