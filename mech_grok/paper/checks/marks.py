"""What the claims look for in a curve: its level, when something first happens on it, how often it falls."""

from statistics import median

import numpy as np
import xarray as xr

from mech_grok import structure
from mech_grok.generalisation import TEST_ACCURACY
from mech_grok.paper.measures import MEASURES, Measure, last_step, trained, whole

SLINGSHOT = 0.1
"""A network that had generalised slings when its test accuracy falls by more than this."""


def typical(curve: xr.DataArray) -> float | None:
    """The median, over the steps of a trained model, of the mean over seeds: spikes do not count."""
    values = list(trained(curve).values())
    return median(values) if values else None


def late(curve: xr.DataArray) -> float | None:
    """The same over the last tenth of the steps."""
    last = last_step(curve)
    values = [mean for step, mean in trained(curve).items() if step >= 0.9 * last]
    return median(values) if values else None


def concentrated_step(c_fourier: xr.DataArray) -> int | None:
    """First step at which C_Fourier's mean over seeds is at least 0.5."""
    return structure.concentrated_step(whole(c_fourier).mean("seed"))


def halved_step(curve: xr.DataArray) -> int | None:
    """First step at which the mean over seeds is at most half of its highest until then."""
    return structure.halved_step(whole(curve).mean("seed"))


def change_before(curve: xr.DataArray, step: float) -> float | None:
    """By which share of its highest value the mean varies until a step; None with fewer than three values."""
    values = [mean for at, mean in trained(curve).items() if at <= step]
    return (max(values) - min(values)) / max(values) if len(values) >= 3 else None


def slingshots(accuracy: xr.DataArray) -> float:
    """How often a seed's test accuracy falls by more than 0.1 after having reached 0.995: mean over seeds.

    The next fall is counted once the accuracy (seed, step) has reached 0.995 again.
    """
    return float(np.mean([_falls(one.dropna("step").values) for one in accuracy.transpose("seed", "step")]))


def _falls(accuracy: np.ndarray) -> int:
    is_high, count = False, 0
    for value in accuracy:
        if value >= TEST_ACCURACY:
            is_high = True
        elif is_high and value < TEST_ACCURACY - SLINGSHOT:
            is_high, count = False, count + 1
    return count


GENERALISED = MEASURES["generalisation_step"]
CONCENTRATED = Measure("c_fourier", concentrated_step, is_first_time=True)
COMPRESSED = Measure("effective_rank", halved_step, is_first_time=True)
LEARNED = Measure("test_loss", halved_step, is_first_time=True)
