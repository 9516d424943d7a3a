"""In how few directions the features that the unembedding reads lie."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.observation import SPLITS, Observation
from mech_grok.probes.probe import Probe, Quantity

FEATURES = "unembed.hook_in"
"""Hook point of what the unembedding reads, after the final norm where there is one."""


def effective_rank(x: Float[Tensor, "n d"]) -> float:
    """Exponential of the entropy of the shares of x's squared singular values; nan for x = 0 or not finite.

    Uncentred, in float64: r for r equal singular values. As in arXiv 2602.06702, whose code squares the
    Gram matrix in float32 and so reads a few per cent higher; Roy and Vetterli (2007) take the shares of
    the singular values themselves, which is another number.
    """
    if not torch.isfinite(x).all():
        return math.nan
    # The triangular factor has the same singular values and is d x d.
    sigma = torch.linalg.svdvals(torch.linalg.qr(x.double(), mode="r").R)
    power = sigma.square()
    return float(torch.special.entr(power / power.sum()).sum().exp())


def _features(model: HookedTransformer) -> tuple[str, ...]:
    return (FEATURES,)


def _compute(seen: Observation) -> dict[str, np.ndarray]:
    features = seen.at_equals[FEATURES]
    return {"effective_rank": np.array([effective_rank(features[seen.indices(name)]) for name in SPLITS])}


PROBE = Probe(
    name="compressibility",
    title="Effective rank of the features that the unembedding reads",
    source="arXiv 2602.06702",
    seconds=0.0,
    quantities={
        "effective_rank": Quantity(
            ("split",),
            "effective rank",
            "1",
            "exp of the entropy of sigma_i^2 / sum sigma^2, with sigma the singular values of the uncentred "
            "features that the unembedding reads at '=' over the pairs of the split, in float64.",
            nan="the features are all zero",
        ),
    },
    compute=_compute,
    at_equals=_features,
)
