"""In how few directions the features, attention's output and the weights lie."""

import math
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.model.block import GrokBlock
from mech_grok.probes.observation import SPLITS, Observation
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.probes.spectrum import (
    SHORTEST_TAIL,
    Values,
    ranks_of_matrix,
    ranks_of_vectors,
    reference_ranks,
    scatter,
)
from mech_grok.task import Task

FEATURES = "unembed.hook_in"
"""Hook point of what the unembedding reads, after the final norm where there is one."""


def weight_matrices(model: HookedTransformer) -> Iterator[dict[str, Float[Tensor, "_ _"]]]:
    """Every layer's matrices by name, with the heads of W_Q, W_K, W_V and W_O side by side."""
    for block in model.blocks:
        attn, mlp = cast(GrokBlock, block).attn, cast(GrokBlock, block).mlp
        from_stream = {"W_Q": attn.W_Q, "W_K": attn.W_K, "W_V": attn.W_V}
        into_mlp = ("W_in", "W_gate") if model.cfg.gated_mlp else ("W_in",)
        yield {
            **{
                k: rearrange(w, "head d_model d_head -> d_model (head d_head)")
                for k, w in from_stream.items()
            },
            "W_O": rearrange(attn.W_O, "head d_head d_model -> (head d_head) d_model"),
            **{name: mlp.get_parameter(name) for name in (*into_mlp, "W_out")},
        }


def _coordinates(model: HookedTransformer, task: Task) -> dict[str, list[str]]:
    return {"matrix": list(next(weight_matrices(model)))}


def _attention_outputs(model: HookedTransformer) -> list[str]:
    return [f"blocks.{layer}.hook_attn_out" for layer in range(model.cfg.n_layers)]


def _hooks(model: HookedTransformer) -> tuple[str, ...]:
    return (FEATURES, *_attention_outputs(model))


def _compute(seen: Observation) -> dict[str, np.ndarray | float]:
    features = seen.at_equals[FEATURES]
    attention = [_of_splits(seen.at_equals[name], seen) for name in _attention_outputs(seen.model)]
    weights = [_stacked(map(ranks_of_matrix, x.values())) for x in weight_matrices(seen.model)]
    reference = _stacked(reference_ranks(features[seen.indices(split)]) for split in SPLITS)
    alphas = np.stack([of_layer["power_law_alpha"] for of_layer in weights])
    known = alphas[np.isfinite(alphas)]
    return {
        **_of_splits(features, seen),
        **{f"{name}_reference": values for name, values in reference.items()},
        **{f"attn_out_{x}": np.stack([layer[x] for layer in attention], axis=1) for x in attention[0]},
        **{f"weight_{x}": np.stack([layer[x] for layer in weights]) for x in weights[0]},
        "weight_power_law_alpha_mean": float(known.mean()) if len(known) else math.nan,
    }


def _of_splits(x: Float[Tensor, "n d"], seen: Observation) -> dict[str, np.ndarray]:
    found = {split: scatter(x[index]) for split, index in seen.split.items()}
    whole = found["train"].join(found["test"]) if _is_partition(seen.split.values(), len(x)) else scatter(x)
    return _stacked(ranks_of_vectors(of_split) for of_split in (whole, found["train"], found["test"]))


def _is_partition(indices: Iterable[Int[Tensor, " _"]], n: int) -> bool:
    """Whether every example is in exactly one of the sets; a caller's own training set may leave some out."""
    together = torch.cat([*indices])
    seen = together.new_zeros(n, dtype=torch.bool)
    seen[together] = True
    return len(together) == n and bool(seen.all())


def _stacked(values: Iterable[Values]) -> dict[str, np.ndarray]:
    rows = list(values)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


_ZERO = "they are all zero or not finite, or the split is empty"
_SHORT = f"the tail has fewer than {SHORTEST_TAIL} values, or there is none"
_CLAUSET = "arXiv 0706.1062"
_RESOLVED = "more than d * 1.2e-7 of the largest, d their dimension (the resolution of float32)"


