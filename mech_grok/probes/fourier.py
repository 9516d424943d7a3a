"""Fourier structure of the embedding along the number axis; weights only."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Quantity

_EPS = 1e-8
"""Added to the variance within modes, as in the paper's code."""


class CFourier(NamedTuple):
    """C_Fourier and the two variances that it is the ratio of."""

    ratio: Float[Tensor, ""]
    between: Float[Tensor, ""]
    within: Float[Tensor, ""]


def frequencies(p: int) -> Int[Tensor, " p"]:
    """The frequency k of each row of `fourier_basis(p)`: 0, 1, 1, 2, 2, ..."""
    return (torch.arange(p) + 1) // 2


def fourier_basis(p: int) -> Float[Tensor, "p p"]:
    """The orthonormal real Fourier basis of functions on 0..p-1, one per row, in float64.

    Rows: constant, cos 1, sin 1, cos 2, sin 2, ...; for even p the last one is the alternating cosine of
    frequency p/2, which has no sine. `frequencies(p)` gives the frequency of each row. The order is that
    of Nanda et al., arXiv 2301.05217; TransformerLens' demonstration has sine before cosine.
    """
    row = torch.arange(p)
    k = frequencies(p)[:, None]
    # The integer product is reduced before it becomes an angle: a large angle would lose digits, and
    # torch would make float32 of a Python float times an integer tensor.
    angle = (2 * math.pi / p) * ((k * torch.arange(p)) % p).double()
    basis = torch.where((row % 2 == 1)[:, None], angle.cos(), angle.sin())
    basis[0] = 1.0
    return basis / basis.norm(dim=1, keepdim=True)


def embedding_spectrum(W_E: Float[Tensor, "p d_model"]) -> Float[Tensor, " frequency"]:
    """Norm of the embedding along each frequency 0..p//2, in float64.

    The cosine and the sine component of `fourier_basis` are added in quadrature, so that the squares sum
    to the embedding's squared norm. The row of `=` must not be in `W_E`.
    """
    p = W_E.shape[0]
    basis = fourier_basis(p).to(W_E.device)
    power = (basis @ W_E.double()).square().sum(-1)
    return power.new_zeros(p // 2 + 1).index_add_(0, frequencies(p).to(W_E.device), power).sqrt()


def c_fourier(W_E: Float[Tensor, "p d_model"]) -> CFourier:
    """C_Fourier of arXiv 2602.06702: spread of amplitude between Fourier modes over the spread within them.

    With X[k, i] the modulus of the unnormalised discrete Fourier transform of embedding dimension i at
    mode k = 0..p//2, and mu[k] its mean over dimensions: between = var_k(mu), within = mean((X - mu)^2),
    ratio = between / (within + 1e-8). The zero mode counts. It measures sparsity in frequency together
    with the choice of axes: an embedding and a rotated copy of it differ in the ratio, not in the model.
    Follows the notebook of github.com/jaisidhsingh/layernorm-grok, in float64.
    """
    modulus = torch.fft.rfft(W_E.double(), dim=0).abs()
    mean = modulus.mean(dim=1, keepdim=True)
    between = mean.var(correction=0)
    within = (modulus - mean).square().mean()
    return CFourier(between / (within + _EPS), between, within)


def _compute(seen: Observation) -> dict[str, Tensor]:
    numbers = seen.model.W_E[: seen.task.p]
    concentration = c_fourier(numbers)
    return {
        "c_fourier": concentration.ratio,
        "c_fourier_between": concentration.between,
        "c_fourier_within": concentration.within,
        "embedding_spectrum": embedding_spectrum(numbers),
    }


_MODULUS = "Variance of the modulus of the embedding's unnormalised discrete Fourier transform, "

PROBE = Probe(
    name="fourier",
    title="Fourier structure of the embedding",
    source="arXiv 2602.06702",
    seconds=0.0,
    quantities={
        "c_fourier": Quantity(
            (),
            "C_Fourier",
            "1",
            "Variance between Fourier modes of the embedding's mean amplitude, over the variance within "
            "modes + 1e-8. Rows 0..p-1 of W_E, modes 0..p//2; depends on the choice of axes.",
        ),
        "c_fourier_between": Quantity(
            (), "variance between modes", "1", _MODULUS + "between modes of the mean over dimensions."
        ),
        "c_fourier_within": Quantity(
            (), "variance within modes", "1", _MODULUS + "over dimensions within a mode, mean over modes."
        ),
        "embedding_spectrum": Quantity(
            ("frequency",),
            "embedding norm",
            "1",
            "Norm of rows 0..p-1 of W_E along cosine and sine of each frequency, in the orthonormal real "
            "Fourier basis.",
            source="Nanda et al., arXiv 2301.05217",
        ),
    },
    compute=_compute,
)
