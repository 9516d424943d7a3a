"""The real Fourier basis of functions on 0..p-1, and the transform of functions of a and b."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


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


def by_frequency(power: Float[Tensor, "p ..."]) -> Float[Tensor, "frequency ..."]:
    """Squares along the rows of `fourier_basis`, those of cosine and sine added: frequencies 0..p//2."""
    p = power.shape[0]
    folded = power.new_zeros(p // 2 + 1, *power.shape[1:])
    return folded.index_add_(0, frequencies(p).to(power.device), power)


def spectrum(x: Float[Tensor, "p columns"]) -> Float[Tensor, " frequency"]:
    """Norm over all columns along each frequency 0..p//2 of functions on 0..p-1, in float64.

    Cosine and sine are added in quadrature, so that the squares sum to those of x.
    """
    power = (fourier_basis(x.shape[0]).to(x.device) @ x.double()).square().sum(1)
    return by_frequency(power).sqrt()


def fourier_2d(x: Float[Tensor, "pairs ..."], p: int) -> Float[Tensor, "p p ..."]:
    """Coefficients of functions of (a, b) on the products F_f(a) F_g(b) of `fourier_basis`, in float64.

    Args:
        x: one value, or an array of them, for each of the p^2 pairs in lexicographic order.
        p: the modulus.

    Returns:
        coefficients [f, g, ...], f along a and g along b; their squares sum to those of x.
    """
    basis = fourier_basis(p).to(x.device)
    return (basis @ _along_a(basis, x)).reshape(p, p, *x.shape[1:])


def power_2d(x: Float[Tensor, "pairs ..."], p: int) -> Float[Tensor, "frequency_a frequency_b ..."]:
    """Squares of `fourier_2d`, the cosines and sines of each pair of frequencies 0..p//2 added.

    [0, 0] holds the mean, and all entries sum to the sum of the squares of x.
    """
    basis = fourier_basis(p).to(x.device)
    # One frequency at a time, so that what is squared and added stays in the processor's cache.
    rows = _along_a(basis, x).split(frequencies(p).bincount().tolist())
    power = torch.stack([by_frequency((basis @ of_one).square().sum(0)) for of_one in rows])
    return power.reshape(p // 2 + 1, p // 2 + 1, *x.shape[1:])


def _along_a(basis: Float[Tensor, "p p"], x: Float[Tensor, "pairs ..."]) -> Float[Tensor, "p p columns"]:
    """Coefficients along a of functions of (a, b): [frequency row, b, everything else]."""
    p = len(basis)
    return (basis @ x.double().reshape(p, -1)).reshape(p, p, -1)
