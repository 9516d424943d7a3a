"""Curves of the paper's cells whose verdicts are known."""

import numpy as np
import xarray as xr

from mech_grok.paper.cells import FOUR, placed, weight_decays
from mech_grok.paper.measures import Measured

NEVER = 99_999
TESTED = np.arange(50, 10_001, 50)
CHECKED = np.arange(0, 10_001, 200)
DECAYS = [cell.name for cell in weight_decays()]
M, BOTH, A, OFF = (cell.name for cell in placed(FOUR))


def curve(steps, *values) -> xr.DataArray:
    """One row of values for each seed; a number stands for a flat row."""
    rows = [np.broadcast_to(np.asarray(row, float), len(steps)) for row in values]
    return xr.DataArray(
        np.stack(rows), {"seed": [456, 789, 111][: len(rows)], "step": steps}, ("seed", "step")
    )


def accuracy(*generalised: int, last: int = 10_000) -> xr.DataArray:
    """Seeds that have half of the test pairs right, and all of them from a step on."""
    steps = TESTED[: last // 50]
    return curve(steps, *[np.where(steps >= g, 1.0, 0.5) for g in generalised])


def stepped(before: float, after: float, at: int, last: int = 10_000) -> xr.DataArray:
    """A quantity of one seed at its checkpoints that goes from one level to another."""
    steps = CHECKED[: last // 200 + 1]
    return curve(steps, np.where(steps < at, before, after))


def generalise_at(**steps: int | tuple[int, ...]) -> Measured:
    return {
        (cell, "test_accuracy"): accuracy(*(at if isinstance(at, tuple) else (at,)))
        for cell, at in steps.items()
    }


def four(m: int, both: int, a: int, off: int) -> Measured:
    """The four placements."""
    return generalise_at(**dict(zip((M, BOTH, A, OFF), (m, both, a, off), strict=True)))
