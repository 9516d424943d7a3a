"""Where the heads look, and how evenly."""

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Quantity


def row_entropy(pattern: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch"]:
    """Entropy (nats) of each row of attention weights, in float64; a weight of 0 adds 0."""
    return torch.special.entr(pattern.double()).sum(-1)


def head_average_entropy(pattern: Float[Tensor, "*batch head query key"]) -> Float[Tensor, "*batch"]:
    """Entropy (nats) of the pattern averaged over heads, then averaged over the query rows.

    As in arXiv 2602.06702, whose attention module averages its weights over heads before returning them.
    Heads that each look at one token, but not at the same one, score high here and 0 one by one.
    """
    return row_entropy(pattern.double().mean(-3)).mean(-1)


def _patterns(model: HookedTransformer) -> tuple[str, ...]:
    return tuple(f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers))


def _compute(seen: Observation) -> dict[str, Tensor]:
    pattern = torch.stack([seen.at_all_positions[name] for name in _patterns(seen.model)], dim=1)
    return {
        "pattern": reduce(pattern.double(), "n layer head query key -> layer head query key", "mean"),
        "entropy_per_head": seen.split_means(row_entropy(pattern)),
        "entropy_headavg_allrows": seen.split_means(head_average_entropy(pattern)),
    }


PROBE = Probe(
    name="attention",
    title="Where each head looks, and how evenly",
    source="arXiv 2602.06702",
    seconds=0.0,
    quantities={
        "pattern": Quantity(
            ("layer", "head", "query", "key"),
            "attention weight",
            "1",
            "Attention weight from query to key after the softmax, mean over all p^2 pairs.",
        ),
        "entropy_per_head": Quantity(
            ("split", "layer", "head", "query"),
            "attention entropy per head",
            "nats",
            "Entropy of each head's attention weights over the three keys, for each query; mean over the "
            "pairs of the split. At most ln 3.",
        ),
        "entropy_headavg_allrows": Quantity(
            ("split", "layer"),
            "attention entropy, heads averaged",
            "nats",
            "Entropy of the attention weights averaged over heads, mean over the three query rows and the "
            "pairs of the split, as in arXiv 2602.06702 (there without the split).",
        ),
    },
    compute=_compute,
    at_all_positions=_patterns,
)
