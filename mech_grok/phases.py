"""When the phases of grokking begin, read off a whole trajectory.

Nanda et al. (arXiv 2301.05217) name three phases, memorisation, circuit formation and cleanup, and draw the
lines between them by eye. The rules here are this project's own.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from mech_grok.generalisation import generalisation_steps

_FALLEN = 0.5  # of the largest test loss


@dataclass(frozen=True)
class Phases:
    """Where the phases of one seed begin and end; None for what did not happen (censored).

    Attributes:
        memorised: first step with train accuracy >= 0.99; memorisation ends.
        circuit_formation: of the checkpoints from `memorised` to `generalised`, both counted, the one with
            the least excluded loss on the training pairs: after it, what is left without the key
            frequencies gets worse. None where one of the two steps is, no checkpoint between them has an
            excluded loss, or the checkpoint before or after is no worse: then nothing says that it turned.
        cleanup: first evaluated step from which on, until `generalised`, the test loss is below half of its
            largest value between `memorised` and there. None where one of the two is, or it never is.
        generalised: first evaluated step with test accuracy >= 0.995.
    """

    memorised: int | None
    circuit_formation: int | None
    cleanup: int | None
    generalised: int | None


def phases(metrics: xr.Dataset, progress: xr.Dataset | None = None) -> dict[int, Phases]:
    """The phases of every seed of a run.

    Args:
        metrics: train_accuracy, test_accuracy and test_loss, each (seed, step), with the boolean
            coordinate `evaluated` on step, as `run.metrics`.
        progress: excluded_loss (seed, step, split) with the checkpoints as steps, as
            `run.probe("progress")`; without it, no seed has a `circuit_formation`.
    """
    known = generalisation_steps(metrics)
    test_loss = metrics["test_loss"].isel(step=np.flatnonzero(metrics["evaluated"].values))
    excluded = None if progress is None else progress["excluded_loss"].sel(split="train")
    return {
        seed: Phases(
            memorised=memorised,
            circuit_formation=None
            if excluded is None
            else _lowest(excluded.sel(seed=seed), memorised, known.accuracy[seed]),
            cleanup=_lasting_fall(test_loss.sel(seed=seed), memorised, known.accuracy[seed]),
            generalised=known.accuracy[seed],
        )
        for seed, memorised in known.memorisation.items()
    }


def _lowest(curve: xr.DataArray, start: int | None, stop: int | None) -> int | None:
    """The step from `start` to `stop` with the least value of a curve (step), if it is higher beside it."""
    if start is None or stop is None:
        return None
    known = curve.dropna("step")
    steps, values = known["step"].values, known.values
    between = np.flatnonzero((steps >= start) & (steps <= stop))
    if not between.size:
        return None
    least = int(between[values[between].argmin()])
    turns = 0 < least < len(values) - 1 and values[least] < min(values[least - 1], values[least + 1])
    return int(steps[least]) if turns else None


def _lasting_fall(curve: xr.DataArray, start: int | None, stop: int | None) -> int | None:
    """The first step from which on a curve (step) is below half of its largest value from `start` to `stop`.

    Until `stop`; what is not finite does not count. A fall from a spike that does not last is none.
    """
    if start is None or stop is None:
        return None
    between = curve.sel(step=slice(start, stop))
    between = between.isel(step=np.flatnonzero(np.isfinite(between.values)))
    if not between.size:
        return None
    high = np.flatnonzero(between.values >= _FALLEN * between.values.max())
    after = between["step"].values[high[-1] + 1 :]
    return int(after[0]) if after.size else None
