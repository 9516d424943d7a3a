"""The curves of a figure: our mean, band and seeds, one panel a group, and the published values on top."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from mech_grok.paper.measures import Measured
from mech_grok.paper.pages.milestones import generalised_steps
from mech_grok.paper.pages.published_marks import Marks, draw_marks, extent, marks_on
from mech_grok.paper.pages.quantities import QUANTITIES
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.paper.pages.wording import lowered
from mech_grok.paper.published import Published, published
from mech_grok.report.curves import LOG_3
from mech_grok.report.lines import MOST_POINTS, Curve, Lines, curve, draw_lines, thinning_note
from mech_grok.report.section import BAND, Figure, Panel
from mech_grok.report.style import MUTED
from mech_grok.report.tables import Table, number, table_of_lines

_LOSSES = ("test_loss", "train_loss")
_LEVELS = {"attention_entropy": (LOG_3,)}
_BASE_WIDTH = 3.4
"""Of the mean line of the base among cells that vary a number, in pixels; any other has 2."""
_MANY = 8
"""Cells in a panel; the bands of more would hide one another."""

Plot = tuple[str, ...]
"""The names of the curves that one panel shows: the two losses, or one of any other."""


@dataclass(frozen=True)
class CurvePanel:
    """A plot of a group's cells: what we measured, and what was published of it."""

    plot: Plot
    group: ShownGroup
    lines: Lines
    marks: tuple[Marks, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not (self.lines.curves or self.marks)


def curve_figures(
    curves: Sequence[str], groups: Sequence[ShownGroup], measured: Measured, values: Published
) -> list[Figure]:
    """A figure for each curve that has any value; of one group, loss and accuracy side by side.

    Args:
        curves: names of those that the figure draws.
    """
    plots = _plots(curves)
    beside = [plot for plot in plots if set(plot) & {*_LOSSES, "test_accuracy"}] if len(groups) == 1 else []
    figures = [beside, *([plot] for plot in plots if plot not in beside)]
    drawn = (_panels(plots, groups, measured, values) for plots in figures if plots)
    return [_figure(panels) for panels in drawn if not all(panel.is_empty for panel in panels)]


def _plots(curves: Sequence[str]) -> list[Plot]:
    losses = tuple(name for name in _LOSSES if name in curves)
    return [*([losses] if losses else []), *((name,) for name in curves if name not in _LOSSES)]


# ---- what a panel shows ---------------------------------------------------------------------------------


def _panels(
    plots: Sequence[Plot], groups: Sequence[ShownGroup], measured: Measured, values: Published
) -> list[CurvePanel]:
    panels = [_panel(plot, group, measured, values, len(groups)) for plot in plots for group in groups]
    return panels if len(groups) == 1 else _same_range(panels)


def _panel(plot: Plot, group: ShownGroup, measured: Measured, values: Published, groups: int) -> CurvePanel:
    first = QUANTITIES[plot[0]]
    most = MOST_POINTS if groups == 1 else MOST_POINTS // 2  # as many as a panel has pixels for
    lines = Lines(
        group.title or _title(plot),
        first.unit,
        tuple(_curves(plot, group, measured, most)),
        log=first.log,
        y_range=first.extent,
        levels=_LEVELS.get(plot[0], ()),
    )
    marks = tuple(mark for name in plot for mark in marks_on(name, group, values))
    return CurvePanel(plot, group, lines, marks)


def _title(plot: Plot) -> str:
    return QUANTITIES[plot[0]].title if len(plot) == 1 else "Loss"


def _curves(plot: Plot, group: ShownGroup, measured: Measured, most: int) -> Iterator[Curve]:
    for shown in group.cells:
        named = generalised_steps(shown.drawn, measured)
        for name in plot:
            data = measured.get((shown.cell.name, name))
            known = None if data is None else data.where(np.isfinite(data)).dropna("step", how="all")
            if known is not None and known.size:
                yield curve(shown.drawn, known, QUANTITIES[name].split, most=most, keep=named)


def _same_range(panels: Sequence[CurvePanel]) -> list[CurvePanel]:
    """The panels with one y range, unless their quantity has a range of its own."""
    log = panels[0].lines.log
    heights = [c.values[np.isfinite(c.values)].ravel() for p in panels for c in p.lines.curves]
    values = np.concatenate([*heights, *(np.array(extent(p.marks)) for p in panels)])
    values = np.log10(values[values > 0]) if log else values
    if panels[0].lines.y_range or not values.size:
        return list(panels)
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low or 1)
    return [replace(p, lines=replace(p.lines, y_range=(low - pad, high + pad))) for p in panels]


