"""The numbers under a figure, short enough to read: what a reader who cannot see the figure gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mech_grok.report.checkpoints import StepArray
from mech_grok.report.headline import Headline
from mech_grok.report.lines import Curve, Lines, over_seeds
from mech_grok.report.thinning import in_table


@dataclass(frozen=True)
class Table:
    """Cells of HTML, nothing of it from a name; `note` says what was chosen and over what it is a mean."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def number(value: float | np.floating) -> str:
    """Three significant digits in HTML, or a dash where there is no value."""
    if not np.isfinite(value):
        return "&ndash;"
    digits = f"{value:.3g}"
    return digits.replace("-", "&minus;") if "e" not in digits else _scientific(digits)


def _scientific(digits: str) -> str:
    mantissa, _, exponent = digits.partition("e")
    return f"{mantissa} &times; 10<sup>{int(exponent)}</sup>".replace("-", "&minus;")


def table_of_lines(panels: Sequence[Lines]) -> Table:
    """One row per curve, one column per chosen step: mean over seeds, with their minimum and maximum."""
    picks = picked([c.steps for p in panels for c in p.curves])
    rows = tuple((*_names(p, c), *_at_steps(c, picks)) for p in panels for c in p.curves)
    header = ("panel", "cell", "split", *(f"step {s:,}" for s in picks))
    note = "Mean over seeds [minimum, maximum], at a few of the steps, or at the last drawn one before."
    return Table(header, rows, note)


def picked(steps: Sequence[np.ndarray]) -> np.ndarray:
    """A few steps for the columns of a table: evenly spaced ones of the longest of several lists of steps."""
    longest = max(steps, key=lambda one: (one[-1], len(one)) if len(one) else (-1, 0))
    return longest[in_table(longest)]


def _names(panel: Lines, c: Curve) -> tuple[str, str, str]:
    split = f"{c.split} (dotted)" if c.reference else c.split
    return panel.title, c.cell.label, f"{c.quantity}, {split}" if c.quantity else split


def _at_steps(c: Curve, picks: np.ndarray) -> list[str]:
    mean, low, high = over_seeds(c.values)
    cells = []
    for pick in picks:
        at = np.searchsorted(c.steps, pick, side="right") - 1
        covered = at >= 0 and pick <= c.steps[-1]
        cells.append(_spread(*(float(x[at]) for x in (mean, low, high))) if covered else "&ndash;")
    return cells


def _spread(mean: float, low: float, high: float) -> str:
    return number(mean) if not low < high else f"{number(mean)} [{number(low)}, {number(high)}]"


def table_of_patterns(arrays: Sequence[StepArray]) -> Table:
    """One row per head and query at the last checkpoint, one column per key."""
    rows = [
        (
            a.cell.label,
            f"L{layer}H{head}",
            str(a.coords[2][query]),
            *map(number, a.mean[-1, layer, head, query]),
        )
        for a in arrays
        for layer, head, query in np.ndindex(a.values.shape[2:5])
    ]
    header = ("cell", "head", "query", *(f"key {k}" for k in arrays[0].coords[3]))
    return Table(header, tuple(rows), "Mean over pairs and seeds, last checkpoint.")


def table_of_milestones(headlines: Sequence[Headline]) -> Table:
    """One row per cell and seed: the step of each milestone."""
    rows = [
        (h.cell.label, str(seed), *(_milestone(h, rule, seed) for rule in _RULES))
        for h in headlines
        for seed in h.steps.accuracy
    ]
    header = ("cell", "seed", "train accuracy ≥ 0.99", "test accuracy ≥ 0.995", "test loss ≤ 0.01")
    return Table(
        header,
        tuple(rows),
        "First step, of the evaluated ones for the test set; a dash where the run ended before.",
    )


_RULES = ("memorisation", "accuracy", "loss")


def _milestone(h: Headline, rule: str, seed: int) -> str:
    if seed in h.before_fork(rule):
        return "before the fork"
    step = getattr(h.steps, rule)[seed]
    return "&ndash;" if step is None else f"{step:,}"