def _of(prefix: str, dims: tuple[str, ...], what: str, of: str) -> dict[str, Quantity]:
    """What `ranks_of_vectors` measures, of one set of vectors; `of` ends the names on axes."""
    sigma = f"with sigma the singular values of {what} over the pairs of the split, in float64"
    entropies = "arXiv 2604.13123, which does not say whether it centres"
    return {
        f"{prefix}effective_rank": Quantity(
            dims,
            f"effective rank{of}",
            "1",
            f"exp of the entropy of sigma_i^2 / sum sigma^2, {sigma} and uncentred.",
            nan=_ZERO,
        ),
        f"{prefix}effective_rank_sigma": Quantity(
            dims,
            f"effective rank{of}, of singular values",
            "1",
            f"exp of the entropy of sigma_i / sum sigma, {sigma} and uncentred.",
            source="Roy and Vetterli, The effective rank (2007)",
            nan=_ZERO,
        ),
        f"{prefix}effective_rank_centred": Quantity(
            dims,
            f"effective rank{of}, centred",
            "1",
            f"exp of the entropy of sigma_i^2 / sum sigma^2, {sigma} and less their mean over the split; its "
            "logarithm is the spectral entropy of their covariance.",
            nan=f"{_ZERO}, or they are the same for all pairs",
        ),
        f"{prefix}spectral_entropy": Quantity(
            dims,
            f"spectral entropy{of}",
            "1",
            f"Entropy of sigma_i^2 / sum sigma^2 over ln d, {sigma}, uncentred and of dimension d.",
            source=entropies,
            nan=_ZERO,
        ),
        f"{prefix}spectral_entropy_centred": Quantity(
            dims,
            f"spectral entropy{of}, centred",
            "1",
            f"Entropy of sigma_i^2 / sum sigma^2 over ln d, {sigma}, less their mean over the split and of "
            "dimension d.",
            source=entropies,
            nan=f"{_ZERO}, or they are the same for all pairs",
        ),
        f"{prefix}numerical_rank": Quantity(
            dims,
            f"rank{of}",
            "1",
            f"How many singular values of {what} over the pairs of the split, uncentred, are {_RESOLVED}.",
            source="this project",
            nan="they are not finite, or the split is empty",
        ),
        f"{prefix}stable_rank": Quantity(
            dims,
            f"stable rank{of}",
            "1",
            f"||x||_F^2 / ||x||_2^2 = sum sigma^2 / max sigma^2, {sigma} and uncentred.",
            source="Rudelson and Vershynin, Sampling from large matrices (2007)",
            nan=_ZERO,
        ),
        f"{prefix}power_law_alpha": Quantity(
            dims,
            f"power-law exponent{of}",
            "1",
            f"Exponent alpha of the density lambda^-alpha fitted to the tail of lambda = sigma^2, {sigma}, "
            f"uncentred and {_RESOLVED}; the tail begins where its Kolmogorov-Smirnov distance is least.",
            source=_CLAUSET,
            nan=_SHORT,
        ),
        f"{prefix}power_law_tail": Quantity(
            dims,
            f"values in the power law's tail{of}",
            "1",
            "How many squared singular values the power-law exponent is fitted to.",
            source=_CLAUSET,
            nan="they are not finite, or the split is empty",
        ),
    }


_THEIRS = (
    " As the code of arXiv 2602.06702 computes it, in float32 from Z = x^T x, x the uncentred features that "
    "the unembedding reads at '=' over the pairs of the split"
)
_UNDEFINED = "the features are all zero, Z Z^T overflows, or the split is empty"
_WEIGHT_DIMS = ("layer", "matrix")

PROBE = Probe(
    name="compressibility",
    title="In how few directions the final features, attention's output and the weights lie",
    source="arXiv 2602.06702",
    seconds=0.073,
    quantities={
        **_of("", ("split",), "the features that the unembedding reads at '='", ""),
        **_of(
            "attn_out_",
            ("split", "layer"),
            "what attention adds to the residual stream at '='",
            " of attention's output",
        ),
        "effective_rank_reference": Quantity(
            ("split",),
            "effective rank, reference's code",
            "1",
            "exp of the entropy of the shares of Z's eigenvalues, taken as square roots of those of Z Z^T."
            f"{_THEIRS}; rounding makes it a few per cent too large.",
            nan=_UNDEFINED,
        ),
        "numerical_rank_reference": Quantity(
            ("split",),
            "rank, reference's code",
            "1",
            f"How many singular values of Z are above d * 1.2e-7 of the largest.{_THEIRS}.",
            nan=_UNDEFINED,
        ),
        "stable_rank_reference": Quantity(
            ("split",),
            "stable rank, reference's code",
            "1",
            "||Z||_F / ||Z||_2, neither squared, which is the square root of r for r equal singular values."
            f"{_THEIRS}.",
            nan=_UNDEFINED,
        ),
        "power_law_alpha_reference": Quantity(
            ("split",),
            "power-law exponent, reference's code",
            "1",
            "Exponent of the power law fitted to the tail of Z's eigenvalues, rounding included and however "
            f"short the tail.{_THEIRS}, and with version 1.5 of the package powerlaw.",
            nan=_UNDEFINED,
        ),
        "weight_effective_rank": Quantity(
            _WEIGHT_DIMS,
            "effective rank of the weights",
            "1",
            "exp of the entropy of sigma_i^2 / sum sigma^2, with sigma the singular values of the weight "
            "matrix in float64, all heads side by side.",
            nan="the matrix is zero",
        ),
        "weight_stable_rank": Quantity(
            _WEIGHT_DIMS,
            "stable rank of the weights",
            "1",
            "||W||_F^2 / ||W||_2^2 of the weight matrix in float64, all heads side by side; the code of "
            "arXiv 2602.06702 reports its square root.",
            nan="the matrix is zero",
        ),
        "weight_power_law_alpha": Quantity(
            _WEIGHT_DIMS,
            "power-law exponent of the weights",
            "1",
            "Exponent alpha of the density lambda^-alpha fitted to the tail of lambda = sigma^2, sigma the "
            f"singular values of the weight matrix in float64, all heads side by side, that are {_RESOLVED}. "
            "W_out has d_model of them; the code of arXiv 2602.06702 fits d_mlp eigenvalues of W^T W in "
            "float32, all but d_model of which are rounding.",
            source=f"{_CLAUSET}; heavy-tailed self-regularisation, arXiv 1810.01075",
            nan=_SHORT,
        ),
        "weight_power_law_tail": Quantity(
            _WEIGHT_DIMS,
            "values in the power law's tail of the weights",
            "1",
            "How many squared singular values the power-law exponent of the weight matrix is fitted to.",
            source=_CLAUSET,
        ),
        "weight_power_law_alpha_mean": Quantity(
            (),
            "power-law exponent of the weights, mean",
            "1",
            "Mean of the weight matrices' power-law exponents over layers and matrices, without embedding "
            "and unembedding, and without matrices whose exponent is nan.",
            source="arXiv 1810.01075",
            nan="no matrix has an exponent",
        ),
    },
    compute=_compute,
    coordinates=_coordinates,
    at_equals=_hooks,
)
