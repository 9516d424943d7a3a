"""Hooks that make a norm compute something else of its input."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mech_grok.model.norms import READ

Hook = tuple[str, Callable[..., Tensor]]
"""The name of a hook point, and a function `(activation, hook) -> activation`."""


def rewrite_norm(norm: str, change: Callable[[Tensor], Tensor]) -> list[Hook]:
    """Hooks that set a norm's `hook_out` to `change(hook_in)`; attached twice they do the same as once.

    What they read is `hook_in` after all hooks on it, wherever those are in the list.

    Args:
        norm: the module's name, such as `blocks.0.norm_mlp`.
        change: of [..., d_model] to the same shape.
    """
    return [(f"{norm}.hook_out", partial(_rewrite, change=change))]


def _rewrite(
    activation: Float[Tensor, "*batch d_model"], hook: HookPoint, *, change: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*batch d_model"]:
    return change(hook.ctx[READ])
