"""The fast forward passes give the hooked model's logits and gradients, in every placement."""

import pytest
import torch
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.placement import Placement, all_placements
from mech_grok.task import Task
from mech_grok.training.plain_forward import plain_logits
from mech_grok.training.table_forward import table_logits

P = 7
TASK = Task("add", P, 0.7)
SEEDS = (0, 1)
PAIRS = torch.from_numpy(TASK.pairs()).expand(len(SEEDS), -1, -1)
OPTIONS = {
    "layernorm": {},
    "rmsnorm": {"norm": "rms"},
    "everything": {
        "qk_norm": True,
        "activation": "swiglu",
        "final_norm": "on",
        "tied_unembed": True,
        "readout_scale": 0.7,
    },
    "separate affines": {"shared_affine": False, "freeze_norm_affine": True, "init_scale": 1.3},
    "attention factors": {"attention_factor": [[0.6, 2.5]], "qk_norm": True},
    "factors at depth": {"attention_factor": [[3.0, 1.0], [0.5, 1.7]], "n_layers": 2, "init_scale": 1.3},
    "depth": {"n_layers": 2, "activation": "gelu", "final_norm": "frozen"},
}


def perturbed_models(config: ModelConfig) -> list[GrokTransformer]:
    """Models of two seeds, moved off their initialisation so that no gain is 1 and no bias 0."""
    models = [GrokTransformer(config, P, seed, torch.float64) for seed in SEEDS]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for model in models:
            for parameter in model.trained_parameters().values():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.1 * noise)
    return models


def named(model: GrokTransformer) -> dict[str, Tensor]:
    return {**model.trained_parameters(), **model.frozen_parameters()}


def stacked(models: list[GrokTransformer]) -> dict[str, Tensor]:
    return {n: torch.stack([named(m)[n].detach() for m in models]).requires_grad_() for n in named(models[0])}


def hooked_logits(models: list[GrokTransformer]) -> Tensor:
    tokens = torch.from_numpy(TASK.tokens(TASK.pairs()))
    return torch.stack([m(tokens)[:, -1] for m in models])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("placement", all_placements(), ids=str)
def test_fast_forward_is_the_hooked_forward(placement: Placement, options: dict[str, object]) -> None:
    config = ModelConfig.model_validate({"placement": placement, "d_model": 16, "n_heads": 2, **options})
    models = perturbed_models(config)
    parameters = stacked(models)
    for model in models:
        for tensor in named(model).values():
            tensor.requires_grad_()  # frozen ones too: their gradients must agree as well
    hooked = hooked_logits(models)
    weights = torch.randn(hooked.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = [
        torch.autograd.grad((hooked * weights).sum(), [named(m)[n] for n in parameters], retain_graph=True)
        for m in models
    ]
    for forward in [plain_logits] if config.n_layers > 1 else [plain_logits, table_logits]:
        together = forward(parameters, PAIRS, config)
        torch.testing.assert_close(together, hooked, rtol=0, atol=1e-10)
        got = torch.autograd.grad((together * weights).sum(), list(parameters.values()))
        for g, *e in zip(got, *expected, strict=True):
            torch.testing.assert_close(g, torch.stack(e), rtol=1e-10, atol=1e-10)
        alone = forward({n: t[1:] for n, t in parameters.items()}, PAIRS[1:], config)
        torch.testing.assert_close(alone[0], hooked[1], rtol=0, atol=1e-10)


def test_saturated_scores_keep_their_softmax() -> None:
    """Scores of hundreds, whose exponentials would under- or overflow in a table shared by all pairs."""
    config = ModelConfig(placement=Placement.parse("A^qk"), d_model=16, n_heads=2)
    models = perturbed_models(config)
    with torch.no_grad():
        for model in models:
            model.blocks[0].attn.W_Q.mul_(300)
    _, cache = models[0].run_with_cache(torch.from_numpy(TASK.tokens(TASK.pairs())))
    assert cache["blocks.0.attn.hook_attn_scores"].abs().max() > 750
    for forward in (plain_logits, table_logits):
        fast = forward(stacked(models), PAIRS, config)
        torch.testing.assert_close(fast, hooked_logits(models), rtol=1e-10, atol=1e-10)
