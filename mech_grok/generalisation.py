"""When a run memorised and when it generalised: one definition of each, for every report and table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

TEST_ACCURACY = 0.995  # the published rule's threshold (arXiv 2602.06702)
TEST_LOSS = 0.01  # nats
TRAIN_ACCURACY = 0.99

StepBySeed = Mapping[int, int | None]


@dataclass(frozen=True)
class GeneralisationSteps:
    """First evaluated steps at which a run meets each rule; None where it never does (censored).

    Attributes:
        accuracy: per seed, test accuracy >= 0.995.
        loss: per seed, test loss <= 0.01 nats.
        memorisation: per seed, train accuracy >= 0.99, of all steps.
        mean_accuracy: the published rule: test accuracy averaged over seeds >= 0.995.
        first_perfect: the first step at which any seed has a test accuracy of exactly 1.
        last_step: the last step of the run.
    """

    accuracy: StepBySeed
    loss: StepBySeed
    memorisation: StepBySeed
    mean_accuracy: int | None
    first_perfect: int | None
    last_step: int


def generalisation_steps(metrics: xr.Dataset) -> GeneralisationSteps:
    """The steps at which a run memorised and generalised.

    Test metrics count at evaluated steps only. A diverged seed has no right answers: it pulls the mean over
    seeds down, so such a run is censored by the published rule from then on.

    Args:
        metrics: train_accuracy, test_accuracy and test_loss, each (seed, step), with the boolean
            coordinate `evaluated` on step.
    """
    evaluated = metrics.isel(step=np.flatnonzero(metrics["evaluated"].values))
    accuracy = evaluated["test_accuracy"]
    return GeneralisationSteps(
        accuracy=_per_seed(accuracy, lambda x: x >= TEST_ACCURACY),
        loss=_per_seed(evaluated["test_loss"], lambda x: x <= TEST_LOSS),
        memorisation=_per_seed(metrics["train_accuracy"], lambda x: x >= TRAIN_ACCURACY),
        mean_accuracy=first_met(accuracy.mean("seed", skipna=False) >= TEST_ACCURACY),
        first_perfect=first_met((accuracy == 1).any("seed")),
        last_step=int(metrics["step"].values[-1]) if metrics.sizes["step"] else 0,
    )


def _per_seed(curve: xr.DataArray, rule: Callable[[xr.DataArray], xr.DataArray]) -> dict[int, int | None]:
    return {int(seed): first_met(rule(curve.sel(seed=seed))) for seed in curve["seed"].values}


@dataclass(frozen=True)
class Happened:
    """When something first happened, as far as that is known: it is looked for at some of the steps only.

    Attributes:
        after: the last step at which it was looked for and had not happened; 0, before training, if there is
            none.
        by: the step at which it was first found; None if it was not (censored).
    """

    after: int
    by: int | None


def happened(curve: xr.DataArray, by: int | None) -> Happened:
    """When something happened that was looked for wherever a curve (step) has a finite value.

    Args:
        by: the step at which it was found; None if it was not.
    """
    steps = curve["step"].values[np.isfinite(curve.values)]
    before = steps if by is None else steps[steps < by]
    return Happened(int(before[-1]) if before.size else 0, by)


def first_met(met: xr.DataArray) -> int | None:
    """The first step at which a condition (step) is met, or None."""
    where = np.flatnonzero(met.values)
    return int(met["step"].values[where[0]]) if where.size else None
