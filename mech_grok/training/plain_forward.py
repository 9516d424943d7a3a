"""The forward pass of a model of any depth, over a stack of seeds and without hooks.

The last block computes its queries, MLP and readout at the last position only.

Shape suffixes: s seed, n pair, t position, d d_model, h head, e d_head.
"""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.model.norm_sites import pathway_sites, residual_sites
from mech_grok.training.forward_parts import (
    Parameters,
    apply_norm,
    mlp,
    normalise_queries_and_keys,
    readout,
    scaled_attention_weights,
    token_rows,
)
from mech_grok.training.linear import linear


def plain_logits(
    parameters: Parameters, pairs: Int[Tensor, "seed n 2"], config: ModelConfig
) -> Float[Tensor, "seed n classes"]:
    """Logits at `=` of each seed's pairs (a, b), equal to those of the hooked model."""
    resid = _embed(parameters, pairs)
    for layer in range(config.n_layers):
        n_queries = 1 if layer == config.n_layers - 1 else 3
        resid = _block(resid, parameters, config, f"blocks.{layer}.", n_queries)
    return readout(rearrange(resid, "s n 1 d -> s n d"), parameters, config)


def _embed(parameters: Parameters, pairs_sn2: Tensor) -> Float[Tensor, "seed n 3 d"]:
    rows_srd = token_rows(parameters)
    s, r, _ = rows_srd.shape
    index_sn3 = F.pad(pairs_sn2, (0, 1), value=r - 1)
    index_sn3 = index_sn3 + index_sn3.new_tensor([0, r // 2, 0])
    index_sn3 = index_sn3 + (index_sn3.new_tensor(range(s)) * r)[:, None, None]
    return F.embedding(index_sn3, rows_srd.flatten(0, 1))


def _block(
    resid_pre: Tensor, parameters: Parameters, config: ModelConfig, prefix: str, n_queries: int
) -> Float[Tensor, "seed n queries d"]:
    sites, residual = pathway_sites(config), residual_sites(config)
    read = resid_pre[:, :, -n_queries:]
    attn_out = _attention(resid_pre, read, parameters, config, prefix)
    attn_out = apply_norm(attn_out, residual.get("norm_attn_out"), parameters, prefix)
    resid_mid = apply_norm(read + attn_out, residual.get("norm_resid_mid"), parameters, prefix)
    mlp_in = apply_norm(resid_mid, sites["mlp"], parameters, prefix)
    mlp_out = mlp(mlp_in.flatten(1, 2), parameters, config, prefix).view_as(resid_mid)
    mlp_out = apply_norm(mlp_out, residual.get("norm_mlp_out"), parameters, prefix)
    return apply_norm(resid_mid + mlp_out, residual.get("norm_resid_post"), parameters, prefix)


def _attention(
    resid_sntd: Tensor, read_sntd: Tensor, parameters: Parameters, config: ModelConfig, prefix: str
) -> Tensor:
    sites = pathway_sites(config)
    w_q, w_k, w_v, w_o = scaled_attention_weights(parameters, prefix)
    q, k, v = (
        rearrange(
            linear(apply_norm(x, site, parameters, prefix).flatten(1, 2), w),
            "s (n t) (h e) -> s n t h e",
            n=x.shape[1],
            h=config.n_heads,
        )
        for x, site, w in (
            (read_sntd, sites["q"], w_q),
            (resid_sntd, sites["k"], w_k),
            (resid_sntd, sites["v"], w_v),
        )
    )
    if config.qk_norm:
        q, k = normalise_queries_and_keys(q, k, parameters, prefix)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))
    z = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    z = rearrange(z, "s n h t e -> s (n t) (h e)")
    return linear(z, w_o).view_as(read_sntd)
