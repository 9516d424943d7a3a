"""What a reader wants first: when each cell memorised and generalised, and where it ended."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mech_grok.generalisation import GeneralisationSteps, StepBySeed, generalisation_steps
from mech_grok.report.account import Measure, delay, measures
from mech_grok.report.cells import Cell, Run, identify
from mech_grok.report.forks import Fork, compute_forks
from mech_grok.report.style import template


@dataclass(frozen=True)
class Spread:
    """Mean, minimum and maximum over seeds; NaN where no seed has a value."""

    mean: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether a seed has a value; if not, all have diverged."""
        return bool(np.isfinite(self.mean))


@dataclass(frozen=True)
class Headline:
    """The summary of one cell.

    Attributes:
        steps: when it memorised and generalised, by every rule.
        final: metric name (`train_loss`, ...) -> its last value over the seeds.
        diverged: seed -> step at which it diverged.
        wall_seconds: what the run took, None where it was not recorded.
        measures: what its answers rest on at the last checkpoint.
        fork: where it was forked from, if it was and that run is there.
    """

    cell: Cell
    steps: GeneralisationSteps
    final: Mapping[str, Spread]
    diverged: Mapping[int, int]
    wall_seconds: float | None
    measures: tuple[Measure, ...] = ()
    fork: Fork | None = None

    def before_fork(self, rule: str) -> frozenset[int]:
        """The seeds that met a rule (`accuracy`, `loss`, `memorisation`) before they were forked."""
        met: StepBySeed = getattr(self.fork.at_fork, rule) if self.fork else {}
        return frozenset(seed for seed, step in met.items() if step is not None)

    @property
    def published_before_fork(self) -> bool:
        """Whether the parent's mean curve met the published rule before the fork."""
        return self.fork is not None and self.fork.at_fork.mean_accuracy is not None

    @property
    def verdict(self) -> str:
        """What came of the fork in words, else how long generalisation took beside memorisation."""
        return self.fork.verdict if self.fork else delay(self.steps)


FINAL_METRICS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


def compute_headline(runs: Sequence[Run]) -> tuple[Headline, ...]:
    """One Headline per run, in order."""
    forks = {fork.cell.index: fork for fork in compute_forks(runs)}
    pairs = zip(identify(runs), runs, strict=True)
    return tuple(_headline(cell, run, forks.get(cell.index)) for cell, run in pairs)


def _headline(cell: Cell, run: Run, fork: Fork | None) -> Headline:
    metrics = run.metrics.isel(step=np.flatnonzero(run.metrics["evaluated"].values)[-1:])
    wall = run.environment.get("wall_seconds")
    return Headline(
        cell=cell,
        steps=generalisation_steps(run.metrics),
        final={name: _spread(metrics[name].values) for name in FINAL_METRICS},
        diverged=dict(run.diverged),
        wall_seconds=None if wall is None else float(wall),
        measures=measures(run),
        fork=fork,
    )


def _spread(values: np.ndarray) -> Spread:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Spread(np.nan, np.nan, np.nan)
    return Spread(float(finite.mean()), float(finite.min()), float(finite.max()))


@dataclass(frozen=True)
class StepSummary:
    """A milestone over seeds, in words; an empty string where there is nothing to say.

    Attributes:
        mean: over the seeds that reached it.
        extent: from the first of them to the last.
        reached: how many they are.
        censored: by which step the others did not.
        missing: how many these are.
        before: that seeds had reached it before they were forked.
    """

    mean: str = ""
    extent: str = ""
    reached: str = ""
    censored: str = ""
    missing: str = ""
    before: str = ""


def step_summary(steps: StepBySeed, last_step: int, earlier: Collection[int] = ()) -> StepSummary:
    """Such as `954`, `900 to 1,010`, `4 seeds`, `not by step 1,500`, `1 of 5 seeds`.

    Args:
        earlier: seeds that had reached it before they were forked, whose steps say nothing.
    """
    before = _before_fork(len(set(earlier) & set(steps)), len(steps))
    return replace(_own_steps({s: n for s, n in steps.items() if s not in earlier}, last_step), before=before)


def _before_fork(n: int, of: int) -> str:
    if not n:
        return ""
    return "before the fork" if n == of else f"{n} of {_seeds(of)} before the fork"


def _own_steps(steps: StepBySeed, last_step: int) -> StepSummary:
    reached = [s for s in steps.values() if s is not None]
    never = len(steps) - len(reached)
    censored = f"not by step {last_step:,}" if never else ""
    missing = f"{never} of {_seeds(len(steps))}" if never else ""
    if not reached:
        return StepSummary(censored=censored, missing=missing)
    low, high = min(reached), max(reached)
    extent = f"{low:,} to {high:,}" if low < high else ""
    mean = f"{round(sum(reached) / len(reached)):,}"
    return StepSummary(mean, extent, _seeds(len(reached)), censored, missing)


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


# Name of a milestone, its field in GeneralisationSteps, its marker.
_MILESTONES = (
    ("memorised: train accuracy ≥ 0.99", "memorisation", "circle-open"),
    ("generalised: test accuracy ≥ 0.995", "accuracy", "circle"),
    ("generalised: test loss ≤ 0.01", "loss", "diamond"),
)


def draw_milestones(headlines: Sequence[Headline]) -> go.Figure:
    """One row per cell, one marker per seed and milestone, and one where it was forked.

    What a seed never reached, or had reached before the fork, has no marker. The layout's `meta.rows` has the
    cell of each row, for the page to shade its phases there.
    """
    figure = go.Figure(layout={"template": template()})
    for name, field, symbol in _MILESTONES:
        for h in headlines:
            own = {s: n for s, n in getattr(h.steps, field).items() if s not in h.before_fork(field)}
            figure.add_trace(_milestone(h, name, own, symbol))
    forks = [(h, h.fork.futures.fork) for h in headlines if h.fork]
    figure.add_traces([_milestone(h, "forked", {"all": step}, "line-ns") for h, step in forks])
    last = max((h.steps.last_step for h in headlines), default=1)
    figure.update_xaxes(
        title_text="step",
        tickformat=",",
        tickangle=0,
        range=[-0.02 * last, 1.03 * last],
        showgrid=True,
        nticks=6,
    )
    figure.update_yaxes(range=[len(headlines) - 0.5, -0.5], showgrid=False, type="category")
    figure.update_yaxes(categoryarray=[h.cell.label for h in headlines], tickfont_size=13)
    figure.update_layout(height=64 + 38 * len(headlines), showlegend=False)
    figure.update_layout(meta={"rows": [h.cell.index for h in headlines]})
    return figure


def _milestone(h: Headline, name: str, steps: Mapping[Any, int | None], symbol: str) -> go.Scatter:
    reached = {seed: step for seed, step in steps.items() if step is not None}
    return go.Scatter(
        x=list(reached.values()),
        y=[h.cell.label] * len(reached),
        customdata=list(reached),
        mode="markers",
        name=name,
        marker={
            "symbol": symbol,
            "size": 11,
            "color": h.cell.colour,
            "opacity": 0.85,
            "line": {"width": 1.6, "color": h.cell.colour},
        },
        hovertemplate=f"<b>{h.cell.label}</b>, seed %{{customdata}}<br>{name}<br>step %{{x:,}}"
        "<extra></extra>",
        meta={"cell": h.cell.index, "seed": "all", "milestone": name},
    )
