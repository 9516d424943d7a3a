"""One figure of a report by its name, as a Plotly figure: for a notebook, and for a paper."""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from mech_grok.errors import UserError
from mech_grok.report.byte_arrays import ByteArray
from mech_grok.report.cells import ReadOnce, Run
from mech_grok.report.checkpoints import StepArray
from mech_grok.report.headline import compute_headline
from mech_grok.report.phase_shapes import Shape, phase_key, phase_shapes
from mech_grok.report.phases import CellPhases, compute_phases
from mech_grok.report.section import Figure, Panel, Width
from mech_grok.report.sections import build_sections
from mech_grok.report.tile import tiled

COLUMNS: Mapping[Width, int] = {"small": 4, "medium": 3, "maps": 3, "large": 2, "single": 1, "full": 1}
PANEL_WIDTH: Mapping[Width, int] = {
    "small": 300,
    "medium": 380,
    "maps": 380,
    "large": 520,
    "single": 760,
    "full": 1000,
}
"""Of each panel, in pixels."""

TITLE_HEIGHT, BELOW, ENTRY_WIDTH, ENTRY_HEIGHT = 60, 20, 170, 20
"""Pixels of a figure's title, below its panels, and of an entry of its legend."""

ROOM_FOR_STRIPS = 24
"""Pixels above a panel with strips of phases; its title stands higher."""


@dataclass(frozen=True)
class Shown:
    """A figure of a report.

    Attributes:
        when: which checkpoint and seeds it shows; empty for what is over training.
        phases: of each panel, the shapes that shade the phases of training.
    """

    figure: Figure
    when: str
    phases: tuple[Sequence[Shape], ...]


def report_figures(runs: Sequence[Run]) -> dict[str, Shown]:
    """Name -> figure, of every figure that a report over these runs has, in its order."""
    runs = [ReadOnce(run) for run in runs]
    sections = build_sections(runs, compute_headline(runs))
    phases = compute_phases(runs)
    return {f.slug: _shown(f, s.arrays, phases) for s in sections for f in s.figures}


def _shown(figure: Figure, arrays: Sequence[StepArray | ByteArray], phases: Sequence[CellPhases]) -> Shown:
    cells = {a.key: a.cell.index for a in arrays}
    shapes = tuple(phase_shapes(panel, cells, phases) for panel in figure.panels)
    return Shown(figure, _when(figure, arrays), shapes)


def _when(figure: Figure, arrays: Sequence[StepArray | ByteArray]) -> str:
    """`step 1,500, mean over seeds` or, of maps, which are of one seed, `step 1,500, seed 456`."""
    panels = [panel.figure.to_plotly_json() for panel in figure.panels if panel.shows == "checkpoint"]
    keys = {(trace.get("meta") or {}).get("array") for panel in panels for trace in panel["data"]}
    shown = [a for a in arrays if a.key in keys]
    if not shown:
        return ""
    steps = sorted({int(a.steps[-1]) for a in shown})
    seeds = sorted({a.seeds[0] for a in shown if isinstance(a, ByteArray)})
    who = f"seed {', '.join(map(str, seeds))}" if seeds else "mean over seeds"
    return f"step {', '.join(f'{step:,}' for step in steps)}, {who}"


def find_figure(figures: Mapping[str, Shown], name: str) -> Shown:
    """The figure of a name, in which `_` may stand for `-`.

    Raises:
        UserError: there is none; the message gives the nearest, and all that there are.
    """
    slug = name.replace("_", "-")
    if slug not in figures:
        near = difflib.get_close_matches(slug, figures, n=1, cutoff=0.0)
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        raise UserError(f"unknown figure '{name}'{hint} allowed: {', '.join(figures)}")
    return figures[slug]


def plotly_figure(shown: Shown) -> go.Figure:
    """All panels of a figure as one Plotly figure, with a legend, a colour bar and the phases of training.

    What a page's slider would choose is as the page first shows it: the last checkpoint, mean over seeds, or
    of maps one seed; the title says which.
    """
    figure = shown.figure
    titles = [panel.title for panel in figure.panels]
    panels = [_alone(*pair) for pair in zip(figure.panels, shown.phases, strict=True)]
    whole = tiled(panels, titles, COLUMNS[figure.width], PANEL_WIDTH[figure.width])
    whole.add_traces(phase_key([shape for shapes in shown.phases for shape in shapes]))
    heat_maps = [trace for trace in whole.data if isinstance(trace, go.Heatmap)]
    for trace in heat_maps:  # they share one scale, which the page explains in the figure's key
        first = trace is heat_maps[0]
        trace.update(showscale=first, colorbar={"thickness": 12, "outlinewidth": 0, "len": 0.8})
    title = f"{figure.title}<br><sup>{shown.when}</sup>" if shown.when else figure.title
    return _framed(whole, title)


def _framed(whole: go.Figure, title: str) -> go.Figure:
    """With room for the title and the legend above its panels, and for the key to the phases below them."""
    drawn = whole.to_plotly_json()
    above = TITLE_HEIGHT + _legend_height(drawn["data"], drawn["layout"]["width"])
    top = {"text": title, "x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yanchor": "top"}
    return whole.update_layout(
        title={**top, "pad": {"t": 14}},
        height=drawn["layout"]["height"] + above + BELOW,
        margin={"t": above, "b": BELOW},
        legend2={"orientation": "h", "x": 0, "y": 0, "yanchor": "bottom"},
    )


def _legend_height(traces: Sequence[Mapping[str, Any]], width: int | float) -> int:
    """In pixels, of a horizontal legend, in which the entries of a group are one above the other."""
    entries = [t for t in traces if t.get("showlegend") and "legend" not in t]
    groups = Counter(t.get("legendgroup") or t["name"] for t in entries)
    lines = math.ceil(len(groups) * ENTRY_WIDTH / width)
    return ENTRY_HEIGHT * lines * max(groups.values(), default=0)


def _alone(panel: Panel, phases: Sequence[Shape]) -> go.Figure:
    """A panel with its entries in the legend and its phases, below which its own shapes are not hidden."""
    figure = go.Figure(panel.figure).update_traces(_IN_LEGEND, selector=_has_entry)
    if any("ysizemode" in shape for shape in phases):
        figure.update_layout(margin_t=ROOM_FOR_STRIPS)
    return figure.update_layout(shapes=(*phases, *figure.layout.shapes))


_IN_LEGEND = {"showlegend": True}


def _has_entry(trace: Any) -> bool:
    """Lines of means, and points of one quantity against another: a page's chips name their cells."""
    return isinstance(trace.meta, Mapping) and (trace.meta.get("seed") == "mean" or "against" in trace.meta)
