"""Singular values of a set of vectors, and in how few directions they say that the vectors lie.

In float64, and from triangular factors rather than from products x^T x, in whose rounding singular values
under 1e-8 of the largest drown. `reference_ranks` is the exception, on purpose.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mech_grok.probes.power_law import fit_power_law

RESOLUTION = torch.finfo(torch.float32).eps
"""Relative rounding of the models' weights and activations."""

SHORTEST_TAIL = 10
"""A tail of fewer values says nothing about its exponent."""

Values = dict[str, float]


@dataclass(frozen=True)
class Scatter:
    """How a set of vectors x lies about its mean.

    Attributes:
        count: of the vectors.
        mean: of the vectors; 0 for none.
        factor: `factor.T @ factor = sum (x - mean)(x - mean)^T`.
    """

    count: int
    mean: Float[Tensor, " d"]
    factor: Float[Tensor, "rows d"]

    def join(self, other: "Scatter") -> "Scatter":
        """The scatter of both sets together, whose members may not be the same examples."""
        count = self.count + other.count
        share = other.count / max(count, 1)
        apart = other.mean - self.mean
        between = math.sqrt(self.count * share) * apart
        factor = torch.cat([self.factor, other.factor, between[None]])
        return Scatter(count, self.mean + share * apart, factor)

    def singular_values(self, centred: bool) -> Float[Tensor, " k"]:
        """Descending singular values of the vectors, or of the vectors less their mean.

        Those that float64 cannot tell from 0 are 0. nan for no vectors, or for ones that are not finite.
        """
        offset = math.sqrt(self.count) * self.mean[None]
        whole = torch.cat([self.factor, offset])
        if self.count == 0 or not whole.isfinite().all():
            return whole.new_full((len(self.mean),), math.nan)
        sigma = torch.linalg.svdvals(self.factor if centred else whole)
        rounding = len(self.mean) * torch.finfo(torch.float64).eps * whole.norm()
        return sigma.where(sigma > rounding, 0.0)


def scatter(x: Float[Tensor, "n d"]) -> Scatter:
    """The scatter of the rows of x."""
    x = x.to(torch.float64, copy=True)
    mean = x.sum(0) / max(len(x), 1)
    return Scatter(len(x), mean, torch.linalg.qr(x.sub_(mean), mode="r").R)


def matrix_singular_values(matrix: Float[Tensor, "n m"]) -> Float[Tensor, " k"]:
    """The min(n, m) singular values of a matrix, descending."""
    tall = matrix.double() if matrix.shape[0] > matrix.shape[1] else matrix.double().T
    return torch.linalg.svdvals(torch.linalg.qr(tall, mode="r").R)


def share_entropy(x: Float[Tensor, " k"]) -> float:
    """Entropy (nats) of x as shares of its sum; a share of 0 adds 0, and nan for no sum."""
    return float(torch.special.entr(x / x.sum()).sum())


def effective_rank(sigma: Float[Tensor, " k"]) -> float:
    """Exponential of the entropy of `sigma^2 / sum sigma^2`: r for r equal singular values; nan for all 0.

    Of the singular values of centred vectors this is `d^H`, H the spectral entropy.
    """
    return math.exp(share_entropy(sigma.square()))


def effective_rank_of_vectors(x: Float[Tensor, "n d"]) -> float:
    """`effective_rank` of the singular values of vectors, uncentred; nan for none or if not finite.

    From the product x^T x in float64: what it loses is below 1e-15 of the sum, which adds 1e-11 at most.
    """
    x = x.double()
    product = x.T @ x
    if not len(x) or not product.isfinite().all():
        return math.nan
    power = torch.linalg.eigvalsh(product).clamp(min=0.0)
    return math.exp(share_entropy(power))


def roy_vetterli_rank(sigma: Float[Tensor, " k"]) -> float:
    """Exponential of the entropy of `sigma / sum sigma` (Roy and Vetterli, 2007); nan for all 0."""
    return math.exp(share_entropy(sigma))


def spectral_entropy(sigma: Float[Tensor, " k"], d: int) -> float:
    """Entropy of `sigma^2 / sum sigma^2` over ln d, the largest in d dimensions; nan for all 0 or d = 1."""
    return share_entropy(sigma.square()) / math.log(d) if d > 1 else math.nan


