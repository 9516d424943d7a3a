"""The exact forward pass of a one-layer model from tables instead of examples.

With one layer only the last position is read. Its query is the same for every example, and keys, values
and their norms depend only on (token, position): 2p + 1 distinct rows instead of 3 per example. Those rows
are computed once; each pair then gathers two of them, and W_O, MLP and unembedding run at one position.
Nor are keys needed for a single query: q (x W_K) = (q W_K) x, of what each head's keys read.
The softmax is taken per pair over its three scores: a shared table of exponentials would underflow where
the scores saturate, as they do with normalised queries and keys.

Shape suffixes: s seed, n pair, r table row, d d_model, h head, e d_head, v all heads' values, c class.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.model.norm_sites import NormSite, pathway_sites, residual_sites
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
from mech_grok.training.mix import mix

_BLOCK = "blocks.0."


def table_logits(
    parameters: Parameters, pairs: Int[Tensor, "seed n 2"], config: ModelConfig
) -> Float[Tensor, "seed n classes"]:
    """Logits at `=` of each seed's pairs (a, b), equal to those of the hooked model.

    Args:
        parameters: TransformerLens' names, each with a leading seed dimension.
        pairs: each seed's own pairs.
        config: of a one-layer model.
    """
    sites, residual = pathway_sites(config), residual_sites(config)
    rows_srd = token_rows(parameters)
    scores_srh, values_srv = _score_and_value_tables(parameters, rows_srd, config)
    rows_2sn, _ = rows_of(pairs, rows_srd.shape[1])
    z_snv = mix(scores_srh, values_srv, rows_2sn)
    resid_mid = _add_attention(rows_srd[:, -1], z_snv, residual.get("norm_attn_out"), parameters)
    resid_mid = apply_norm(resid_mid, residual.get("norm_resid_mid"), parameters, _BLOCK)
    mlp_out = mlp(apply_norm(resid_mid, sites["mlp"], parameters, _BLOCK), parameters, config, _BLOCK)
    mlp_out = apply_norm(mlp_out, residual.get("norm_mlp_out"), parameters, _BLOCK)
    resid_post = apply_norm(resid_mid + mlp_out, residual.get("norm_resid_post"), parameters, _BLOCK)
    return readout(resid_post, parameters, config)


def table_scores(
    parameters: Parameters, pairs: Int[Tensor, "seed n 2"], config: ModelConfig
) -> Float[Tensor, "seed head n 3"]:
    """Scores of the query at `=` for the keys a, b and `=` in the first block of a model of any depth."""
    scores_srh, _ = _score_and_value_tables(parameters, token_rows(parameters), config)
    rows_2sn, _ = rows_of(pairs, scores_srh.shape[1])
    of_a, of_b = F.embedding(rows_2sn, scores_srh.flatten(0, 1))
    scores = torch.stack([of_a, of_b, scores_srh[:, -1:].expand_as(of_a)], dim=-1)
    return rearrange(scores, "s n h key -> s h n key")


def _score_and_value_tables(
    parameters: Parameters, rows_srd: Tensor, config: ModelConfig
) -> tuple[Tensor, Tensor]:
    """Scores of the query at `=` against every row [s, r, h], and values of every row [s, r, h * e]."""
    sites = pathway_sites(config)
    w_q, w_k, w_v = (parameters[f"{_BLOCK}attn.W_{x}"] for x in "QKV")
    equals_s11d = apply_norm(rows_srd[:, -1:], sites["q"], parameters, _BLOCK)[:, None]
    q_s1he = (equals_s11d @ w_q).transpose(1, 2) * config.d_head**-0.5
    keys_srd = apply_norm(rows_srd, sites["k"], parameters, _BLOCK)
    v = linear(apply_norm(rows_srd, sites["v"], parameters, _BLOCK), side_by_side(w_v))
    return _scores(q_s1he, keys_srd, w_k, parameters, config), v


def _scores(
    q_s1he: Tensor, keys_srd: Tensor, w_k: Tensor, parameters: Parameters, config: ModelConfig
) -> Tensor:
    """Of the only query against what the keys read [s, r, h]; without QK-norm no key is computed for it."""
    if not config.qk_norm:
        q_s1he = multiply_scores(q_s1he, parameters, _BLOCK)
        return keys_srd @ (w_k @ q_s1he.permute(0, 2, 3, 1))[..., 0].transpose(1, 2)
    k = linear(keys_srd, side_by_side(w_k)).unflatten(-1, (config.n_heads, config.d_head))
    q, k = normalise_queries_and_keys(q_s1he, k, parameters, _BLOCK)
    return (multiply_scores(q, parameters, _BLOCK) * k).sum(-1)


def _add_attention(equals_sd: Tensor, z_snv: Tensor, norm: NormSite | None, parameters: Parameters) -> Tensor:
    """The residual stream at `=` after attention [s, n, d]."""
    w_o = parameters[f"{_BLOCK}attn.W_O"].flatten(1, 2)
    if norm is None:
        return linear(z_snv, w_o, equals_sd)  # the same for every pair, like a bias
    return equals_sd[:, None] + apply_norm(linear(z_snv, w_o), norm, parameters, _BLOCK)
