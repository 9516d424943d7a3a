"""The phases of training as shapes of a Plotly figure, as `phases.js` draws them on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from mech_grok.report.phases import NAMES, CellPhases
from mech_grok.report.section import Panel
from mech_grok.report.style import INK

Opacities = tuple[float, float, float]
Shape = dict[str, Any]


@dataclass(frozen=True)
class Shading:
    """How phases are drawn; the page's script is given the same numbers.

    Attributes:
        behind, row, strip: opacities of memorisation, plateau and cleanup: behind the curves of one cell, in
            the rows of a figure that has a row for each cell, and in strips above the axes.
        strip_height, strip_gap: of one strip, in pixels.
        strips_height: of all strips together, in pixels: with many cells they are thinner.
        most_strips: with more cells there are none.
        half_row: of the distance between two rows.
    """

    behind: Opacities = (0.05, 0.1, 0.19)
    row: Opacities = (0.1, 0.2, 0.36)
    strip: Opacities = (0.28, 0.55, 1.0)
    strip_height: float = 3.5
    strip_gap: float = 1.5
    strips_height: float = 11
    most_strips: int = 8
    half_row: float = 0.34


SHADING = Shading()


def phase_shapes(
    panel: Panel, cells_of_arrays: Mapping[str, int], found: Sequence[CellPhases]
) -> list[Shape]:
    """The phases of the mean over seeds of every cell that a panel over training shows.

    Args:
        cells_of_arrays: the key of an array -> the index of its cell.
        found: of all cells on the page.
    """
    if panel.shows != "training" or panel.figure.layout.xaxis.title.text != "step":
        return []
    by_cell = {phases.cell.index: phases for phases in found}
    rows = (panel.figure.layout.meta or {}).get("rows")
    if rows:
        return [s for row, cell in enumerate(rows) if cell in by_cell for s in _in_row(by_cell[cell], row)]
    cells = _cells(panel.figure, cells_of_arrays)
    has_maps = any(isinstance(trace, go.Heatmap) for trace in panel.figure.data)
    if len(cells) == 1 and not has_maps:
        return [s for c in cells if c in by_cell for s in _behind(by_cell[c])]
    return _strips(cells, by_cell)


def phase_key(shapes: Sequence[Shape]) -> list[go.Scatter]:
    """Traces without points that explain the shapes of a figure, in a legend of their own."""
    kinds = {shape["type"] for shape in shapes}
    shades = zip(NAMES, SHADING.strip, strict=True) if "rect" in kinds else ()
    key = [_entry(name, {"symbol": "square", "color": INK, "opacity": opacity}) for name, opacity in shades]
    if "line" in kinds:
        key.append(_entry("circuit forms", {"symbol": "line-ns", "line": {"width": 1, "color": INK}}))
    return key


def _entry(name: str, marker: Mapping[str, object]) -> go.Scatter:
    mark = {"size": 11, **marker}
    return go.Scatter(
        x=[None], y=[None], mode="markers", name=name, marker=mark, legend="legend2", showlegend=True
    )


def _cells(figure: go.Figure, cells_of_arrays: Mapping[str, int]) -> list[int]:
    """The indices of the cells that a panel shows, in the order of the page."""
    metas: list[Mapping[str, Any]] = [trace.get("meta") or {} for trace in figure.to_plotly_json()["data"]]
    own = {cells_of_arrays[m["array"]] if "array" in m else m.get("cell") for m in metas}
    return sorted(cell for cell in own if cell is not None)


def _in_row(phases: CellPhases, row: int) -> list[Shape]:
    heights = {"yref": "y", "y0": row - SHADING.half_row, "y1": row + SHADING.half_row}
    return _across(phases, heights, SHADING.row)


def _behind(phases: CellPhases) -> list[Shape]:
    return _across(phases, {"yref": "paper", "y0": 0, "y1": 1}, SHADING.behind)


def _strips(cells: Sequence[int], by_cell: Mapping[int, CellPhases]) -> list[Shape]:
    """One above the other over the axes, the first cell's highest."""
    if not cells or len(cells) > SHADING.most_strips:
        return []
    whole = SHADING.strip_height + SHADING.strip_gap
    pitch = min(whole, SHADING.strips_height / len(cells))
    height = pitch * SHADING.strip_height / whole
    shapes = []
    for i, cell in enumerate(cells):
        low = 1 + pitch * (len(cells) - 1 - i)
        pixels = {"yref": "paper", "ysizemode": "pixel", "yanchor": 1, "y0": low, "y1": low + height}
        shapes += _across(by_cell[cell], pixels, SHADING.strip) if cell in by_cell else []
    return shapes


def _across(phases: CellPhases, heights: Shape, opacities: Opacities) -> list[Shape]:
    """A cell's phases over their steps, and a line from where its circuit forms."""
    colour, spans, circuit = phases.cell.colour, phases.mean.spans, phases.mean.circuit
    common = {"layer": "below", "xref": "x", **heights}
    shapes: list[Shape] = [
        {
            **common,
            "type": "rect",
            "x0": x0,
            "x1": x1,
            "line": {"width": 0},
            "fillcolor": colour,
            "opacity": o,
        }
        for (x0, x1), o in zip(spans, opacities, strict=False)
    ]
    if circuit is not None:
        dash = "solid" if "ysizemode" in heights else "2px,2px"
        line = {"color": colour, "width": 1, "dash": dash}
        shapes.append({**common, "type": "line", "x0": circuit, "x1": circuit, "line": line})
    return shapes
