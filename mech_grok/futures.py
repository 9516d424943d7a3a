"""The two futures of a network that was forked: what came of going on as it was, and of going on changed.

A fork begins with the weights that its parent had after `fork` updates and counts on from there, so that the
steps of both are comparable. The parent's curves run through the fork: its past, and the future that it had.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from mech_grok.generalisation import TEST_ACCURACY, GeneralisationSteps, StepBySeed, generalisation_steps

Outcome = Literal["before fork", "both", "child only", "parent only", "neither", "undecided"]
Kept = Literal["stays", "recovers", "falls short", "forgets"]

LAST_EVALUATIONS = 50  # whose median says where a run ended, so that one spike does not
FORGOTTEN = 0.9  # a child that ends below this test accuracy has forgotten what its parent knew


@dataclass(frozen=True)
class Comparison:
    """When parent and child of one seed generalised, by one rule.

    Attributes:
        parent: first evaluated step of the parent that meets the rule, before the fork or after; None if
            there is none up to its last step (censored).
        child: the child's, all of whose steps are after the fork.
        fork: updates that both have done when they part.
        parent_last, child_last: the last step of each; what is later is not known.
    """

    parent: int | None
    child: int | None
    fork: int
    parent_last: int
    child_last: int

    @property
    def before_fork(self) -> bool:
        """Whether the parent had generalised already, so that the child cannot be the earlier one."""
        return self.parent is not None and self.parent <= self.fork

    @property
    def earlier(self) -> int | None:
        """By how many steps the child came first; negative if it came last, None without both steps."""
        if self.parent is None or self.child is None or self.before_fork:
            return None
        return self.parent - self.child

    @property
    def outcome(self) -> Outcome:
        """Which of the two generalised; undecided where one ends before the other gets there."""
        if self.before_fork:
            return "before fork"
        if self.parent is None and self.child is None:
            return "neither"
        if self.parent is not None and self.child is not None:
            return "both"
        if self.parent is None:
            return "child only" if (self.child or 0) <= self.parent_last else "undecided"
        return "parent only" if self.parent <= self.child_last else "undecided"


@dataclass(frozen=True)
class Lapses:
    """How often and how far the test accuracy of one seed is below 0.995 after a fork.

    Where the seed has diverged it is below, and counts for `share` but not for `lowest`.

    Attributes:
        lowest: the least finite test accuracy at the evaluated steps; NaN if there is none.
        first: the first evaluated step below; None if there is none.
        share: how many of the evaluated steps are below, from 0 to 1; NaN without evaluated steps.
        until: the last evaluated step; the fork if there is none after it.
    """

    lowest: float
    first: int | None
    share: float
    until: int


@dataclass(frozen=True)
class Retention:
    """What became of test accuracy in the child of a network that had generalised, and in its parent.

    Some networks have spikes: they fall for a few steps now and then, without having been changed. So the
    parent is there for comparison, and no single step decides how a child ended.

    Attributes:
        child: after the fork.
        parent: at its own evaluated steps after the fork, up to the child's last one.
        last: median of the child's last `LAST_EVALUATIONS` test accuracies, or of all that it has; NaN if
            the seed has diverged.
    """

    child: Lapses
    parent: Lapses
    last: float

    @property
    def outcome(self) -> Kept:
        """Whether it never falls; if it does, whether it is back at the end, nearly so, or not."""
        if self.child.first is None:
            return "stays"
        if self.last >= TEST_ACCURACY:
            return "recovers"
        return "falls short" if self.last >= FORGOTTEN else "forgets"  # NaN forgets


@dataclass(frozen=True)
class Futures:
    """Parent and child of one fork, seed by seed.

    Attributes:
        fork: the step at which they part.
        accuracy: seed -> comparison by test accuracy >= 0.995.
        loss: seed -> comparison by test loss <= 0.01 nats.
        retention: seed -> what the child kept; only for seeds whose parent had generalised before the fork,
            by the rule on accuracy.
    """

    fork: int
    accuracy: Mapping[int, Comparison]
    loss: Mapping[int, Comparison]
    retention: Mapping[int, Retention]


def compare_futures(parent: xr.Dataset, child: xr.Dataset, fork: int) -> Futures:
    """Compare a run's future with that of its fork.

    Args:
        parent, child: their metrics (seed, step), with the boolean coordinate `evaluated` on step.
        fork: updates that the parent had done when the child began with its weights.

    Raises:
        ValueError: a seed of the child is none of the parent's, or the child has a step that is not after
            the fork.
    """
    _check_fork(parent, child, fork)
    before, after = generalisation_steps(parent), generalisation_steps(child)

    def compared(theirs: StepBySeed, ours: StepBySeed) -> dict[int, Comparison]:
        ends = before.last_step, after.last_step
        return {seed: Comparison(theirs[seed], step, fork, *ends) for seed, step in ours.items()}

    accuracy = compared(before.accuracy, after.accuracy)
    theirs, ours = (_evaluated(metrics)["test_accuracy"] for metrics in (parent, child))
    return Futures(
        fork=fork,
        accuracy=accuracy,
        loss=compared(before.loss, after.loss),
        retention={
            seed: _retention(theirs.sel(seed=seed), ours.sel(seed=seed), fork)
            for seed, comparison in accuracy.items()
            if comparison.before_fork
        },
    )


def steps_at_fork(parent: xr.Dataset, fork: int) -> GeneralisationSteps:
    """What a parent (its metrics, as for `compare_futures`) had reached when its child began."""
    return generalisation_steps(parent.sel(step=slice(None, fork)))


def _check_fork(parent: xr.Dataset, child: xr.Dataset, fork: int) -> None:
    theirs, ours = parent["seed"].values.tolist(), child["seed"].values.tolist()
    unknown = sorted(set(ours) - set(theirs))
    if unknown:
        raise ValueError(f"the child's seeds {unknown} are none of its parent's; allowed: {theirs}")
    if child.sizes["step"] and int(child["step"].values[0]) <= fork:
        first = int(child["step"].values[0])
        raise ValueError(
            f"the child has a step {first}, before it was forked at {fork}; allowed: {fork + 1} on"
        )


def _evaluated(metrics: xr.Dataset) -> xr.Dataset:
    return metrics.isel(step=np.flatnonzero(metrics["evaluated"].values))


def _retention(parent: xr.DataArray, child: xr.DataArray, fork: int) -> Retention:
    """Of the test accuracies (step) of one seed at the evaluated steps of its parent and of itself."""
    ours = _lapses(child, fork)
    recent = child.values[-LAST_EVALUATIONS:].astype(float)
    return Retention(
        child=ours,
        parent=_lapses(parent.sel(step=slice(fork + 1, ours.until)), fork),
        last=float(np.median(recent)) if recent.size else np.nan,
    )


def _lapses(accuracy: xr.DataArray, fork: int) -> Lapses:
    """Of the test accuracy (step) of one seed at evaluated steps after the fork."""
    values, steps = accuracy.values.astype(float), accuracy["step"].values
    if not values.size:
        return Lapses(np.nan, None, np.nan, fork)
    below = ~(values >= TEST_ACCURACY)  # NaN is below
    finite = values[np.isfinite(values)]
    return Lapses(
        lowest=float(finite.min()) if finite.size else np.nan,
        first=int(steps[below][0]) if below.any() else None,
        share=float(below.mean()),
        until=int(steps[-1]),
    )
