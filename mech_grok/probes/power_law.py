"""The exponent of a power-law tail, as Clauset, Shalizi and Newman (arXiv 0706.1062) fit it."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class PowerLaw(NamedTuple):
    """The density `x^-alpha` on `x >= xmin` that comes closest to a sample.

    Attributes:
        alpha: the exponent, above 1.
        xmin: where the tail begins, one of the values.
        tail: how many values are in it.
        distance: Kolmogorov-Smirnov distance between the tail and the fit.
    """

    alpha: float
    xmin: float
    tail: int
    distance: float


NO_FIT = PowerLaw(math.nan, math.nan, 0, math.nan)


def fit_power_law(x: Float[np.ndarray, " n"]) -> PowerLaw:
    """Maximum-likelihood exponent above the xmin whose tail is nearest to its fit; the first of equals.

    Every value but the largest is tried as xmin: `alpha = 1 + m / sum_i ln(x_i / xmin)` over the m values
    from xmin on, and the distance is the largest of `|1 - (x_i / xmin)^(1 - alpha) - F(x_i)|` with F(x) the
    share of the tail below x. Values that are not positive are left out. `alpha` and `xmin` are nan where
    fewer than two different values remain.

    Version 1.5 of the package `powerlaw` computes the same. Version 2 caps alpha at 3 unless told otherwise,
    and the eigenvalues of random matrices are far above it.
    """
    values = np.sort(x[x > 0].astype(np.float64))
    if not np.isfinite(values).all():
        return NO_FIT
    candidates, first = np.unique(values, return_index=True)
    if len(candidates) < 2:
        return NO_FIT
    candidates, first = candidates[:-1], first[:-1]
    tail = len(values) - first
    in_tail = np.arange(len(values)) >= first[:, None]
    log_ratios = np.where(in_tail, np.log(values / candidates[:, None]), 0.0)
    sums = log_ratios.sum(1)
    # Neighbouring floats can have a ratio that rounds to 1.
    alphas = 1 + np.divide(tail, sums, out=np.full(len(sums), np.inf), where=sums > 0)
    with np.errstate(invalid="ignore"):
        fitted = -np.expm1((1 - alphas[:, None]) * log_ratios)
    below = (np.searchsorted(values, values) - first[:, None]) / tail[:, None]
    distances = np.where(in_tail, np.abs(fitted - below), 0.0).max(1)
    best = int(np.nanargmin(np.where(sums > 0, distances, np.inf)))
    if not sums[best] > 0:
        return NO_FIT
    return PowerLaw(float(alphas[best]), float(candidates[best]), int(tail[best]), float(distances[best]))
