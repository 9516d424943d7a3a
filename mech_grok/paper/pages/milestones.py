"""When each cell generalised: our seeds, our mean curve, and the published step, a row for each cell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from mech_grok.generalisation import StepBySeed
from mech_grok.paper.limits import step_within
from mech_grok.paper.measures import MEASURES, Measured, last_step
from mech_grok.paper.pages.seeds import step_by_seed
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.paper.pages.wording import step_text
from mech_grok.paper.published import Number, Published, SourceKind
from mech_grok.report.cells import Cell
from mech_grok.report.section import Figure, Panel
from mech_grok.report.style import GRID, INK, MUTED, RULE, template
from mech_grok.report.tables import Table

QUANTITY = "generalisation_step"
_RULE = MEASURES[QUANTITY]
_OURS, _PUBLISHED = -0.2, 0.22
"""Where a row has our marks and the published ones, in rows from its middle downwards."""

_END = 1.012
"""Where the axis ends, in last steps."""


@dataclass(frozen=True)
class PublishedStep:
    """A published generalisation step; None if it did not happen."""

    step: Number | None
    kind: SourceKind


@dataclass(frozen=True)
class Generalised:
    """When a cell generalised.

    Attributes:
        seeds: each seed by itself; empty if the cell was not run.
        mean: the published rule, on the curve averaged over our seeds.
        last: until when ours was measured; 0 if never.
    """

    cell: Cell
    seeds: StepBySeed
    mean: int | None
    last: int
    published: tuple[PublishedStep, ...]


def generalised(group: ShownGroup, measured: Measured, values: Published) -> list[Generalised]:
    """When each cell of a group did."""
    return [_of_cell(drawn, measured, values) for drawn in group.drawn]


def _of_cell(cell: Cell, measured: Measured, values: Published) -> Generalised:
    numbers = [n for n in values.numbers if n.quantity == QUANTITY and cell.name in n.cells]
    steps = tuple(PublishedStep(n.cells[cell.name], n.kind) for n in numbers)
    accuracy = measured.get((cell.name, _RULE.curve))
    if accuracy is None or not (last := last_step(accuracy)):
        return Generalised(cell, {}, None, 0, steps)
    mean = _RULE.of(accuracy)
    return Generalised(cell, step_by_seed(accuracy, _RULE), None if mean is None else int(mean), last, steps)


def generalised_steps(cell: Cell, measured: Measured) -> frozenset[int]:
    """The steps at which a cell's seeds did, each by itself, and our mean."""
    accuracy = measured.get((cell.name, _RULE.curve))
    if accuracy is None:
        return frozenset()
    mean = _RULE.of(accuracy)
    steps = (mean, *step_by_seed(accuracy, _RULE).values())
    return frozenset(int(step) for step in steps if step is not None)


def milestones_figure(groups: Sequence[ShownGroup], measured: Measured, values: Published) -> Figure | None:
    """The figure; None if no cell was run and no step is published."""
    rows = [generalised(group, measured, values) for group in groups]
    known = [row for of_group in rows for row in of_group if row.seeds or row.published]
    if not known:
        return None
    is_published = any(row.published for row in known)
    horizon = max([values.steps, *(row.last for row in known)])
    several = len(groups) > 1
    return Figure(
        slug="milestones",
        title="When each cell generalised",
        caption=_caption(any(row.seeds for row in known), is_published),
        panels=tuple(
            Panel(_draw(of_group, horizon, values.steps), group.title if several else "")
            for group, of_group in zip(groups, rows, strict=True)
        ),
        table=_table(groups, rows, values.steps),
        width="large" if several else "full",
        key=("seed", "mean-step", *(["published-step"] if is_published else [])),
    )


def _caption(is_measured: bool, is_published: bool) -> str:
    ours = (
        "First evaluated step with a test accuracy of at least 0.995: dots are single seeds, the upright "
        "bar is the accuracy curve averaged over our seeds (the published rule)."
        if is_measured
        else "Nothing of this has been run yet."
    )
    published = (
        " Below them, a diamond is the published step and its bar what counts as the same: within "
        f"{step_within('data file'):.0%} of a step from a data file, "
        f"{step_within('read off a figure'):.0%} of one that was read off a figure."
        if is_published
        else ""
    )
    return ours + published


# ---- drawing --------------------------------------------------------------------------------------------


def _draw(rows: Sequence[Generalised], horizon: int, published_horizon: int) -> go.Figure:
    figure = go.Figure(layout={"template": template()})
    lanes = any(row.published for row in rows)
    for i, row in enumerate(rows):
        figure.add_traces(list(_our_traces(row, i + (_OURS if lanes else 0.0), horizon)))
        figure.add_traces(
            [_published_trace(row.cell, p, i + _PUBLISHED, published_horizon) for p in row.published]
        )
        if i:
            figure.add_hline(y=i - 0.5, line={"color": GRID, "width": 1}, layer="below")
    figure.update_xaxes(
        title_text="step", tickformat=",", tickangle=0, nticks=3, showgrid=True, gridcolor=GRID
    )
    minor = {"dtick": 1000, "ticks": "outside", "ticklen": 3, "tickcolor": RULE}
    figure.update_xaxes(range=[-0.012 * horizon, _END * horizon], minor=minor)
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], showgrid=False, tickfont={"size": 13})
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=[_row_label(row.cell) for row in rows])
    height = 70 + (46 if lanes else 32) * len(rows)
    return figure.update_layout(height=height, margin_r=100, showlegend=False)


