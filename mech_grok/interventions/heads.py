"""Interventions that only some heads read.

A pathway has one norm for all heads. So the norm is computed once more on the side, with what the
intervention changes in it; the result is projected with the weights of the chosen heads and takes their
place at `attn.hook_q`, `hook_k` or `hook_v`. The other heads, and the norm's own hook points, stay.

Interventions on the same head add up in the order in which they are listed. What is done to the whole
pathway reaches the chosen heads where it edits `hook_in` earlier in the list, and not otherwise.
"""

from collections.abc import Collection
from functools import partial
from typing import cast

from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.model.norm_hooks import Hook
from mech_grok.model.norm_sites import centre_and_divisor
from mech_grok.model.norms import Norm, apply_affine

_EDITS, _INPUT = "edits of heads", "input of heads"
"""Keys in the context of a norm's `hook_in`: what a running forward pass has in store for single heads."""

Edits = list[tuple[frozenset[int], list[Hook]]]
"""Heads, and the hooks on the norm's points that hold for them."""


def on_heads(
    model: HookedTransformer, layer: int, pathway: str, heads: Collection[int], hooks: list[Hook]
) -> list[Hook]:
    """Hooks under which these heads alone read what `hooks` make of the norm on a pathway.

    Args:
        model: to which they will be attached.
        layer: of the pathway.
        pathway: q, k or v.
        heads: indices.
        hooks: on the four points of the norm.
    """
    block = f"blocks.{layer}"
    norm = f"{block}.norm_{pathway}"
    context = cast(HookPoint, model.hook_dict[f"{norm}.hook_in"]).ctx
    splice = partial(_splice, model=model, layer=layer, pathway=pathway, context=context)
    return [
        (f"{block}.hook_resid_pre", partial(_forget, context=context)),
        (f"{norm}.hook_in", partial(_note, context=context, edit=(frozenset(heads), hooks))),
        (f"{block}.attn.hook_{pathway}", splice),
    ]


def _forget(activation: Tensor, hook: HookPoint, *, context: dict) -> Tensor:
    """Drop what a pass that was broken off has left behind."""
    context.pop(_EDITS, None)
    return activation


def _note(
    activation: Tensor, hook: HookPoint, *, context: dict, edit: tuple[frozenset[int], list[Hook]]
) -> Tensor:
    context.setdefault(_EDITS, []).append(edit)
    context[_INPUT] = activation
    return activation


def _splice(
    activation: Float[Tensor, "batch pos head d_head"],
    hook: HookPoint,
    *,
    model: HookedTransformer,
    layer: int,
    pathway: str,
    context: dict,
) -> Float[Tensor, "batch pos head d_head"]:
    edits: Edits = context.pop(_EDITS, [])
    if not edits:  # done by the first of several interventions
        return activation
    x = context.pop(_INPUT)
    norm = cast(Norm, model.get_submodule(f"blocks.{layer}.norm_{pathway}"))
    attn = model.blocks[layer].attn
    weight, bias = (attn.get_parameter(f"{kind}_{pathway.upper()}") for kind in "Wb")
    spliced = activation.clone()
    for head in sorted(frozenset().union(*(heads for heads, _ in edits))):
        hooks = [hook for heads, edit in edits if head in heads for hook in edit]
        read = _edited(norm, x, hooks)[:, -activation.shape[1] :]
        spliced[:, :, head] = einsum(read, weight[head], "n pos d, d e -> n pos e") + bias[head]
    return spliced


def _edited(norm: Norm, x: Float[Tensor, "*batch d"], hooks: list[Hook]) -> Float[Tensor, "*batch d"]:
    """What a norm computes of x under hooks on its points."""

    def through(leaf: str, value: Tensor) -> Tensor:
        for name, change in hooks:
            if name.endswith(f".{leaf}"):
                value = change(value, hook=norm.get_submodule(leaf))
        return value

    centred, divisor = centre_and_divisor(through("hook_in", x), norm.site)
    normalized = through("hook_normalized", centred / through("hook_scale", divisor))
    return through("hook_out", apply_affine(normalized, norm.affine))
