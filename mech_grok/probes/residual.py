"""The residual stream as a sum of components, through every norm that sits on it.

TransformerLens' `get_full_resid_decomposition` agrees where no norm sits on the stream. Where one does
(Post-LN, Peri-LN, final norm) it returns what the components were before that norm, which do not add up.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedTransformer

from mech_grok.model.block import GrokBlock
from mech_grok.model.norms import Norm
from mech_grok.model.unembed import GrokUnembed

UNEMBED_BIAS = "unembed_bias"
"""Label of an unembedding's bias, which adds to the logits beside the residual stream."""

Components = dict[str, Tensor]
Cache = ActivationCache | Mapping[str, Tensor]


class Read(NamedTuple):
    """How an activation x [*batch, d_model] is read further down: `x @ directions / divisor`."""

    directions: Float[Tensor, "d_model p"]
    divisor: Float[Tensor, "*batch 1"]


def decompose_residual(
    model: HookedTransformer, cache: Cache
) -> tuple[list[str], Float[Tensor, "component *batch d_model"]]:
    """Components whose sum is what the unembedding reads (`unembed.hook_in`), and their names.

    Components: `embed`, `pos_embed`, every head `L0H0`, every MLP `0_mlp_out` (its own bias included), an
    attention bias that is not zero (`0_attn_bias`), and the bias of every LayerNorm on the stream or on a
    sublayer's output, such as `0_norm_resid_mid_bias` or `ln_final_bias`. A norm is linear once its divisor
    is held at the cached value, so every component is centred (LayerNorm only), divided and scaled along
    with the stream.

    Args:
        model: in any placement, of any depth; or one that `mech_grok.model.adopt` has given its hook points.
        cache: of `run_with_cache`, at any positions; what is read are `residual_hooks(model)`.
    """
    parts: Components = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"]}
    for layer in range(model.cfg.n_layers):
        parts = _after_block(parts, model, cache, layer)
    if isinstance(_final_norm(model), Norm):
        parts = _through(parts, _final_norm(model), cache, "ln_final")
    return list(parts), torch.stack(torch.broadcast_tensors(*parts.values()))


def component_labels(model: HookedTransformer) -> list[str]:
    """The names of all that the logits are the sum of, without running the model.

    They are those of `decompose_residual`, and `unembed_bias` if the unembedding has one that is not zero.
    """
    nothing = dict.fromkeys(
        residual_hooks(model), torch.ones(1, dtype=model.W_E.dtype, device=model.W_E.device)
    )
    heads = {
        f"blocks.{layer}.attn.hook_z": model.W_E.new_zeros(model.cfg.n_heads, model.cfg.d_head)
        for layer in range(model.cfg.n_layers)
    }
    labels = decompose_residual(model, {**nothing, **heads})[0]
    return [*labels, UNEMBED_BIAS] if model.b_U.any() else labels


def mlp_reads(model: HookedTransformer, cache: Cache, directions: Float[Tensor, "d_model p"]) -> list[Read]:
    """How each layer's MLP output, before any norm on it, is read along directions at the unembedding.

    An MLP's output read this way is its component of `decompose_residual` times the directions, with the
    norms applied to the few directions in place of what each neuron writes. Divisors are held.
    """
    last = Read(directions, directions.new_ones(1))
    stream, reads = _back_through(last, _final_norm(model), cache, "ln_final"), []
    for layer in reversed(range(model.cfg.n_layers)):
        name, block = f"blocks.{layer}.", cast(GrokBlock, model.blocks[layer])
        stream = _back_through(stream, block.norm_resid_post, cache, name + "norm_resid_post")
        reads.append(_back_through(stream, block.norm_mlp_out, cache, name + "norm_mlp_out"))
        stream = _back_through(stream, block.norm_resid_mid, cache, name + "norm_resid_mid")
    return reads[::-1]


def residual_hooks(model: HookedTransformer) -> tuple[str, ...]:
    """The hook points that `decompose_residual` reads."""
    final = ("ln_final.hook_scale",) if isinstance(_final_norm(model), Norm) else ()
    per_layer = (
        name
        for layer, block in enumerate(model.blocks)
        for name in (
            f"blocks.{layer}.attn.hook_z",
            _raw_mlp_out(model, layer),
            *(f"blocks.{layer}.{norm}.hook_scale" for norm in cast(GrokBlock, block).sites.residual),
        )
    )
    return ("hook_embed", "hook_pos_embed", *per_layer, *final)


def _final_norm(model: HookedTransformer) -> nn.Module | None:
    return cast(GrokUnembed, model.unembed).final_norm


def _raw_mlp_out(model: HookedTransformer, layer: int) -> str:
    """The MLP's output before any norm on it; `hook_mlp_out` is what is added to the stream."""
    normed = "norm_mlp_out" in cast(GrokBlock, model.blocks[layer]).sites.residual
    return f"blocks.{layer}.norm_mlp_out.hook_in" if normed else f"blocks.{layer}.hook_mlp_out"


def _after_block(parts: Components, model: HookedTransformer, cache: Cache, layer: int) -> Components:
    attention = _head_outputs(model, cache, layer)
    mlp_out = {f"{layer}_mlp_out": cache[_raw_mlp_out(model, layer)]}

    def through(components: Components, norm: str) -> Components:
        name = f"blocks.{layer}.{norm}"
        return _through(components, model.get_submodule(name), cache, name)

    parts = through(parts | through(attention, "norm_attn_out"), "norm_resid_mid")
    return through(parts | through(mlp_out, "norm_mlp_out"), "norm_resid_post")


def _head_outputs(model: HookedTransformer, cache: Cache, layer: int) -> Components:
    z, attn = cache[f"blocks.{layer}.attn.hook_z"], cast(GrokBlock, model.blocks[layer]).attn
    outputs = einsum(z, attn.W_O, "... head d_head, head d_head d_model -> head ... d_model")
    heads = {f"L{layer}H{head}": out for head, out in enumerate(outputs)}
    return {**heads, f"{layer}_attn_bias": attn.b_O} if attn.b_O.any() else heads


def _through(parts: Components, norm: nn.Module | None, cache: Cache, name: str) -> Components:
    """The components after the norm of this name, its bias as one more; unchanged where there is none."""
    if not isinstance(norm, Norm):
        return parts
    divisor = cache[f"{name}.hook_scale"]
    gain, bias = (1.0, None) if norm.affine is None else (norm.affine.w, norm.affine.b)
    centring = norm.site.kind == "ln"
    out = {k: (x - x.mean(-1, keepdim=True) if centring else x) / divisor * gain for k, x in parts.items()}
    return out if bias is None else {**out, _bias_label(name): bias}


def _back_through(read: Read, norm: nn.Module | None, cache: Cache, name: str) -> Read:
    """How the input of the norm of this name is read, if this is how its output is."""
    if not isinstance(norm, Norm):
        return read
    directions = read.directions if norm.affine is None else norm.affine.w[:, None] * read.directions
    if norm.site.kind == "ln":
        directions = directions - directions.mean(0)
    return Read(directions, read.divisor * cache[f"{name}.hook_scale"])


def _bias_label(name: str) -> str:
    """`0_norm_resid_mid_bias` for `blocks.0.norm_resid_mid`."""
    return name.removeprefix("blocks.").replace(".", "_") + "_bias"
