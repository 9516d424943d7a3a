"""Sharper or flatter attention: a factor on the scores, which is one over the softmax's temperature."""

import math
from collections.abc import Collection
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.interventions.places import check_range
from mech_grok.model.norm_hooks import Hook
from mech_grok.training.attention_factor import Solution, solve_factor, stacked


def temperature(
    model: HookedTransformer,
    factor: float | Tensor,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that multiply `attn.hook_attn_scores` by a factor; it comes on top of one that the model has.

    Above 1 attention is sharper, below 1 flatter. Masked scores stay masked.

    Args:
        model: the model to attach them to, with `model.hooks(fwd_hooks=...)`.
        factor: one number, or [layer, head] with one for every head of the model; finite and above 0. A
            tensor that requires a gradient gets one.
        layers: None for all.
        heads: which heads of these layers; None for all.

    Raises:
        ValueError: a factor that is not finite and above 0, or a shape, layer or head that the model does
            not have.
    """
    layers, heads = _chosen("layers", layers, model.cfg.n_layers), _chosen("heads", heads, model.cfg.n_heads)
    factors = _of_every_head(model, factor)
    chosen = torch.tensor([head in heads for head in range(model.cfg.n_heads)], device=factors.device)
    factors = torch.where(chosen, factors, 1.0)
    return [(_scores_of(layer), partial(_multiply, factor=factors[layer])) for layer in layers]


@torch.no_grad()
def temperature_for_entropy(
    model: HookedTransformer,
    tokens: Int[Tensor, "n 3"],
    target: float | Float[Tensor, "layer head"],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> tuple[list[Hook], Solution]:
    """Hooks of `temperature` with which every head's entropy at `=`, mean over the tokens, is the target.

    Layers are solved in order, each with the factors of the earlier ones applied. Hooks that are on the model
    already stay in force, so that the result holds together with them.

    Args:
        model: whose scores are multiplied.
        tokens: the inputs `a b =`.
        target: nats, one for all or one for each chosen layer and head, ascending.
        layers: None for all.
        heads: which heads of these layers; None for all.

    Returns:
        The hooks, and what was solved: fields [layer, head] of those chosen, ascending, in float64. The
        hooks compute in the precision of the model.

    Raises:
        ValueError: a target that no factor reaches, with the range of what can be reached; or a shape, layer
            or head that the model does not have.
    """
    layers, heads = _chosen("layers", layers, model.cfg.n_layers), _chosen("heads", heads, model.cfg.n_heads)
    targets = torch.as_tensor(target, dtype=torch.float64)
    if targets.shape not in ((), (len(layers), len(heads))):
        raise ValueError(
            f"target is one number or [layer, head] = {[len(layers), len(heads)]}, not {list(targets.shape)}"
        )
    targets = targets.expand(len(layers), len(heads))
    factors = torch.ones(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.float64)
    solved: list[Solution] = []
    for layer, wanted in zip(layers, targets, strict=True):
        before = temperature(model, factors, layers=[x for x in layers if x < layer])
        solved.append(_solve_layer(model, tokens, layer, heads, wanted, before))
        factors[layer, heads] = solved[-1].factor.cpu()
    return temperature(model, factors, layers, heads), stacked(solved)


def _solve_layer(
    model: HookedTransformer,
    tokens: Int[Tensor, "n 3"],
    layer: int,
    heads: list[int],
    target: Float[Tensor, " head"],
    before: list[Hook],
) -> Solution:
    """Factors of some heads, under hooks on the layers before theirs."""
    name = _scores_of(layer)
    with model.hooks(fwd_hooks=[*before]):
        _, cache = model.run_with_cache(tokens, names_filter=name, stop_at_layer=layer + 1)
    at_equals = cache[name][:, heads, -1].transpose(0, 1)
    try:
        return solve_factor(at_equals, target.to(at_equals.device))
    except ValueError as error:
        raise ValueError(f"layer {layer}: {error}") from None


def _scores_of(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_attn_scores"


def _chosen(what: str, chosen: Collection[int] | None, n: int) -> list[int]:
    """The layers or heads asked for, ascending."""
    check_range(what, chosen, n)
    return list(range(n)) if chosen is None else sorted(set(chosen))


def _of_every_head(model: HookedTransformer, factor: float | Tensor) -> Float[Tensor, "layer head"]:
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    given = torch.as_tensor(factor, dtype=model.W_E.dtype, device=model.W_E.device)
    if given.shape not in ((), shape):
        raise ValueError(f"factor is one number or [layer, head] = {list(shape)}, not {list(given.shape)}")
    wrong = [x for x in given.flatten().tolist() if not (math.isfinite(x) and x > 0)]
    if wrong:
        raise ValueError(f"factor {wrong[0]}: allowed are finite numbers above 0")
    return given.expand(shape)


def _multiply(
    scores: Float[Tensor, "batch head query key"], hook: HookPoint, *, factor: Float[Tensor, " head"]
) -> Float[Tensor, "batch head query key"]:
    return scores * factor[:, None, None]