# ---- drawing --------------------------------------------------------------------------------------------


def _figure(panels: Sequence[CurvePanel]) -> Figure:
    plots = list(dict.fromkeys(panel.plot for panel in panels))
    several = len(panels) > 1
    first = panels[0].lines
    own_range = QUANTITIES[plots[0][0]].extent is not None
    return Figure(
        slug="-".join(plot[0] for plot in plots).replace("_", "-"),
        title=Markup(" and ".join([_title(plots[0]), *(lowered(_title(plot)) for plot in plots[1:])])),
        caption=_caption(panels),
        panels=tuple(Panel(_draw(panel), panel.lines.title if several else "") for panel in panels),
        table=_table(panels),
        width="large" if several else "single",
        key=_key(panels),
        scale="common" if several and len(plots) == 1 and not own_range else "log" if first.log else None,
    )


def _draw(panel: CurvePanel) -> go.Figure:
    """Lines, bands and seeds as in every report, the base heavier, the published values on top."""
    figure = draw_lines(panel.lines)
    figure.for_each_trace(partial(_refine, panel))
    last = _last(panel)
    figure.add_traces([draw_marks(marks, last) for marks in panel.marks])
    figure.update_xaxes(range=[-0.012 * last, 1.022 * last], rangemode="normal")
    if panel.is_empty:
        figure.add_annotation(
            text="not run", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_color=MUTED
        )
    return figure.update_layout(height=310)


def _refine(panel: CurvePanel, trace: Any) -> None:
    """Name a trace's quantity, for the CSV file; make the base heavier, and many bands fainter."""
    quantity = {QUANTITIES[name].split: name for name in panel.plot}
    bases = {shown.drawn.index for shown in panel.group.cells if shown.is_base}
    trace.meta = {**trace.meta, "quantity": quantity[trace.meta["split"]]}
    if trace.meta["seed"] == "mean" and trace.meta["cell"] in bases:
        trace.line.width = _BASE_WIDTH
    if trace.meta["seed"] == "band" and len(panel.group.cells) > _MANY:
        trace.opacity = 0.35


def _last(panel: CurvePanel) -> int:
    ours = [int(c.steps[-1]) for c in panel.lines.curves]
    return max(
        [*ours, *(step for marks in panel.marks for step in marks.steps or ())], default=published().steps
    )


def _key(panels: Sequence[CurvePanel]) -> tuple[str, ...]:
    splits = [QUANTITIES[name].split for name in panels[0].plot] if len(panels[0].plot) > 1 else []
    marks = [marks for panel in panels for marks in panel.marks]
    kinds = ("published-band" if m.low else "published" if m.steps else "published-level" for m in marks)
    return (*splits, *dict.fromkeys(kinds))


def _caption(panels: Sequence[CurvePanel]) -> str:
    said = [BAND] if any(panel.lines.curves for panel in panels) else ["Nothing of this has been run yet."]
    marks = [marks for panel in panels for marks in panel.marks]
    if any(m.low for m in marks):
        said.append("Diamonds with bars are published: mean, lowest and highest of the five published seeds.")
    elif marks:
        said.append("Diamonds are published.")
    if any(m.steps is None for m in marks):
        said.append("Broken lines with diamonds: published without a step.")
    if any(shown.is_base for panel in panels for shown in panel.group.cells):
        said.append("The heavy line is the base.")
    said.append(thinning_note(panel.lines for panel in panels))
    return " ".join(filter(None, said))


def _table(panels: Sequence[CurvePanel]) -> Table:
    measured = [panel.lines for panel in panels if panel.lines.curves]
    if measured:
        return table_of_lines(measured)
    marks = [(panel, marks) for panel in panels for marks in panel.marks]
    rows = [
        (m.cell.label, m.what, f"{step:,}" if m.steps else "&ndash;", number(value))
        for _, m in marks
        for step, value in zip(m.steps or (math.nan,), m.values, strict=True)
    ]
    return Table(("cell", "published", "step", "value"), tuple(rows), "Published; ours has not been run.")
