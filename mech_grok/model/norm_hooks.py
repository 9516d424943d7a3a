"""Hooks that make a norm compute something else of its input."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

Hook = tuple[str, Callable[..., Tensor]]
"""The name of a hook point, and a function `(activation, hook) -> activation`."""


def rewrite_norm(norm: str, change: Callable[[Tensor], Tensor]) -> list[Hook]:
    """Hooks that set a norm's `hook_out` to `change(hook_in)`; attached twice they do the same as once.

    Args:
        norm: the module's name, such as `blocks.0.norm_mlp`.
        change: of [..., d_model] to the same shape.
    """
    held: list[Tensor] = []
    return [
        (f"{norm}.hook_in", partial(_hold, held=held)),
        (f"{norm}.hook_out", partial(_release, held=held, change=change)),
    ]


def _hold(
    activation: Float[Tensor, "*batch d_model"], hook: HookPoint, *, held: list[Tensor]
) -> Float[Tensor, "*batch d_model"]:
    held[:] = [activation]
    return activation


def _release(
    activation: Float[Tensor, "*batch d_model"],
    hook: HookPoint,
    *,
    held: list[Tensor],
    change: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*batch d_model"]:
    return change(held.pop()) if held else activation  # empty: the same hooks are attached twice
