"""Where the heads look, how evenly, and how alike."""

import math

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Quantity

OVERFLOW = "the attention scores overflow"
"""When an attention weight is nan."""

_DIAGNOSTICS = "arXiv 2605.20441; github.com/lucky-verma/grokking-diagnostics"
_ONE_HEAD = f"the model has one head; {OVERFLOW}"
_ONE_KEY = f"the query sees one key only, as a does in a causal model; {OVERFLOW}"


def attention_weights(pattern: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch key"]:
    """The pattern, with nan for a row whose scores overflowed: TransformerLens turns its nan into zeros."""
    return pattern.where(pattern.sum(-1, keepdim=True) > 0, math.nan)


def row_entropy(pattern: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch"]:
    """Entropy (nats) of each row of attention weights, in float64; a weight of 0 adds 0."""
    return torch.special.entr(pattern.double()).sum(-1)


def head_average_entropy(
    pattern: Float[Tensor, "*batch head query key"],
) -> Float[Tensor, "*batch query"]:
    """Entropy (nats) of each row of the pattern averaged over heads.

    Heads that each look at one token, but not at the same one, score high here and 0 one by one. In arXiv
    2602.06702 the attention module averages its weights over heads before it returns them, and the entropy
    is averaged over all three rows.
    """
    return row_entropy(pattern.double().mean(-3))


def largest_entropy(scores: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch"]:
    """Entropy (nats) of uniform attention over the keys that are not masked; nan for a single key."""
    keys = (~scores.isneginf()).sum(-1)
    return torch.where(keys > 1, keys.double().log(), math.nan)


def head_similarity(pattern: Float[Tensor, "n head *row key"]) -> Float[Tensor, "head head"]:
    """Cosine similarity of every two heads' patterns, each flattened over examples, rows and keys."""
    flat = pattern.double().transpose(0, 1).flatten(1)
    flat = flat / flat.norm(dim=1, keepdim=True)
    return flat @ flat.T


def mean_similarity(similarity: Float[Tensor, "head head"]) -> float:
    """Mean of the similarities of two different heads; nan for a single head."""
    heads = len(similarity)
    if heads == 1:
        return math.nan
    return float(similarity.sum() - similarity.trace()) / (heads * (heads - 1))


def spectral_gap(similarity: Float[Tensor, "head head"]) -> float:
    """Largest less second largest eigenvalue; nan for a single head or where a similarity is nan."""
    if len(similarity) == 1 or not similarity.isfinite().all():
        return math.nan
    eigenvalues = torch.linalg.eigvalsh(similarity)
    return float(eigenvalues[-1] - eigenvalues[-2])


def head_participation(pattern: Float[Tensor, "n head *row key"]) -> float:
    """`(R - 1) / (H - 1)`, `R = (sum alpha)^2 / sum alpha^2`, alpha the eigenvalues of the heads' covariance.

    0 where all heads vary in proportion, 1 where they vary independently and by as much. The covariance
    [head, head] is that over examples, summed over rows and keys: each weight less its mean over examples.
    arXiv 2605.20441 gives the ratio, and its repository neither computes it nor says over what it centres.
    Centring each head over all its entries would let a causal mask, which all heads share, dominate; and
    centring over heads would bound the ratio by (H - 2) / (H - 1), below values that are reported. (The
    repository's formal proofs use R / H instead.)

    nan for a single head, and where no weight varies between examples by more than rounding.
    """
    heads = pattern.shape[1]
    varying = (pattern.double() - pattern.double().mean(0)).transpose(0, 1).flatten(1)
    rounding = 4 * torch.finfo(pattern.dtype).eps
    if heads == 1 or not varying.square().mean().sqrt() > rounding:
        return math.nan
    covariance = varying @ varying.T
    effective = float(covariance.trace().square() / covariance.square().sum())
    return (effective - 1) / (heads - 1)


def pattern_hooks(model: HookedTransformer) -> tuple[str, ...]:
    """The hook points of every layer's attention pattern."""
    return tuple(f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers))


def _score_hooks(model: HookedTransformer) -> tuple[str, ...]:
    return tuple(f"blocks.{layer}.attn.hook_attn_scores" for layer in range(model.cfg.n_layers))


def _compute(seen: Observation) -> dict[str, Tensor]:
    stacked = torch.stack([seen.at_all_positions[name] for name in pattern_hooks(seen.model)], dim=1)
    scores = torch.stack([seen.at_all_positions[name] for name in _score_hooks(seen.model)], dim=1)
    pattern = attention_weights(stacked)
    return {
        "pattern": reduce(pattern.double(), "n layer head query key -> layer head query key", "mean"),
        "attention_to_itself": seen.split_means(pattern[..., -1, -1].double().mean(-1)),
        **_entropies(seen, pattern, largest_entropy(scores[0])),
        **_score_statistics(scores),
        **_likeness(pattern),
    }


def _entropies(
    seen: Observation,
    pattern: Float[Tensor, "n layer head query key"],
    largest: Float[Tensor, "layer head query"],
) -> dict[str, Tensor]:
    per_head = seen.split_means(row_entropy(pattern))
    averaged = seen.split_means(head_average_entropy(pattern))
    spread = per_head[0].mean(-1).std(-1, correction=0)
    return {
        "entropy_per_head": per_head,
        "entropy_per_head_normalised": per_head / largest,
        "entropy_headavg_allrows": averaged.mean(-1),
        "entropy_headavg_lastrow": averaged[..., -1],
        "entropy_headavg_normalised": averaged / largest[:, 0],
        "head_entropy_spread": spread if pattern.shape[2] > 1 else torch.full_like(spread, math.nan),
    }


def _score_statistics(scores: Float[Tensor, "n layer head query key"]) -> dict[str, Tensor]:
    seen_only = scores.double().masked_fill(scores.isneginf(), math.nan)
    return {
        "attention_score": seen_only.mean(0),
        "attention_score_std": seen_only[..., -1, :].std(0, correction=0),
    }


def _likeness(pattern: Float[Tensor, "n layer head query key"]) -> dict[str, Tensor]:
    layers = pattern.unbind(1)
    similarities = [head_similarity(layer) for layer in layers]
    per_layer = {
        "head_similarity": [mean_similarity(x) for x in similarities],
        "head_similarity_lastrow": [mean_similarity(head_similarity(x[:, :, -1])) for x in layers],
        "head_spectral_gap": [spectral_gap(x) for x in similarities],
        "head_participation": [head_participation(layer) for layer in layers],
    }
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in per_layer.items()}


PROBE = Probe(
    name="attention",
    title="Where each head looks, how evenly, and how alike the heads are",
    source="arXiv 2602.06702",
    seconds=0.011,
    quantities={
        "pattern": Quantity(
            ("layer", "head", "query", "key"),
            "attention weight",
            "1",
            "Attention weight from query to key after the softmax, mean over all p^2 pairs.",
            nan=OVERFLOW,
        ),
        "attention_to_itself": Quantity(
            ("split", "layer"),
            "attention of = to itself",
            "1",
            "Attention weight from '=' to '=', mean over heads and the pairs of the split.",
            source="arXiv 2301.05217",
            nan=OVERFLOW,
        ),
        "entropy_per_head": Quantity(
            ("split", "layer", "head", "query"),
            "attention entropy per head",
            "nats",
            "Entropy of each head's attention weights over the three keys, for each query; mean over the "
            "pairs of the split. At most ln 3.",
            nan=OVERFLOW,
        ),
        "entropy_per_head_normalised": Quantity(
            ("split", "layer", "head", "query"),
            "attention entropy per head, of the largest possible",
            "1",
            "Entropy of each head's attention weights, mean over the pairs of the split, divided by the log "
            "of the number of keys that the query sees: 3 in a bidirectional model; 1, 2, 3 in a causal one.",
            source="this project",
            nan=_ONE_KEY,
        ),
        "entropy_headavg_allrows": Quantity(
            ("split", "layer"),
            "attention entropy, heads averaged",
            "nats",
            "Entropy of the attention weights averaged over heads, mean over the three query rows and the "
            "pairs of the split, as in arXiv 2602.06702 (there without the split).",
            nan=OVERFLOW,
        ),
        "entropy_headavg_lastrow": Quantity(
            ("split", "layer"),
            "attention entropy of =, heads averaged",
            "nats",
            "Entropy of the attention weights from '=' averaged over heads, mean over the pairs of the "
            "split.",
            nan=OVERFLOW,
        ),
        "entropy_headavg_normalised": Quantity(
            ("split", "layer", "query"),
            "attention entropy, heads averaged, of the largest possible",
            "1",
            "Entropy of the attention weights averaged over heads, mean over the pairs of the split, divided "
            "by the log of the number of keys that the query sees.",
            source="this project",
            nan=_ONE_KEY,
        ),
        "attention_score": Quantity(
            ("layer", "head", "query", "key"),
            "attention score",
            "1",
            "What the softmax reads: query times key over the root of the head's width, mean over all p^2 "
            "pairs. Only differences between the keys of one query matter.",
            source="TransformerLens' hook_attn_scores",
            nan="the query does not see the key, in a causal model",
        ),
        "attention_score_std": Quantity(
            ("layer", "head", "key"),
            "standard deviation of the attention score of =",
            "1",
            "Standard deviation over all p^2 pairs (divided by p^2) of the score of '=' for each key before "
            "the softmax.",
            source="TransformerLens' hook_attn_scores",
            nan=OVERFLOW,
        ),
        "head_similarity": Quantity(
            ("layer",),
            "similarity of heads",
            "1",
            "Mean over pairs of heads of the cosine similarity of their attention patterns, flattened over "
            "all p^2 pairs, queries and keys. In a causal model the row of a is the same for all heads, "
            "which raises it. The source averages over layers.",
            source=_DIAGNOSTICS,
            nan=_ONE_HEAD,
        ),
        "head_similarity_lastrow": Quantity(
            ("layer",),
            "similarity of heads at =",
            "1",
            "Mean over pairs of heads of the cosine similarity of their attention weights from '=', "
            "flattened over all p^2 pairs and keys.",
            source=f"{_DIAGNOSTICS} (there over all queries)",
            nan=_ONE_HEAD,
        ),
        "head_entropy_spread": Quantity(
            ("layer",),
            "spread of the heads' entropies",
            "nats",
            "Standard deviation over heads (divided by their number) of each head's entropy, mean over all "
            "queries and all p^2 pairs. The source averages over layers.",
            source=_DIAGNOSTICS,
            nan=_ONE_HEAD,
        ),
        "head_spectral_gap": Quantity(
            ("layer",),
            "spectral gap of the heads' similarities",
            "1",
            "Largest less second largest eigenvalue of the matrix of the heads' cosine similarities (all "
            "queries, ones on its diagonal). The number of heads where all are alike. The source averages "
            "over layers.",
            source=_DIAGNOSTICS,
            nan=_ONE_HEAD,
        ),
        "head_participation": Quantity(
            ("layer",),
            "participation ratio of heads",
            "1",
            "(R - 1) / (H - 1) for H heads, R = (sum alpha)^2 / sum alpha^2 over the eigenvalues alpha of "
            "the heads' covariance: of attention weights less their mean over all p^2 pairs, summed over "
            "queries and keys. The source's repository has no code for it, so what is centred is a choice.",
            source=_DIAGNOSTICS,
            nan=f"no attention weight varies between pairs by more than rounding; {_ONE_HEAD}",
        ),
    },
    compute=_compute,
    at_all_positions=lambda model: (*pattern_hooks(model), *_score_hooks(model)),
)
