"""What the fast forward passes share: norms, MLP and readout over a stack of seeds.

Shape suffixes: s seed, n example, t position, d d_model, h head, e d_head, m d_mlp, c class.
Parameters have TransformerLens' names and a leading seed dimension.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.model.norm_sites import NormSite, final_site, qk_site, standardise
from mech_grok.training.linear import linear, relu_mlp

Parameters = Mapping[str, Tensor]

_ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu}


def token_rows(parameters: Parameters) -> Tensor:
    """Inputs of the first block [seed, 2p + 1, d]: each a at position 0, each b at 1, `=` at 2."""
    w_e, w_pos = parameters["embed.W_E"], parameters["pos_embed.W_pos"]
    numbers, equals = w_e[:, :-1], w_e[:, -1:]
    return torch.cat([numbers + w_pos[:, 0:1], numbers + w_pos[:, 1:2], equals + w_pos[:, 2:3]], dim=1)


def rows_of(pairs_sn2: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Which of all seeds' `token_rows` each pair's a and b [2, s, n] and `=` [s, 1] are."""
    first_s1 = torch.arange(0, len(pairs_sn2) * r, r, device=pairs_sn2.device)[:, None]
    rows_2sn = pairs_sn2.movedim(-1, 0) + first_s1
    rows_2sn[1] += r // 2
    return rows_2sn, first_s1 + (r - 1)


def apply_norm(x_snd: Tensor, site: NormSite | None, parameters: Parameters, prefix: str) -> Tensor:
    """A norm over the last dimension of [seed, ..., d]; x itself where there is none."""
    if site is None or site.kind is None:
        return x_snd
    normalized = standardise(x_snd, site)
    if site.affine is None:
        return normalized
    return _affine(normalized, parameters, f"{prefix}{site.affine}")


def _affine(x_snd: Tensor, parameters: Parameters, owner: str) -> Tensor:
    gain = _per_seed(parameters[f"{owner}.w"], x_snd.ndim)
    bias = parameters.get(f"{owner}.b")
    return x_snd * gain if bias is None else torch.addcmul(_per_seed(bias, x_snd.ndim), x_snd, gain)


def _per_seed(vector_sd: Tensor, ndim: int) -> Tensor:
    return vector_sd.reshape(vector_sd.shape[0], *[1] * (ndim - 2), vector_sd.shape[-1])


def mlp(x_snd: Tensor, parameters: Parameters, config: ModelConfig, prefix: str) -> Tensor:
    """The block's MLP, plain or gated, on [seed, n, d]."""
    first, second = (
        [parameters[f"{prefix}mlp.{leaf}_{layer}"] for leaf in ("W", "b")] for layer in ("in", "out")
    )
    if config.activation == "relu":
        return relu_mlp(x_snd, *first, *second)
    pre_snm = linear(x_snd, *first)
    if config.activation == "swiglu":
        gate_snm = linear(x_snd, parameters[f"{prefix}mlp.W_gate"], parameters[f"{prefix}mlp.b_gate"])
        return linear(F.silu(gate_snm) * pre_snm, *second)
    return linear(_ACTIVATIONS[config.activation](pre_snm), *second)


def readout(resid_snd: Tensor, parameters: Parameters, config: ModelConfig) -> Tensor:
    """Logits [seed, n, class] of the residual stream at `=`, after final norm and readout scale."""
    features = apply_norm(resid_snd, final_site(config), parameters, "")
    tied = config.tied_unembed
    w_u_sdc = parameters["embed.W_E"].transpose(1, 2) if tied else parameters["unembed.W_U"]
    logits_snc = linear(features, w_u_sdc)
    scaled = config.readout_scale != 1.0 and not config.scale_in_loss
    return logits_snc * config.readout_scale if scaled else logits_snc


def side_by_side(weights_shde: Tensor) -> Tensor:
    """W_Q, W_K or W_V of all heads as one matrix [seed, d, head * d_head]."""
    return weights_shde.transpose(1, 2).flatten(2)


def normalise_queries_and_keys(
    q: Tensor, k: Tensor, parameters: Parameters, prefix: str
) -> tuple[Tensor, Tensor]:
    """QK-norm of queries already divided by sqrt(d_head), and of keys, both [seed, ..., head, d_head]."""
    root = q.shape[-1] ** 0.5
    q = apply_norm(q * root, qk_site("q_norm"), parameters, f"{prefix}attn.") / root
    return q, apply_norm(k, qk_site("k_norm"), parameters, f"{prefix}attn.")


def score_factor(prefix: str) -> str:
    """Name of a block's attention factors [seed, head], which the parameters of some models have."""
    return f"{prefix}attn.score_factor"


def multiply_scores(q: Tensor, parameters: Parameters, prefix: str) -> Tensor:
    """Queries [seed, ..., head, d_head] times the factor of their scores; as they are if there is none."""
    factor = parameters.get(score_factor(prefix))
    if factor is None:
        return q
    seeds, heads = factor.shape
    return q * factor.reshape(seeds, *[1] * (q.ndim - 3), heads, 1)
