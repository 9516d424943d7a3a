"""The numbers in the embedding's planes of the strongest key frequencies, coloured by their angle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mech_grok.report.byte_arrays import ByteArray, byte_array
from mech_grok.report.cells import Run, identify
from mech_grok.report.checkpoints import StepArray, largest, step_array
from mech_grok.report.snapshots import snapshots
from mech_grok.report.style import CYCLIC, INK, template
from mech_grok.report.tables import Table, number

NO_CIRCLE = "no key frequency"
ABOVE = 1.25
"""What stands in place of a circle, and how high its label is, in radii; as in `arrays.js`."""


@dataclass(frozen=True)
class Circles:
    """The circles of one cell.

    Attributes:
        points: [seed, step, circle, axis, number], one seed shown at a time.
        summary: [seed, step, of, circle]: the circle's frequency, and the share that this has of the variance
            in its plane; of the same seeds and steps.
    """

    points: ByteArray
    summary: StepArray


def compute_circles(runs: Sequence[Run]) -> tuple[Circles, ...]:
    """The embedding's circles of all seeds at a few checkpoints; one per cell in which any seed has one."""
    having = [(c, run) for c, run in zip(identify(runs), runs, strict=True) if _PROBE in run.probe_names]
    few = [(cell, snapshots(run.probe(_PROBE), run, runs)) for cell, run in having]
    found = []
    for cell, data in few:
        if data["embedding_circle_frequency"].notnull().any():
            parts = data[["embedding_circle_frequency", "embedding_circle_share"]].to_dataarray("of")
            summary = parts.assign_coords(of=["frequency", "share"]).transpose("seed", "step", "of", "circle")
            points = byte_array("embedding_circle", cell, data["embedding_circle"])
            found.append(Circles(points, step_array("embedding_circle_summary", cell, summary, snaps=True)))
    return tuple(found)


_PROBE = "embedding_circles"


def draw_circles(info: Circles) -> go.Figure:
    """A plane per circle at the last checkpoint of the first seed, two a row, all on one scale."""
    count = info.points.encoded.codes.shape[2]
    rows = -(-count // 2)
    figure = make_subplots(rows=rows, cols=2, horizontal_spacing=0.05, vertical_spacing=0.04)
    for i in range(count):
        row, column = i // 2 + 1, i % 2 + 1
        figure.add_traces([_points(info, i), _label(info, i)], rows=row, cols=column)
        figure.update_xaxes(showticklabels=row == rows, row=row, col=column)
        figure.update_yaxes(scaleanchor=f"x{i + 1 if i else ''}", row=row, col=column)
        figure.update_yaxes(showticklabels=column == 1, row=row, col=column)
    figure.update_xaxes(constrain="domain", nticks=4, showline=False, title_standoff=4)
    figure.update_yaxes(constrain="domain", nticks=4, title_standoff=4)
    figure.update_xaxes(title_text="along the cosine", row=rows)
    figure.update_yaxes(title_text="along the sine", col=1)
    return figure.update_layout(template=template(), height=50 + 160 * rows, showlegend=False)


def _points(info: Circles, circle: int) -> go.Scatter:
    x, y = info.points.values[0, -1, circle]
    k = info.summary.values[0, -1, 0, circle]
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={
            "size": 6,
            "color": np.arange(len(x)) * np.nan_to_num(k) % len(x),
            "cmin": 0,
            "cmax": len(x),
            "colorscale": CYCLIC,
            "line": {"width": 0},
        },
        showlegend=False,
        customdata=list(range(len(x))),
        hovertemplate="number %{customdata}<extra></extra>",
        meta={"array": info.points.key, "at": [circle], "summary": info.summary.key},
    )


def _label(info: Circles, circle: int) -> go.Scatter:
    """Frequency and share above the plane, and two points without a mark, for one range in all planes."""
    frequency, share = info.summary.values[0, -1, :, circle]
    radius = largest([info.points.values[0, -1]])
    return go.Scatter(
        x=[0, -radius, radius],
        y=[ABOVE * radius, -radius, -radius],
        mode="text",
        text=[label(float(frequency), float(share)), "", ""],
        textfont={"size": 12, "color": INK},
        showlegend=False,
        hoverinfo="skip",
        meta={"array": info.summary.key, "at": [], "circle": circle, "points": info.points.key},
    )


def label(frequency: float, share: float) -> str:
    """What stands above a circle; `share` of the variance in its plane is the frequency's."""
    if not np.isfinite(frequency):
        return NO_CIRCLE
    return f"k = {frequency:.0f}, " + (f"{100 * share:.0f}%" if np.isfinite(share) else "no plane")


def table_of_circles(circles: Sequence[Circles]) -> Table:
    """One row per seed: its circles' frequencies and how clean they are at the last checkpoint."""
    rows = [
        (info.points.cell.label, str(seed), *(_in_words(*pair) for pair in info.summary.values[i, -1].T))
        for i, info, seed in (
            (i, info, seed) for info in circles for i, seed in enumerate(info.summary.seeds)
        )
    ]
    count = len(circles[0].summary.coords[1])
    header = ("cell", "seed", *(f"circle {i + 1}" for i in range(count)))
    return Table(header, tuple(rows), "Frequency: its share of the variance in its plane, last checkpoint.")


def _in_words(frequency: np.floating, share: np.floating) -> str:
    return f"{frequency:.0f}: {number(share)}" if np.isfinite(frequency) else "&ndash;"