def _row_label(cell: Cell) -> str:
    """In two lines if it says that it is the base: narrow screens have no room for more."""
    return cell.label.replace(" (", "<br>(")


def _our_traces(row: Generalised, y: float, end: int) -> Iterator[go.Scatter]:
    reached = {seed: step for seed, step in row.seeds.items() if step is not None}
    if reached:
        dot = {"symbol": "circle", "size": 9, "opacity": 0.75}
        yield _trace(row.cell, "generalised", reached, y, dot, "seed %{customdata}<br>step %{x:,}")
    if row.mean is not None:
        bar = {"symbol": "line-ns", "size": 19, "line": {"width": 2.6, "color": row.cell.colour}}
        yield _trace(row.cell, "generalised", {"mean": row.mean}, y, bar, "mean curve<br>step %{x:,}")
    if not row.seeds:
        yield _text(row.cell, "not run", ["all"], y, "not run", end)
    elif _censored(row):
        yield _text(row.cell, f"not by {row.last:,}", _censored(row), y, _never(row), end)


def _censored(row: Generalised) -> list[str]:
    """The seeds that did not, and `mean` if that did not."""
    seeds = [str(seed) for seed, step in row.seeds.items() if step is None]
    return [*seeds, *(["mean"] if row.mean is None else [])]


def _never(row: Generalised) -> str:
    """Which of the seeds and the mean did not, in at most two short lines."""
    missing, total = sum(step is None for step in row.seeds.values()), len(row.seeds)
    end = f"not by {row.last:,}"
    if missing == total:
        return end
    if not missing:
        return f"mean {end}"
    return f"{missing} of {total}{' and mean' if row.mean is None else ''}<br>{end}"


def _published_trace(cell: Cell, published: PublishedStep, y: float, horizon: int) -> go.Scatter:
    if published.step is None:
        words = f"not by {horizon:,}"
        return _text(cell, f"published: {words}", ["published"], y, f"◇ {words}", horizon)
    mark = {"symbol": "diamond", "size": 9.5, "color": "#ffffff", "line": {"width": 1.8, "color": INK}}
    says = f"published ({published.kind})<br>step %{{x:,}}, the same within {step_within(published.kind):.0%}"
    trace = _trace(cell, "published", {"published": published.step}, y, mark, says)
    reach = {
        "type": "data",
        "array": [step_within(published.kind) * published.step],
        "color": INK,
        "thickness": 1.2,
        "width": 4,
    }
    return trace.update(error_x=reach)


def _trace(
    cell: Cell, what: str, steps: Mapping[Any, Number], y: float, marker: dict[str, object], says: str
) -> go.Scatter:
    return go.Scatter(
        x=list(steps.values()),
        y=[y] * len(steps),
        customdata=[str(who) for who in steps],
        mode="markers",
        marker={"color": cell.colour, **marker},
        cliponaxis=False,
        hovertemplate=f"<b>{cell.label}</b>, {says}<extra></extra>",
        meta={"cell": cell.index, "seed": "all", "milestone": what},
    )


def _text(cell: Cell, what: str, who: Sequence[str], y: float, text: str, end: int) -> go.Scatter:
    """Words right of the axis, which goes to `end`; shown and hidden with their cell."""
    return go.Scatter(
        x=[_END * end],
        y=[y],
        customdata=list(who),
        mode="text",
        text=[text],
        textposition="middle right",
        textfont={"size": 11.5, "color": MUTED},
        cliponaxis=False,
        hoverinfo="skip",
        meta={"cell": cell.index, "seed": "all", "milestone": what},
    )


# ---- the numbers ----------------------------------------------------------------------------------------


def _table(groups: Sequence[ShownGroup], rows: Sequence[Sequence[Generalised]], horizon: int) -> Table:
    seeds = sorted({seed for of_group in rows for row in of_group for seed in row.seeds})
    titled = len(groups) > 1
    header = (
        *(["panel"] if titled else []),
        "cell",
        "mean curve",
        "published",
        *(f"seed {s}" for s in seeds),
    )
    cells = tuple(
        (*([group.title] if titled else []), *_numbers(row, seeds, horizon))
        for group, of_group in zip(groups, rows, strict=True)
        for row in of_group
    )
    return Table(header, cells, "First evaluated step with a test accuracy of at least 0.995.")


def _numbers(row: Generalised, seeds: Sequence[int], horizon: int) -> tuple[str, ...]:
    published = ", ".join(step_text(p.step, horizon) for p in row.published) or "&ndash;"
    mean = step_text(row.mean, row.last) if row.seeds else "not run"
    steps = (step_text(row.seeds[s], row.last) if s in row.seeds else "&ndash;" for s in seeds)
    return row.cell.label, mean, published, *steps
