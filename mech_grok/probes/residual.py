"""The residual stream as a sum of components, through every norm that sits on it.

TransformerLens' `get_full_resid_decomposition` agrees where no norm sits on the stream. Where one does
(Post-LN, Peri-LN, final norm) it returns what the components were before that norm, which do not add up.
"""

from collections.abc import Mapping

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.model.norm_sites import final_site, residual_sites
from mech_grok.model.norms import Norm

Components = dict[str, Tensor]
Cache = ActivationCache | Mapping[str, Tensor]


def decompose_residual(
    model: GrokTransformer, cache: Cache
) -> tuple[list[str], Float[Tensor, "component *batch d_model"]]:
    """Components whose sum is what the unembedding reads (`unembed.hook_in`), and their names.

    Components: `embed`, `pos_embed`, every head `L0H0`, every MLP `0_mlp_out` (its own bias included), and
    the bias of every LayerNorm on the stream or on a sublayer's output, such as `0_norm_resid_mid_bias`
    or `ln_final_bias`. A norm is linear once its divisor is held at the cached value, so every component
    is centred (LayerNorm only), divided and scaled along with the stream.

    Args:
        model: in any placement, of any depth.
        cache: of `run_with_cache`, at any positions; what is read are `residual_hooks(model.config)`.
    """
    parts: Components = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"]}
    for layer in range(model.config.n_layers):
        parts = _after_block(parts, model, cache, layer)
    if final_site(model.config) is not None:
        parts = _through(parts, model, cache, "ln_final")
    return list(parts), torch.stack(torch.broadcast_tensors(*parts.values()))


def residual_hooks(config: ModelConfig) -> tuple[str, ...]:
    """The hook points that `decompose_residual` reads."""
    on_residual = residual_sites(config)
    final = () if final_site(config) is None else ("ln_final.hook_scale",)
    per_layer = (
        name
        for layer in range(config.n_layers)
        for name in (
            f"blocks.{layer}.attn.hook_z",
            _raw_mlp_out(config, layer),
            *(f"blocks.{layer}.{norm}.hook_scale" for norm in on_residual),
        )
    )
    return ("hook_embed", "hook_pos_embed", *per_layer, *final)


def _raw_mlp_out(config: ModelConfig, layer: int) -> str:
    """The MLP's output before any norm on it; `hook_mlp_out` is what is added to the stream."""
    normed = "norm_mlp_out" in residual_sites(config)
    return f"blocks.{layer}.norm_mlp_out.hook_in" if normed else f"blocks.{layer}.hook_mlp_out"


def _after_block(parts: Components, model: GrokTransformer, cache: Cache, layer: int) -> Components:
    block = f"blocks.{layer}"
    heads = _head_outputs(model, cache, layer)
    mlp_out = {f"{layer}_mlp_out": cache[_raw_mlp_out(model.config, layer)]}
    parts = parts | _through(heads, model, cache, f"{block}.norm_attn_out")
    parts = _through(parts, model, cache, f"{block}.norm_resid_mid")
    parts = parts | _through(mlp_out, model, cache, f"{block}.norm_mlp_out")
    return _through(parts, model, cache, f"{block}.norm_resid_post")


def _head_outputs(model: GrokTransformer, cache: Cache, layer: int) -> Components:
    z, w_o = cache[f"blocks.{layer}.attn.hook_z"], model.blocks[layer].attn.W_O
    outputs = einsum(z, w_o, "... head d_head, head d_head d_model -> head ... d_model")
    return {f"L{layer}H{head}": out for head, out in enumerate(outputs)}


def _through(parts: Components, model: GrokTransformer, cache: Cache, name: str) -> Components:
    """The components after the norm of this name, its bias as one more; unchanged where there is none."""
    norm = model.get_submodule(name)
    if not isinstance(norm, Norm):
        return parts
    divisor = cache[f"{name}.hook_scale"]
    gain, bias = (1.0, None) if norm.affine is None else (norm.affine.w, norm.affine.b)
    centring = norm.site.kind == "ln"
    out = {k: (x - x.mean(-1, keepdim=True) if centring else x) / divisor * gain for k, x in parts.items()}
    return out if bias is None else {**out, _bias_label(name): bias}


def _bias_label(name: str) -> str:
    """`0_norm_resid_mid_bias` for `blocks.0.norm_resid_mid`."""
    return name.removeprefix("blocks.").replace(".", "_") + "_bias"
