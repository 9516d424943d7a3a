"""What is read off a whole trajectory: when the phases of grokking begin, and when a curve gets somewhere.

Nanda et al. (arXiv 2301.05217) name three phases, memorisation, circuit formation and cleanup, and draw the
lines between them by eye. The rules here are this project's own.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from mech_grok.generalisation import StepBySeed, first_met, generalisation_steps

_FALLEN = 0.5  # of the largest test loss so far
_NEAR_MINIMUM = 0.1  # of the least value


@dataclass(frozen=True)
class Phases:
    """Where the phases of one seed begin and end; None for what did not happen (censored).

    Attributes:
        memorised: first step with train accuracy >= 0.99; memorisation ends.
        circuit_formation: of the checkpoints from `memorised` to `generalised`, both counted, the one with
            the least excluded loss on the training pairs: after it, what is left without the key
            frequencies gets worse. If that loss only falls, it is the last of them. None where one of the
            two steps is, or no checkpoint between them has an excluded loss.
        cleanup: first evaluated step, from `memorised` on, whose test loss is below half of the largest
            since then. None where that one is.
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
            cleanup=_first_fall(test_loss.sel(seed=seed), memorised),
            generalised=known.accuracy[seed],
        )
        for seed, memorised in known.memorisation.items()
    }


def onset(curve: xr.DataArray) -> StepBySeed:
    """Per seed, the first step at which a curve (seed, step) is within 10% of its least value.

    That is at most 1.1 times the least value of the whole trajectory, if it is positive. For the effective
    rank it is the "onset of compressibility" of arXiv 2602.06702; give the curve without the untrained model
    then, whose effective rank is the lowest of all. None for a seed without values;
    those that are not finite do not count.
    """
    finite = curve.where(np.isfinite(curve))
    least = finite.fillna(np.inf).min("step") if finite.sizes["step"] else np.inf
    return _per_seed(finite <= least + _NEAR_MINIMUM * abs(least))


def first_reaching(curve: xr.DataArray, threshold: float) -> StepBySeed:
    """Per seed, the first step at which a curve (seed, step) is at or above a threshold; None without one."""
    return _per_seed(curve >= threshold)


def _lowest(curve: xr.DataArray, start: int | None, stop: int | None) -> int | None:
    """The first step from `start` to `stop` with the least value of a curve (step)."""
    if start is None or stop is None:
        return None
    between = curve.sel(step=slice(start, stop)).dropna("step")
    return int(between["step"].values[between.values.argmin()]) if between.size else None


def _first_fall(curve: xr.DataArray, start: int | None) -> int | None:
    """The first step at which a curve (step) is below half of its largest value since `start`, if finite."""
    if start is None:
        return None
    curve = curve.sel(step=slice(start, None))
    finite = curve.where(np.isfinite(curve))
    return first_met(finite < _FALLEN * np.fmax.accumulate(finite.values))


def _per_seed(met: xr.DataArray) -> dict[int, int | None]:
    return {int(seed): first_met(met.sel(seed=seed)) for seed in met["seed"].values}
