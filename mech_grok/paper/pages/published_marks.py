"""Published values on top of our curves: diamonds filled white, in the colour of their cell."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from mech_grok.paper.measures import MEASURES
from mech_grok.paper.pages.quantities import QUANTITIES
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.paper.published import Curve, Published, PublishedNumbers
from mech_grok.report.cells import Cell

SIZE = 8.5
"""Of a diamond, in pixels."""


@dataclass(frozen=True)
class Marks:
    """Published values of one cell on one curve.

    Attributes:
        curve: its name in `curves.CURVES`.
        what: what they are, in words.
        steps: [value]; None if it holds for no step of its own, as a peak whose step is not known.
        low, high: [value], least and largest of the seeds; None if they were not published.
    """

    cell: Cell
    curve: str
    what: str
    steps: tuple[int, ...] | None
    values: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


def marks_on(curve: str, group: ShownGroup, values: Published) -> list[Marks]:
    """The published values that belong on a curve of a group's cells; the same ones once."""
    return list(dict.fromkeys((*_series(curve, group, values), *_numbers(curve, group, values))))


def _series(curve: str, group: ShownGroup, values: Published) -> Iterator[Marks]:
    for series in values.series:
        for cell in group.drawn if series.quantity == curve else ():
            if cell.name in series.cells:
                yield _of_curve(cell, curve, series.steps, series.cells[cell.name])


def _of_curve(cell: Cell, name: str, steps: tuple[int, ...], curve: Curve) -> Marks:
    return Marks(cell, name, "mean", steps, curve.mean, curve.low, curve.high)


def _numbers(curve: str, group: ShownGroup, values: Published) -> Iterator[Marks]:
    """Single numbers at their heights: those at the end, and those that a second number gives the step of."""
    for numbers in values.numbers:
        measure = MEASURES[numbers.quantity]
        if measure.curve != curve or measure.is_first_time or numbers.quantity.endswith("_step"):
            continue
        for cell in group.drawn:
            height = numbers.cells.get(cell.name)
            if height is not None:
                step = _step_of(numbers, cell.name, values)
                yield Marks(
                    cell,
                    curve,
                    numbers.quantity.replace("_", " "),
                    None if step is None else (step,),
                    (height,),
                )


def _step_of(numbers: PublishedNumbers, cell: str, values: Published) -> int | None:
    if numbers.quantity.endswith("_at_end"):
        return values.steps
    steps = [n.cells.get(cell) for n in values.numbers if n.quantity == f"{numbers.quantity}_step"]
    return next((int(step) for step in steps if step is not None), None)


def extent(marks: Sequence[Marks]) -> list[float]:
    """Every height that is drawn."""
    return [x for m in marks for x in (*m.values, *(m.low or ()), *(m.high or ()))]


def draw_marks(marks: Marks, last: int) -> go.Scatter:
    """The trace of some marks: with bars from least to largest, or as a level up to the last step."""
    steps = marks.steps or (0, last)
    heights = marks.values if marks.steps else marks.values * 2
    split = QUANTITIES[marks.curve].split
    has_band = marks.low is not None and marks.high is not None
    spread = "<br>%{customdata[0]:.4g} to %{customdata[1]:.4g} over seeds" if has_band else ""
    return go.Scatter(
        x=list(steps),
        y=list(heights),
        customdata=list(zip(marks.low, marks.high, strict=True)) if marks.low and marks.high else None,
        error_y=_bars(marks) if has_band else None,
        mode="markers" if marks.steps else "lines+markers",
        line={"color": marks.cell.colour, "width": 1.2, "dash": "5px,3px,1px,3px"},
        marker={
            "symbol": "diamond",
            "size": SIZE,
            "color": "#ffffff",
            "line": {"color": marks.cell.colour, "width": 1.8},
        },
        cliponaxis=False,
        showlegend=False,
        name=f"{marks.cell.label} published",
        hovertemplate=f"<b>{marks.cell.label}</b>, published {marks.what}"
        f"{'<br>step %{x:,}' if marks.steps else ''}<br>%{{y:.4g}}{spread}<extra></extra>",
        meta={
            "cell": marks.cell.index,
            "split": split,
            "seed": "published",
            "reference": False,
            "quantity": marks.curve if marks.what == "mean" else f"{marks.curve}: {marks.what}",
        },
    )


def _bars(marks: Marks) -> dict[str, object]:
    low, high = marks.low or (), marks.high or ()
    return {
        "type": "data",
        "symmetric": False,
        "array": [top - mean for top, mean in zip(high, marks.values, strict=True)],
        "arrayminus": [mean - bottom for bottom, mean in zip(low, marks.values, strict=True)],
        "color": marks.cell.colour,
        "thickness": 1.3,
        "width": 3,
    }
