"""What is measured of every frequency: as bars at one checkpoint, and as a heat map over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from mech_grok.report.cells import Run, with_probe
from mech_grok.report.checkpoints import StepArray, colour_bar, step_array
from mech_grok.report.key_marks import add_marks
from mech_grok.report.style import MISSING, SEQUENTIAL, template
from mech_grok.report.tables import Table, number


@dataclass(frozen=True)
class Scale:
    """What several figures of one quantity have in common.

    Attributes:
        axis: title of the axis of values (HTML).
        unit: of the colour bar.
        top: the largest value of all.
        span: the first and the last step shown.
    """

    axis: str
    unit: str
    top: float
    span: tuple[float, float]


def compute_spectrum(runs: Sequence[Run]) -> tuple[StepArray, ...]:
    """Fourier spectrum of the embedding: [seed, step, frequency], L2 norms; one per cell."""
    cells = with_probe(runs, "fourier")
    return tuple(step_array("embedding_spectrum", cell, d["embedding_spectrum"]) for cell, d in cells)


def compute_clusters(runs: Sequence[Run]) -> tuple[StepArray, ...]:
    """Neurons that compute with each frequency, in all layers: [seed, step, frequency]; one per cell."""
    cells = with_probe(runs, "neurons")
    return tuple(
        step_array("neuron_cluster_size", cell, d["neuron_cluster_size"].sum("layer", skipna=False))
        for cell, d in cells
    )


def draw_bars(info: StepArray, scale: Scale, keys: StepArray | None = None) -> go.Figure:
    """Bars over frequencies at the last checkpoint, mean over seeds; the y axis always ends at the top."""
    figure = go.Figure(layout={"template": template()})
    figure.add_bar(
        x=info.coords[0],
        y=info.mean[-1],
        marker={"color": info.cell.colour, "line_width": 0},
        hovertemplate="frequency %{x}: %{y:.4g}<extra></extra>",
        meta={"array": info.key, "at": []},
    )
    add_marks(figure, keys, "top", 1.08 * scale.top)
    figure.update_xaxes(title_text="frequency k", range=[-0.8, len(info.coords[0]) - 0.2])
    figure.update_yaxes(title_text=scale.axis, range=[0, 1.12 * scale.top], nticks=5)
    return figure.update_layout(height=220, bargap=0.25, showlegend=False)


def draw_history(info: StepArray, scale: Scale, keys: StepArray | None = None) -> go.Figure:
    """Heat map step x frequency, mean over seeds, on a colour scale from 0 to the top."""
    figure = go.Figure(layout={"template": template()})
    figure.add_heatmap(
        z=info.mean.T,
        x=info.steps,
        y=info.coords[0],
        zmin=0,
        zmax=scale.top,
        colorscale=SEQUENTIAL,
        colorbar=colour_bar(scale.unit),
        hovertemplate="step %{x:,}, frequency %{y}: %{z:.4g}<extra></extra>",
        meta={"array": info.key, "at": [], "history": True},
    )
    add_marks(figure, keys, "right", scale.span[1])
    figure.update_xaxes(title_text="step", tickformat=",", tickangle=0, nticks=5, range=scale.span)
    ends = [float(np.min(info.coords[0])) - 0.5, float(np.max(info.coords[0])) + 0.5]
    figure.update_yaxes(title_text="frequency k", showgrid=False, range=ends)
    return figure.update_layout(height=260, plot_bgcolor=MISSING, showlegend=False)


def table_of_frequencies(arrays: Sequence[StepArray], keys: Mapping[int, StepArray], top: int = 6) -> Table:
    """The strongest frequencies of every seed at the last checkpoint, and the key frequencies if known."""
    rows = []
    for a in arrays:
        for seed, values in zip(a.seeds, a.values[:, -1], strict=True):
            strongest = np.argsort(-values, kind="stable")[:top]
            words = [f"{a.coords[0][k]}: {number(values[k])}" for k in strongest]
            words += ["&ndash;"] * (top - len(words))
            rows.append((a.cell.label, str(seed), *words, *([_keys_of(a, seed, keys)] if keys else [])))
    header = ("cell", "seed", *(f"no. {i + 1}" for i in range(top)), *(["key frequencies"] if keys else []))
    return Table(header, tuple(rows), "Frequency: value, largest first, last checkpoint.")


def _keys_of(a: StepArray, seed: int, keys: Mapping[int, StepArray]) -> str:
    known = keys.get(a.cell.index)
    if known is None or seed not in known.seeds:
        return "&ndash;"
    mask = known.values[known.seeds.index(seed), 0] > 0
    return ", ".join(str(k) for k, is_key in zip(known.coords[0], mask, strict=True) if is_key) or "none"
