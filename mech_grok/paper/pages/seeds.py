"""What happened when to each seed by itself."""

import xarray as xr

from mech_grok.generalisation import StepBySeed
from mech_grok.paper.measures import Measure


def step_by_seed(curve: xr.DataArray, event: Measure) -> StepBySeed:
    """Seed -> the step at which something first happens on its curve alone; None if it does not.

    Args:
        curve: (seed, step); each seed counts at the steps at which it has a value, and is left out if it has
            none.
        event: a measure of a first time.
    """
    known = [one for one in curve.transpose("seed", "step") if one.notnull().any()]
    found = {int(one["seed"]): event.of(one.expand_dims("seed")) for one in known}
    return {seed: None if step is None else int(step) for seed, step in found.items()}
