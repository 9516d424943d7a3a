"""Interventions that only some heads read.

A pathway has one norm for all heads. So the norm is computed once more on the side, for each of the chosen
heads, under all interventions that are on the whole pathway or on that head, in the order of the list. The
result is projected with the head's weights and takes its place at `attn.hook_q`, `hook_k` or `hook_v`. The
other heads, and the norm's own hook points, stay. Of hooks that come from elsewhere the side sees those on
`hook_in` that are earlier in the list than any intervention.
"""

from collections.abc import Collection
from functools import partial
from typing import NamedTuple, cast

from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.model.norm_hooks import Hook
from mech_grok.model.norms import Norm


class Note(NamedTuple):
    """An intervention as a norm's input passes it.

    Attributes:
        hooks: on the four points of the norm.
        heads: that read what they do; None for all.
        input: of the norm, as it is at this place in the list.
    """

    hooks: list[Hook]
    heads: frozenset[int] | None
    input: Tensor


def noted(norm: Norm, name: str, hooks: list[Hook], heads: Collection[int] | None = None) -> Hook:
    """A hook that changes nothing, and notes down an intervention for heads that have one of their own.

    Args:
        norm: on the pathway's input.
        name: of that module.
        hooks: on its four points.
        heads: that read what the hooks do; None for all.
    """
    chosen = None if heads is None else frozenset(heads)
    return f"{name}.hook_in", partial(_note, norm=norm, hooks=hooks, heads=chosen)


def spliced(model: HookedTransformer, layer: int, pathway: str) -> Hook:
    """The hook under which heads that have interventions noted for them read what these make of the norm.

    Args:
        model: to which it will be attached.
        layer: of the pathway.
        pathway: q, k or v.
    """
    splice = partial(_splice, model=model, layer=layer, pathway=pathway)
    return f"blocks.{layer}.attn.hook_{pathway}", splice


def _note(
    activation: Tensor, hook: HookPoint, *, norm: Norm, hooks: list[Hook], heads: frozenset[int] | None
) -> Tensor:
    norm.notes.append(Note(hooks, heads, activation))
    return activation


def _splice(
    activation: Float[Tensor, "batch pos head d_head"],
    hook: HookPoint,
    *,
    model: HookedTransformer,
    layer: int,
    pathway: str,
) -> Float[Tensor, "batch pos head d_head"]:
    norm = cast(Norm, model.get_submodule(f"blocks.{layer}.norm_{pathway}"))
    notes: list[Note] = [*norm.notes]
    norm.notes.clear()  # one splice does it for all interventions
    chosen = frozenset[int]().union(*(note.heads for note in notes if note.heads is not None))
    if not chosen:
        return activation
    attn = model.blocks[layer].attn
    weight, bias = (attn.get_parameter(f"{kind}_{pathway.upper()}") for kind in "Wb")
    with_heads = activation.clone()
    for head in sorted(chosen):
        hooks = [hook for note in notes if note.heads is None or head in note.heads for hook in note.hooks]
        read = _under(norm, notes[0].input, hooks)[:, -activation.shape[1] :]
        with_heads[:, :, head] = einsum(read, weight[head], "n pos d, d e -> n pos e") + bias[head]
    return with_heads


def _under(norm: Norm, x: Float[Tensor, "*batch d"], hooks: list[Hook]) -> Float[Tensor, "*batch d"]:
    """What a norm computes of x under hooks on its points."""

    def at(point: HookPoint, value: Tensor) -> Tensor:
        for name, change in hooks:
            if norm.get_submodule(name.rpartition(".")[2]) is point:
                value = change(value, hook=point)
        return value

    return norm.steps(x, at)
