"""Several Plotly figures side by side as one, each with its axes, shapes and annotations."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

GAP_ACROSS, GAP_DOWN = 0.08, 90
"""Between panels: a share of the width, and pixels."""
TITLE_SIZE = 14
_AXIS = re.compile(r"([xy])axis(\d*)")
_REFERENCE = re.compile(r"([xy])(\d*)( domain)?")


def tiled(figures: Sequence[go.Figure], titles: Sequence[str], columns: int, panel_width: int) -> go.Figure:
    """One figure of several panels, row by row; of a legend entry with several traces one is kept.

    Args:
        figures: at least one; their layout's height counts, in pixels.
        titles: above each, in HTML; may be empty.
        panel_width: in pixels.
    """
    columns = min(columns, len(figures))
    panels = [figure.to_plotly_json() for figure in figures]
    tiles, height = _tiles([panel["layout"].get("height", 300) for panel in panels], columns)
    layout: dict[str, Any] = {
        "template": figures[0].layout.template,
        "width": columns * panel_width,
        "height": height,
        "margin": {"l": 70, "r": 30, "t": 0, "b": 0},
        "annotations": [
            _title(text, tile, panel) for text, tile, panel in zip(titles, tiles, panels, strict=True) if text
        ],
        "shapes": [],
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
    }
    traces, seen = [], {"x": 0, "y": 0}
    for panel, tile in zip(panels, tiles, strict=True):
        moved = _Moved(tile, dict(seen))
        axes: dict[str, Any] = {"xaxis": {}, "yaxis": {}, **panel["layout"]}  # Plotly leaves out plain ones
        for key, axis in axes.items():
            if match := _AXIS.fullmatch(key):
                layout[moved.name(match[1], match[2])] = moved.axis(axis, match[1])
                seen[match[1]] = max(seen[match[1]], moved.number(match[1], match[2]))
        traces += [moved.trace(trace) for trace in panel["data"]]
        layout["annotations"] += [moved.placed(a) for a in panel["layout"].get("annotations", ())]
        layout["shapes"] += [moved.placed(s) for s in panel["layout"].get("shapes", ())]
    return go.Figure(data=_with_one_legend_entry(traces), layout=layout)


@dataclass(frozen=True)
class _Tile:
    """A panel's region, in shares of the figure."""

    left: float
    right: float
    bottom: float
    top: float

    def across(self, x: int | float) -> float:
        return self.left + x * (self.right - self.left)

    def up(self, y: int | float) -> float:
        return self.bottom + y * (self.top - self.bottom)


def _tiles(heights: Sequence[int | float], columns: int) -> tuple[list[_Tile], int | float]:
    """The regions of panels of these heights (pixels), and the height of all rows with their gaps."""
    rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    total = sum(rows) + GAP_DOWN * (len(rows) + 1)
    wide = (1 - GAP_ACROSS * (columns - 1)) / columns
    tiles = []
    for i, height in enumerate(heights):
        row, column = divmod(i, columns)
        top = 1 - (sum(rows[:row]) + GAP_DOWN * (row + 0.6)) / total
        left = column * (wide + GAP_ACROSS)
        tiles.append(_Tile(left, left + wide, top - height / total, top))
    return tiles, total


@dataclass(frozen=True)
class _Moved:
    """How one panel's parts are placed: its region, and how many axes there were before it."""

    tile: _Tile
    before: Mapping[str, int]

    def number(self, letter: str, number: str) -> int:
        return self.before[letter] + int(number or 1)

    def name(self, letter: str, number: str) -> str:
        return f"{letter}axis{self._digits(letter, number)}"

    def _digits(self, letter: str, number: str) -> str:
        n = self.number(letter, number)
        return "" if n == 1 else str(n)

    def reference(self, text: str) -> str:
        """`y2 domain` as it is called in the whole figure; `paper` and the like stay."""
        match = _REFERENCE.fullmatch(text)
        return f"{match[1]}{self._digits(match[1], match[2])}{match[3] or ''}" if match else text

    def axis(self, axis: Mapping[str, Any], letter: str) -> dict[str, Any]:
        place = self.tile.across if letter == "x" else self.tile.up
        moved = {**axis, "domain": [place(end) for end in axis.get("domain", (0, 1))]}
        moved["anchor"] = self.reference(axis.get("anchor") or ("y" if letter == "x" else "x"))
        for key in ("matches", "scaleanchor"):
            if key in axis:
                moved[key] = self.reference(axis[key])
        return moved

    def trace(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        axes = {
            f"{letter}axis": self.reference(trace.get(f"{letter}axis") or letter) for letter in ("x", "y")
        }
        return {**copy.deepcopy(dict(trace)), **axes}

    def placed(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """An annotation or a shape; where it is on the paper, on this panel's share of it."""
        moved = dict(part)
        for letter, place in (("x", self.tile.across), ("y", self.tile.up)):
            on = part.get(f"{letter}ref", "paper")
            moved[f"{letter}ref"] = self.reference(on)
            if on == "paper":
                in_pixels = part.get(f"{letter}sizemode") == "pixel"
                places = (f"{letter}anchor",) if in_pixels else (letter, f"{letter}0", f"{letter}1")
                ends = (key for key in places if part.get(key) is not None)
                moved |= {key: place(part[key]) for key in ends}
        return moved


def _title(text: str, tile: _Tile, panel: Mapping[str, Any]) -> dict[str, Any]:
    """Above a panel, and above what the panel itself has in its upper margin."""
    return {
        "text": f"<b>{text}</b>",
        "x": tile.left,
        "y": tile.top,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 8 + max(0, panel["layout"].get("margin", {}).get("t", 0) - 8),
        "showarrow": False,
        "font": {"size": TITLE_SIZE},
    }


def _with_one_legend_entry(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first visible trace of a name; none of traces without one."""
    seen = {None}
    for trace in traces:
        name, is_hidden = trace.get("name"), trace.get("visible", True) is not True
        if is_hidden or trace.get("showlegend") is False or name in seen:
            trace["showlegend"] = False
        else:
            trace["showlegend"] = True
            seen.add(name)
    return traces