def numerical_rank(sigma: Float[Tensor, " k"], d: int) -> float:
    """How many singular values are above `d * RESOLUTION` of the largest; nan if they are not finite.

    The default of `matrix_rank` for a d x d matrix in float32, since that is what the vectors were computed
    in: below it they hold rounding.
    """
    return float(len(resolved(sigma, d))) if sigma.isfinite().all() else math.nan


def resolved(sigma: Float[Tensor, " k"], d: int) -> Float[Tensor, " resolved"]:
    """The singular values that count for `numerical_rank`."""
    return sigma[sigma > d * RESOLUTION * sigma.max()]


def stable_rank(sigma: Float[Tensor, " k"]) -> float:
    """`||x||_F^2 / ||x||_2^2`, the sum of squared singular values over the largest; nan for all 0."""
    power = sigma.square()
    return float(power.sum() / power.max())


def power_law(sigma: Float[Tensor, " k"], d: int) -> Values:
    """The exponent of the squared singular values that are not rounding, and how many are in its tail."""
    if not sigma.isfinite().all():
        return {"power_law_alpha": math.nan, "power_law_tail": math.nan}
    fit = fit_power_law(resolved(sigma, d).square().cpu().numpy())
    alpha = fit.alpha if fit.tail >= SHORTEST_TAIL else math.nan
    return {"power_law_alpha": alpha, "power_law_tail": fit.tail}


def ranks_of_vectors(x: Scatter) -> Values:
    """All of the above for a set of vectors."""
    sigma, centred, d = x.singular_values(centred=False), x.singular_values(centred=True), len(x.mean)
    return {
        "effective_rank": effective_rank(sigma),
        "effective_rank_sigma": roy_vetterli_rank(sigma),
        "effective_rank_centred": effective_rank(centred),
        "spectral_entropy": spectral_entropy(sigma, d),
        "spectral_entropy_centred": spectral_entropy(centred, d),
        "numerical_rank": numerical_rank(sigma, d),
        "stable_rank": stable_rank(sigma),
        **power_law(sigma, d),
    }


def ranks_of_matrix(matrix: Float[Tensor, "n m"]) -> Values:
    """What of the above has a meaning for a weight matrix."""
    sigma = matrix_singular_values(matrix)
    return {
        "effective_rank": effective_rank(sigma),
        "stable_rank": stable_rank(sigma),
        **power_law(sigma, len(sigma)),
    }


def reference_ranks(x: Float[Tensor, "n d"]) -> Values:
    """The ranks of arXiv 2602.06702 as its code computes them: in float32, from Z = x^T x.

    The code takes the eigenvalues of Z as square roots of those of Z Z^T. The smallest of them are then
    rounding, about 1e-4 of the largest, which adds 10 % to an effective rank of 1 and 1 % to one of 20; the
    power law is fitted to them too. An eigenvalue of exactly 0 adds nothing to the entropy here; there it
    makes it nan.

    Returns:
        `effective_rank`; `numerical_rank` of Z by `matrix_rank`'s default, which at d = 128 asks for a
        singular value of x above 0.4 % of the largest; `stable_rank` as ||Z||_F / ||Z||_2, which is the root
        of r for r equal singular values; `power_law_alpha` of the eigenvalues, however short the tail. All
        nan for no vectors, for x = 0, and where Z Z^T overflows.
    """
    z = x.float().T @ x.float()
    product = z @ z.T
    if not product.isfinite().all() or not product.any():
        return dict.fromkeys(("effective_rank", "numerical_rank", "stable_rank", "power_law_alpha"), math.nan)
    sigma = torch.linalg.svdvals(z)
    eigenvalues = torch.linalg.eigvalsh(product).abs().sqrt()
    return {
        "effective_rank": math.exp(share_entropy(eigenvalues)),
        "numerical_rank": float((sigma > len(z) * torch.finfo(z.dtype).eps * sigma[0]).sum()),
        "stable_rank": float(z.norm() / sigma[0]),
        "power_law_alpha": fit_power_law(eigenvalues.cpu().numpy()).alpha,
    }
