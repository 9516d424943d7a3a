"""Where the heads look, and how evenly."""

import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.probes.observation import SPLITS, Observation
from mech_grok.probes.probe import Probe, variable

POSITIONS = ("a", "b", "=")


def row_entropy(pattern: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch"]:
    """Entropy (nats) of each row of attention weights, in float64; a weight of 0 adds 0."""
    return torch.special.entr(pattern.double()).sum(-1)


def head_average_entropy(pattern: Float[Tensor, "*batch head query key"]) -> Float[Tensor, "*batch"]:
    """Entropy (nats) of the pattern averaged over heads, then averaged over the query rows.

    As in arXiv 2602.06702, whose attention module averages its weights over heads before returning them.
    Heads that each look at one token, but not at the same one, score high here and 0 one by one.
    """
    return row_entropy(pattern.double().mean(-3)).mean(-1)


def _patterns(config: ModelConfig) -> tuple[str, ...]:
    return tuple(f"blocks.{layer}.attn.hook_pattern" for layer in range(config.n_layers))


def _compute(seen: Observation) -> xr.Dataset:
    config = seen.model.config
    pattern = torch.stack([seen.at_all_positions[name] for name in _patterns(config)], dim=1)
    return xr.Dataset(
        {
            "pattern": _mean_pattern(pattern),
            "entropy_per_head": variable(
                ("split", "layer", "head", "query"),
                seen.split_means(row_entropy(pattern)),
                long_name="attention entropy per head",
                units="nats",
                definition="Entropy of each head's attention weights over the three keys, for each query; "
                "mean over the pairs of the split. At most ln 3.",
            ),
            "entropy_headavg_allrows": variable(
                ("split", "layer"),
                seen.split_means(head_average_entropy(pattern)),
                long_name="attention entropy, heads averaged",
                units="nats",
                definition="Entropy of the attention weights averaged over heads, mean over the three query "
                "rows and the pairs of the split, as in arXiv 2602.06702 (there without the split).",
            ),
        },
        coords={
            "split": list(SPLITS),
            "layer": range(config.n_layers),
            "head": range(config.n_heads),
            "query": list(POSITIONS),
            "key": list(POSITIONS),
        },
    )


def _mean_pattern(pattern: Float[Tensor, "n layer head query key"]) -> xr.Variable:
    return variable(
        ("layer", "head", "query", "key"),
        reduce(pattern.double(), "n layer head query key -> layer head query key", "mean"),
        long_name="attention weight",
        units="1",
        definition="Attention weight from query to key after the softmax, mean over all p^2 pairs.",
    )


PROBE = Probe(
    name="attention",
    title="Where each head looks, and how evenly",
    compute=_compute,
    at_all_positions=_patterns,
)
