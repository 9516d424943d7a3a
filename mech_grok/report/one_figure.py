"""One figure of a report by its name, as a Plotly figure: for a notebook, and for a paper."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from mech_grok.errors import UserError
from mech_grok.report.cells import ReadOnce, Run
from mech_grok.report.headline import compute_headline
from mech_grok.report.section import Figure, Width
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


def report_figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """Name -> figure, of every figure that a report over these runs has, in its order."""
    runs = [ReadOnce(run) for run in runs]
    sections = build_sections(runs, compute_headline(runs))
    return {figure.slug: figure for section in sections for figure in section.figures}


def find_figure(figures: Mapping[str, Figure], name: str) -> Figure:
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


def plotly_figure(figure: Figure) -> go.Figure:
    """All panels of a figure as one Plotly figure, with a legend and a colour bar.

    What a page's slider would choose is as the page first shows it: the last checkpoint, mean over seeds.
    """
    titles = [panel.title for panel in figure.panels]
    panels = [go.Figure(panel.figure).update_traces(_IN_LEGEND, selector=_is_mean) for panel in figure.panels]
    whole = tiled(panels, titles, COLUMNS[figure.width], PANEL_WIDTH[figure.width])
    heat_maps = [trace for trace in whole.data if isinstance(trace, go.Heatmap)]
    for trace in heat_maps:  # they share one scale, which the page explains in the figure's key
        first = trace is heat_maps[0]
        trace.update(showscale=first, colorbar={"thickness": 12, "outlinewidth": 0, "len": 0.8})
    top = {"text": figure.title, "x": 0, "xref": "paper", "xanchor": "left"}
    return whole.update_layout(title=top, margin={"t": 70, "b": 40})


_IN_LEGEND = {"showlegend": True}


def _is_mean(trace: Any) -> bool:
    """A page's chips and key name the lines; here the legend does, of every split."""
    return isinstance(trace.meta, Mapping) and trace.meta.get("seed") == "mean"
