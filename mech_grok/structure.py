"""When structure has appeared in a network: the rules, for the curve of one seed or of a mean over seeds.

They look at trained models only: the checkpoint at step 0 is left out. Values that are not finite do not
count. The rules are this project's own.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from mech_grok.generalisation import StepBySeed, first_met

Rule = Callable[[xr.DataArray], int | None]
"""From a curve (step) to the step at which something has happened; None where it has not (censored)."""

CONCENTRATION = 0.5
"""C_Fourier from which an embedding counts as concentrated: untrained ones have 0.01, and the published means
of all four placements pass it."""


def concentrated_step(c_fourier: xr.DataArray) -> int | None:
    """The first step of a trained model at which C_Fourier (step) is at least 0.5."""
    return first_met(_trained(c_fourier) >= CONCENTRATION)


def halved_step(curve: xr.DataArray) -> int | None:
    """The first step of a trained model at which a curve (step) is at most half of its highest until then.

    Of the effective rank, the onset of compressibility: an untrained model has the lowest rank of all.
    """
    trained = _trained(curve)
    return first_met(trained <= np.fmax.accumulate(trained.values) / 2)


def by_seed(curve: xr.DataArray, rule: Rule) -> StepBySeed:
    """What a rule finds on each seed's own curve (seed, step); seeds without any value are left out."""
    known = [one for one in curve.transpose("seed", "step") if np.isfinite(one).any()]
    return {int(one["seed"]): rule(one) for one in known}


def _trained(curve: xr.DataArray) -> xr.DataArray:
    """Of a curve (step), the finite values of a trained model; NaN for others."""
    curve = curve.isel(step=np.flatnonzero(curve["step"].values > 0))
    return curve.where(np.isfinite(curve))
