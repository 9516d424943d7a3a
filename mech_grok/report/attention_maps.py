"""Where every head looks from `=`, for every pair (a, b): heat maps."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mech_grok.report.byte_arrays import ByteArray, byte_array
from mech_grok.report.cells import Run, identify
from mech_grok.report.packing import stored_bytes
from mech_grok.report.section import Choice, colour_key
from mech_grok.report.snapshots import MOST, snapshots
from mech_grok.report.style import MISSING, SEQUENTIAL, template
from mech_grok.report.tables import Table, number

BYTES = 2_250_000
"""What the maps of a page may take as it stores them: where they take more, fewer checkpoints are kept."""

REST = "rest"
"""In `meta`: the weight on `=`, which the other two leave over."""

KEYS = ("a", "b")

_SHARED = {"zauto": False, "zmin": 0, "zmax": 1}, colour_key(SEQUENTIAL, "0", "0.5", "1")
_OWN = {"zauto": True}, colour_key(SEQUENTIAL, "lowest of the map", "highest")
_LABELS = [f"weight on {key}" for key in (*KEYS, "=")]
CHOICES = (
    *(Choice(label, *_SHARED) for label in _LABELS),
    *(Choice(f"{label}, own scale", *_OWN) for label in _LABELS),
)


def compute_attention_maps(runs: Sequence[Run]) -> tuple[ByteArray, ...]:
    """Attention weight from `=` to a and to b: [1, step, layer, head, key, a, b], of one seed; one per cell.

    At most `MOST` checkpoints, fewer where the maps of all cells would take more than `BYTES`; none if not
    even one of each fits.
    """
    most = MOST
    while most:
        maps = _maps(runs, most)
        taken = stored_bytes(maps)
        if taken <= BYTES:
            return maps
        most = min(most - 1, most * BYTES // taken)
    return ()


def _maps(runs: Sequence[Run], most: int) -> tuple[ByteArray, ...]:
    having = [(c, run) for c, run in zip(identify(runs), runs, strict=True) if _NAME in run.probe_names]
    maps = [(cell, run, run.probe(_NAME)[[_NAME]].sel(key=list(KEYS))) for cell, run in having]
    return tuple(
        byte_array(_NAME, cell, snapshots(data, run, runs, most)[_NAME].isel(seed=[0]))
        for cell, run, data in maps
    )


_NAME = "attention_map"


def draw_attention_maps(info: ByteArray) -> go.Figure:
    """One heat map over (a, b) per head at the last checkpoint; two heads a row; `CHOICES`."""
    layers, heads = info.encoded.codes.shape[2:4]
    rows = -(-heads // 2)
    figure = make_subplots(
        rows=layers * rows,
        cols=min(2, heads),
        subplot_titles=[f"L{layer}H{head}" for layer in range(layers) for head in range(heads)],
        horizontal_spacing=0.06,
        vertical_spacing=0.16 / (layers * rows),
        shared_xaxes=True,
        shared_yaxes=True,
    )
    last = info.values[0, -1]
    for layer, head in np.ndindex(layers, heads):
        trace = _map(info, last[layer, head, 0], [[layer, head, key] for key in (0, 1, REST)] * 2)
        figure.add_trace(trace, row=layer * rows + head // 2 + 1, col=head % 2 + 1)
    figure.update_annotations(font_size=12, yshift=-2)
    figure.update_xaxes(showline=False, nticks=4, title_standoff=4)
    figure.update_yaxes(autorange="reversed", showgrid=False, nticks=4, title_standoff=4)
    figure.update_xaxes(title_text="b", row=layers * rows)
    figure.update_yaxes(title_text="a", col=1)
    return figure.update_layout(
        template=template(), height=60 + 220 * layers * rows, margin_t=26, plot_bgcolor=MISSING
    )


def _map(info: ByteArray, z: np.ndarray, choices: Sequence[Sequence[int | str]]) -> go.Heatmap:
    return go.Heatmap(
        z=z,
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        showscale=False,
        hovertemplate="a = %{y}, b = %{x}: %{z:.3f}<extra></extra>",
        meta={"array": info.key, "choices": choices},
    )


def table_of_attention_maps(arrays: Sequence[ByteArray]) -> Table:
    """One row per head and key at the last checkpoint: its weight, and what decides it."""
    rows = []
    for info in arrays:
        weights = info.values[0, -1]
        for layer, head in np.ndindex(weights.shape[:2]):
            on_a, on_b = weights[layer, head].astype(np.float64)
            for key, weight in zip((*KEYS, "="), (on_a, on_b, 1 - on_a - on_b), strict=True):
                rows.append((info.cell.label, f"L{layer}H{head}", key, *_summary(weight)))
    header = ("cell", "head", "key", "mean", "lowest", "highest", "decided by a", "by b", "by both")
    note = (
        "Weight from “=” over all pairs, last checkpoint, one seed. Decided by a: the share of the variance "
        "over pairs that the means over b have; by b: that of the means over a; by both: the rest. The CSV "
        "has the weights on a and b; that on “=” is what they leave over."
    )
    return Table(header, tuple(rows), note)


def _summary(weight: np.ndarray) -> list[str]:
    by_a, by_b = variance_shares(weight)
    return [*map(number, (weight.mean(), weight.min(), weight.max(), by_a, by_b, 1 - by_a - by_b))]


def variance_shares(weight: np.ndarray) -> tuple[float, float]:
    """Shares of the variance of a function of (a, b) that functions of a alone, and of b alone, explain.

    NaN where it is constant but for the rounding of the maps.
    """
    variance = weight.var()
    if not variance > 1e-10:
        return float("nan"), float("nan")
    return float(weight.mean(1).var() / variance), float(weight.mean(0).var() / variance)
