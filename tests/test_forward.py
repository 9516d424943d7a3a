"""The fast forward passes give the hooked model's logits and gradients, in every placement."""

from collections.abc import Callable, Mapping

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
SEEDS = (0, 1)
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


def stacked(models: list[GrokTransformer]) -> dict[str, Tensor]:
    named = [{**m.trained_parameters(), **m.frozen_parameters()} for m in models]
    return {n: torch.stack([x[n].detach() for x in named]) for n in named[0]}


def gradients(
    forward: Callable[[Mapping[str, Tensor]], Tensor], parameters: dict[str, Tensor], weights: Tensor
) -> list[Tensor]:
    leaves = {n: t.detach().clone().requires_grad_() for n, t in parameters.items()}
    return list(torch.autograd.grad((forward(leaves) * weights).sum(), list(leaves.values())))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("placement", all_placements(), ids=str)
def test_fast_forward_is_the_hooked_forward(placement: Placement, options: dict[str, object]) -> None:
    config = ModelConfig.model_validate({"placement": placement, "d_model": 16, "n_heads": 2, **options})
    models = perturbed_models(config)
    task = Task("add", P, 0.7)
    pairs = torch.from_numpy(task.pairs())
    tokens = torch.from_numpy(task.tokens(task.pairs()))
    hooked = torch.stack([m(tokens)[:, -1].detach() for m in models])
    weights = torch.randn(hooked.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = stacked(models)
    names = list(parameters)
    hooked_gradients = [
        torch.autograd.grad((m(tokens)[:, -1] * w).sum(), [dict(m.named_parameters())[n] for n in names])
        if all(dict(m.named_parameters())[n].requires_grad for n in names)
        else None
        for m, w in zip(models, weights, strict=True)
    ]
    forwards = [plain_logits] if config.n_layers > 1 else [plain_logits, table_logits]
    for forward in forwards:
        both = torch.stack([pairs, pairs])
        torch.testing.assert_close(forward(parameters, both, config), hooked, rtol=0, atol=1e-10)
        got = gradients(lambda p, f=forward: f(p, both, config), parameters, weights)
        for seed, expected in enumerate(hooked_gradients):
            alone = {n: t[seed : seed + 1] for n, t in parameters.items()}
            one = forward(alone, both[:1], config)
            torch.testing.assert_close(one[0], hooked[seed], rtol=0, atol=1e-10)
            if expected is not None:
                for g, e in zip(got, expected, strict=True):
                    torch.testing.assert_close(g[seed], e, rtol=1e-10, atol=1e-10)


def test_saturated_scores_keep_their_softmax() -> None:
    """Scores of hundreds, whose exponentials would under- or overflow in a table shared by all pairs."""
    config = ModelConfig(placement=Placement.parse("A^qk"), d_model=16, n_heads=2)
    models = perturbed_models(config)
    with torch.no_grad():
        for model in models:
            model.blocks[0].attn.W_Q.mul_(300)
    task = Task("add", P, 0.7)
    pairs = torch.from_numpy(task.pairs())
    tokens = torch.from_numpy(task.tokens(task.pairs()))
    hooked = torch.stack([m(tokens)[:, -1].detach() for m in models])
    assert models[0].run_with_cache(tokens)[1]["blocks.0.attn.hook_attn_scores"].abs().max() > 750
    fast = table_logits(stacked(models), torch.stack([pairs, pairs]), config)
    torch.testing.assert_close(fast, hooked, rtol=1e-10, atol=1e-10)
