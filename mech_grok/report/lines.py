"""Curves over training, of several cells and seeds: the data, and the one way they are drawn."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from mech_grok.report.cells import Cell
from mech_grok.report.style import MUTED, PALE, template, translucent
from mech_grok.report.thinning import thin

Floats = NDArray[np.float32]

MOST_POINTS = 400  # per curve: about one a pixel of a panel

# Train is dashed and test solid on every figure; dotted is what a curve is compared with.
DASHES = {"train": "6px,3px", "test": "solid", "all": "solid"}

_LABEL = {"font": {"size": 11, "color": MUTED}, "bgcolor": "#ffffff", "borderpad": 0}


@dataclass(frozen=True)
class Curve:
    """One quantity of one cell through training.

    Attributes:
        split: `train`, `test`, or `all` for what does not depend on a split.
        seeds: [seed].
        steps: [step], increasing.
        values: [seed, step]; NaN where there is none.
        reference: drawn dotted and thin, as what the other curves are compared with.
        quantity: what it is, where its panel shows several quantities of a cell.
        grey: drawn in grey, thin and without a band, as the background to the cell's own colour.
        thinned: how many steps at most it was thinned to; None if it is whole.
    """

    cell: Cell
    split: str
    seeds: tuple[int, ...]
    steps: NDArray[np.int32]
    values: NDArray[np.float32]
    reference: bool = False
    quantity: str = ""
    grey: bool = False
    thinned: int | None = None


@dataclass(frozen=True)
class Lines:
    """One panel of curves.

    Attributes:
        title: what the panel shows, in HTML.
        y_title: the quantity and its unit, in HTML.
        log: whether the y axis starts logarithmic.
        y_range: fixed [low, high] (of a logarithmic axis: powers of ten), or None to follow the data.
        levels: height -> label of horizontal reference lines.
        marks: step -> label of vertical lines.
        cell: the only cell that it shows, if it is made for one.
    """

    title: str
    y_title: str
    curves: tuple[Curve, ...]
    log: bool = False
    y_range: tuple[float, float] | None = None
    levels: tuple[tuple[float, str], ...] = ()
    marks: tuple[tuple[int, str], ...] = ()
    cell: Cell | None = None


def curve(
    cell: Cell,
    data: xr.DataArray,
    split: str = "all",
    *,
    reference: bool = False,
    most: int = MOST_POINTS,
    keep: Collection[int] = (),
) -> Curve:
    """The curve of a (seed, step) array, thinned to at most `most` steps.

    The steps are the same for all seeds: those at which one of them, or their mean, is at its lowest or
    highest for a while, and what `thinning.thin` always keeps.

    Args:
        keep: steps that must stay, such as milestones.
    """
    data = data.transpose("seed", "step")
    steps, values = data["step"].values, single_precision(data.values)
    drawn = thin(steps, np.vstack([values, over_seeds(values)[0]]), most, keep)
    return Curve(
        cell=cell,
        split=split,
        seeds=tuple(int(s) for s in data["seed"].values),
        steps=steps[drawn].astype(np.int32),
        values=values[:, drawn],
        reference=reference,
        thinned=most if len(drawn) < len(steps) else None,
    )


def thinning_note(panels: Iterable[Lines]) -> str:
    """A sentence (HTML) on the curves that are not drawn at all of their steps; empty if all are."""
    most = max((c.thinned for p in panels for c in p.curves if c.thinned), default=0)
    if not most:
        return ""
    return (
        f"Curves of more than {most} steps are drawn, and downloaded, at {most} of them at most: milestones, "
        "and the lowest and highest values in between; <code>load_run(...).metrics</code> and "
        "<code>load_study(...)</code> have every step."
    )


def single_precision(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32, in which the largest numbers of a diverged seed are infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def over_seeds(values: NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """Mean, minimum and maximum over axis 0 of its finite values; NaN where there is none."""
    finite = np.isfinite(values)
    count = finite.sum(0)
    mean = np.where(finite, values, 0).sum(0) / np.maximum(count, 1)
    low = np.where(finite, values, np.inf).min(0, initial=np.inf)
    high = np.where(finite, values, -np.inf).max(0, initial=-np.inf)

    def known(x: NDArray[np.floating]) -> Floats:
        return np.where(count > 0, x, np.nan).astype(np.float32)

    return known(mean), known(low), known(high)


def same_range(panels: Sequence[Lines], *, include: Iterable[float] = ()) -> tuple[Lines, ...]:
    """The panels with one y range over all their data, so that they can be compared by eye."""
    values = [c.values[np.isfinite(c.values)] for p in panels for c in p.curves]
    extent = np.concatenate([*values, np.array(list(include), np.float32)])
    if not extent.size:
        return tuple(panels)
    low, high = float(extent.min()), float(extent.max())
    pad = 0.05 * (high - low or 1)
    return tuple(replace(p, y_range=(low - pad, high + pad)) for p in panels)


def draw_lines(panel: Lines) -> go.Figure:
    """Per curve a mean line and a min-max band over seeds; the single seeds are there, hidden."""
    figure = go.Figure(layout={"template": template()})
    for draw in (_bands, _seed_lines, _mean_lines):
        figure.add_traces([trace for c in panel.curves for trace in draw(c)])
    for height, label in panel.levels:
        figure.add_hline(
            y=height,
            line={"color": MUTED, "width": 1, "dash": "dot"},
            annotation={**_LABEL, "text": label, "xanchor": "right"},
        )
    for step, label in panel.marks:
        figure.add_vline(
            x=step,
            line={"color": MUTED, "width": 1, "dash": "dash"},
            annotation={**_LABEL, "text": label, "xanchor": "center"},
            annotation_yanchor="bottom",
        )
    figure.update_xaxes(title_text="step", tickformat=",", tickangle=0, nticks=5, rangemode="tozero")
    figure.update_yaxes(title_text=panel.y_title, type="log" if panel.log else "linear", range=panel.y_range)
    figure.update_yaxes(exponentformat="power", nticks=4 if panel.log else 6)
    figure.update_layout(height=300)
    return figure


def _bands(c: Curve) -> list[go.Scatter]:
    _, low, high = over_seeds(c.values)
    known = np.isfinite(low)
    if len(c.seeds) < 2 or c.reference or c.grey:
        return []
    steps, low, high = c.steps[known], low[known], high[known]
    return [
        go.Scatter(
            x=np.concatenate([steps, steps[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            fillcolor=translucent(c.cell.colour, 0.14),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=c.cell.name,
            meta=_meta(c, "band"),
        )
    ]


def _seed_lines(c: Curve) -> list[go.Scatter]:
    return [
        _line(c, values, f"seed {seed}", seed, width=1.4, opacity=0.8, visible=False)
        for seed, values in zip(c.seeds, c.values, strict=True)
    ]


def _mean_lines(c: Curve) -> list[go.Scatter]:
    who = f"seed {c.seeds[0]}" if len(c.seeds) == 1 else "mean"
    width = 1.2 if c.reference or c.grey else 2.0
    main = c.split in ("test", "all") and not c.reference
    return [_line(c, over_seeds(c.values)[0], who, "mean", width=width, showlegend=main)]


def _line(c: Curve, y: Floats, who: str, seed: int | str, *, width: float, **options: object) -> go.Scatter:
    split = "" if c.split == "all" else f" {c.split}"
    what = f" {c.quantity}{split}" if c.quantity else split
    return go.Scatter(
        x=c.steps,
        y=y,
        mode="lines" if len(c.steps) > 1 else "markers",
        name=f"{c.cell.label}{what}",
        legendgroup=c.cell.name,
        line={
            "color": PALE if c.grey else c.cell.colour,
            "width": width,
            "dash": "1.5px,2.5px" if c.reference else DASHES[c.split],
        },
        hovertemplate=f"<b>{c.cell.label}</b>{what}, {who}<br>step %{{x:,}}<br>%{{y:.4g}}<extra></extra>",
        meta=_meta(c, seed),
        **{"showlegend": False, **options},
    )


def _meta(c: Curve, seed: int | str) -> dict[str, object]:
    """What the page needs to know of a trace to show, hide and export it."""
    meta = {"cell": c.cell.index, "split": c.split, "seed": seed, "reference": c.reference}
    return {**meta, "quantity": c.quantity} if c.quantity else meta
