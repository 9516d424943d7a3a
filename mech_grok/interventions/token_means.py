"""What a model computes at its hook points on given tokens: all of it, or the mean per position."""

from collections.abc import Collection
from functools import partial

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.probes.observation import Hooks, Needs, passes, run


def activations_on(
    model: HookedTransformer, tokens: Int[Tensor, "n 3"], names: Collection[str]
) -> dict[str, Shaped[Tensor, "n pos ..."]]:
    """Hook point -> its activations at the three positions; hooks that are on the model stay in force.

    Raises:
        ValueError: there are no tokens, or one that the model does not have.
    """
    _check_tokens(model, tokens)
    return run(model, tokens.to(model.W_E.device), Needs(at_all_positions=list(names))).at_all_positions


def means_over(
    model: HookedTransformer, tokens: Int[Tensor, "n 3"], names: Collection[str]
) -> dict[str, Float[Tensor, "pos ..."]]:
    """Hook point -> the mean over tokens of its activations, per position, taken in float64.

    Hooks that are on the model stay in force.

    Raises:
        ValueError: there are no tokens, or one that the model does not have.
    """
    _check_tokens(model, tokens)
    sums: dict[str, Tensor] = {}
    hooks: Hooks = [(name, partial(_add, to=sums)) for name in dict.fromkeys(names)]
    with torch.no_grad(), model.hooks(fwd_hooks=list(hooks)):
        for batch in passes(tokens.to(model.W_E.device)):
            model(batch)
    return {name: (total / len(tokens)).to(model.cfg.dtype) for name, total in sums.items()}


def at_last_positions(
    of_positions: Shaped[Tensor, "pos ..."], activation: Shaped[Tensor, "n some ..."]
) -> Shaped[Tensor, "n some ..."]:
    """One value per position, for every example of an activation that carries the last positions only."""
    return of_positions[-activation.shape[1] :].expand_as(activation).contiguous()


def _add(activation: Tensor, hook: HookPoint, *, to: dict[str, Tensor]) -> None:
    total = activation.double().sum(0)
    to[str(hook.name)] = total + to[str(hook.name)] if hook.name in to else total


def _check_tokens(model: HookedTransformer, tokens: Tensor) -> None:
    if not len(tokens):
        raise ValueError("no tokens were given, over which nothing can be measured")
    unknown = tokens[(tokens < 0) | (tokens >= model.cfg.d_vocab)]
    if len(unknown):
        raise ValueError(f"token {int(unknown[0])} is not in 0..{model.cfg.d_vocab - 1}")
