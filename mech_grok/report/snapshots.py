"""Which seed, and which few checkpoints, the maps of a page show: maps are too large for all of them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from numpy.typing import NDArray

from mech_grok.report.cells import Run

MOST = 13
"""Checkpoints of a map, at most."""

MOST_OF_A_PAGE = 4 * MOST
"""Checkpoints of a map, of all cells together: with more than four cells, each has fewer."""


def chosen_seed(run: Run, runs: Sequence[Run]) -> int:
    """The seed whose maps are shown: the first that all runs have and that diverged in none.

    Where there is none, the run's own first that did not diverge; its first, if all did.
    """
    own = _seeds(run)
    shared = [s for s in own if all(s in _seeds(other) and s not in other.diverged for other in runs)]
    sound = [s for s in own if s not in run.diverged]
    return (shared or sound or own)[0]


def _seeds(run: Run) -> list[int]:
    return [int(seed) for seed in run.metrics["seed"].values]


def snapshots(data: xr.Dataset, run: Run, runs: Sequence[Run], most: int | None = None) -> xr.Dataset:
    """A probe's data of all seeds, the chosen one first, at no more than `most` of its checkpoints.

    Args:
        most: None for as many as each of these runs may have.
    """
    most = most or max(1, min(MOST, MOST_OF_A_PAGE // len(runs)))
    kept = spread(training_position(runs, data["step"].values), most)
    seeds = data["seed"].values.tolist()
    first = seeds.index(chosen_seed(run, runs))
    return data.isel(seed=[first, *(i for i in range(len(seeds)) if i != first)], step=kept)


def training_position(runs: Sequence[Run], steps: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """How far training has come at each step: its share of the steps, plus the best test accuracy so far.

    Both go from 0 to 1 (the accuracy is a mean over seeds and runs, a diverged seed's being 0), so that what
    is evenly spread over their sum is half spread over time, half over generalisation. It is the same for
    all runs of a page, whose maps are then of the same steps.
    """
    share = steps / max(max(float(run.metrics["step"].values[-1]) for run in runs), 1.0)
    return share + np.mean([np.interp(steps, *_best_accuracy(run)) for run in runs], axis=0)


def _best_accuracy(run: Run) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    evaluated = run.metrics.isel(step=np.flatnonzero(run.metrics["evaluated"].values))
    mean = evaluated["test_accuracy"].fillna(0.0).mean("seed").values
    return evaluated["step"].values, np.maximum.accumulate(mean)


def spread(position: Float[np.ndarray, " n"], most: int) -> list[int]:
    """Indices of at most `most` of some ascending positions, evenly spread; the first and the last are kept.

    As long as there are too many, the one is dropped whose neighbours are closest to each other. If only one
    is kept, it is the last.
    """
    kept = list(range(len(position)))
    if most < 2:
        return kept[len(kept) - most :]
    while len(kept) > most:
        at = position[kept]
        del kept[1 + int(np.argmin(at[2:] - at[:-2]))]
    return kept
