"""The forward pass of a model of any depth, over a stack of seeds and without hooks.

The last block computes its queries, MLP and readout at the last position only.

Shape suffixes: s seed, n pair, t position, d d_model, h head, e d_head.
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.model.norm_sites import pathway_sites, residual_sites
from mech_grok.placement import ATTENTION_PATHWAYS
from mech_grok.training.attend import attend
from mech_grok.training.forward_parts import (
    Parameters,
    apply_norm,
    mlp,
    multiply_scores,
    normalise_queries_and_keys,
    readout,
    rows_of,
    side_by_side,
    token_rows,
)
from mech_grok.training.linear import linear


def plain_logits(
    parameters: Parameters, pairs: Int[Tensor, "seed n 2"], config: ModelConfig
) -> Float[Tensor, "seed n classes"]:
    """Logits at `=` of each seed's pairs (a, b), equal to those of the hooked model."""
    resid = embed(parameters, pairs)
    for layer in range(config.n_layers):
        n_queries = 1 if layer == config.n_layers - 1 else 3
        resid = block(resid, parameters, config, f"blocks.{layer}.", n_queries)
    return readout(rearrange(resid, "s n 1 d -> s n d"), parameters, config)


def embed(parameters: Parameters, pairs_sn2: Int[Tensor, "seed n 2"]) -> Float[Tensor, "seed n 3 d"]:
    """The residual stream before the first block."""
    rows_srd = token_rows(parameters)
    rows_2sn, rows_equals = rows_of(pairs_sn2, rows_srd.shape[1])
    index_sn3 = torch.stack([*rows_2sn, rows_equals.expand_as(rows_2sn[0])], dim=-1)
    return F.embedding(index_sn3, rows_srd.flatten(0, 1))


def block(
    resid_pre: Float[Tensor, "seed n 3 d"],
    parameters: Parameters,
    config: ModelConfig,
    prefix: str,
    n_queries: int = 3,
) -> Float[Tensor, "seed n queries d"]:
    """The residual stream after a block, at the last `n_queries` positions."""
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
    z_snthe = attend(*_heads(resid_sntd, read_sntd, parameters, config, prefix))
    z = rearrange(z_snthe, "s n t h e -> s (n t) (h e)")
    w_o = parameters[f"{prefix}attn.W_O"].flatten(1, 2)
    return linear(z, w_o).view_as(read_sntd)


def equals_scores(
    resid_pre: Float[Tensor, "seed n 3 d"], parameters: Parameters, config: ModelConfig, prefix: str
) -> Float[Tensor, "seed head n 3"]:
    """A block's scores of the query at `=` for the keys a, b and `=`."""
    q, k, _ = _heads(resid_pre, resid_pre[:, :, -1:], parameters, config, prefix)
    return einsum(q, k, "s n query h e, s n key h e -> s h n key")


def _heads(
    resid_sntd: Tensor, read_sntd: Tensor, parameters: Parameters, config: ModelConfig, prefix: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [s, n, t, h, e]; the scores are the plain products of the first two."""
    q, k, v = _project(resid_sntd, read_sntd, parameters, config, prefix)
    if config.qk_norm:
        q, k = normalise_queries_and_keys(q, k, parameters, prefix)
    return multiply_scores(q, parameters, prefix), k, v


def _project(
    resid_sntd: Tensor, read_sntd: Tensor, parameters: Parameters, config: ModelConfig, prefix: str
) -> list[Tensor]:
    """Queries, keys and values [s, n, t, h, e]; those that read the same in one product."""
    sites = pathway_sites(config)
    weights = {x: side_by_side(parameters[f"{prefix}attn.W_{x.upper()}"]) for x in ATTENTION_PATHWAYS}
    weights["q"] = weights["q"] * config.d_head**-0.5
    reads = {"q": read_sntd, "k": resid_sntd, "v": resid_sntd}
    projected: dict[str, Tensor] = {}
    for (site, n_positions), group in groupby(
        ATTENTION_PATHWAYS, lambda pathway: (sites[pathway], reads[pathway].shape[2])
    ):
        names = list(group)
        x = apply_norm(reads[names[-1]], site, parameters, prefix).flatten(1, 2)
        joint = linear(x, torch.cat([weights[name] for name in names], dim=-1))
        heads = joint.unflatten(1, (-1, n_positions)).unflatten(-1, (len(names), config.n_heads, -1))
        projected |= dict(zip(names, heads.unbind(-3), strict=True))
    return [projected[pathway] for pathway in ATTENTION_PATHWAYS]
