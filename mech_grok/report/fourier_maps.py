"""Logits, neurons and attention by the frequencies of a and of b: heat maps of two-dimensional transforms."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mech_grok.report.byte_arrays import ByteArray, byte_array
from mech_grok.report.cells import Run, identify
from mech_grok.report.checkpoints import StepArray, colour_bar
from mech_grok.report.key_marks import add_marks
from mech_grok.report.section import Choice, colour_key
from mech_grok.report.snapshots import snapshots
from mech_grok.report.style import MISSING, SEQUENTIAL, template
from mech_grok.report.tables import Table

LEAST = -6.0
"""log10 of the smallest share that is told apart from 0."""

WHAT = {"logits": "logit_fourier", "neurons": "neuron_fourier", "attention": "attention_fourier"}

_COLOURS = colour_key(SEQUENTIAL, "≤ 10<sup>&minus;6</sup>", "10<sup>&minus;3</sup>", "1")
CHOICES = tuple(Choice(what, {"zmin": LEAST, "zmax": 0}, _COLOURS) for what in WHAT)


def compute_fourier_maps(runs: Sequence[Run]) -> tuple[ByteArray, ...]:
    """log10 of the share of the variance over pairs that each pair of frequencies holds; one per cell.

    [1, step, of, frequency_a, frequency_b], of one seed at a few checkpoints; `of` logits, neurons (of all
    layers) and attention from `=` (of all heads, to all keys), each added up. No value at (0, 0), the mean,
    and where nothing varies.
    """
    return tuple(
        byte_array(
            "log10_share", cell, log_shares(snapshots(run.probe("fourier2d"), run, runs).isel(seed=[0]))
        )
        for cell, run in zip(identify(runs), runs, strict=True)
        if "fourier2d" in run.probe_names
    )


def log_shares(data: xr.Dataset) -> xr.DataArray:
    """(seed, step, of, frequency_a, frequency_b) of the probe's norms, at least `LEAST`."""
    maps = ("seed", "step", "frequency_a", "frequency_b")
    squares = [data[name].astype(float) ** 2 for name in WHAT.values()]
    power = [square.sum([d for d in square.dims if d not in maps], skipna=False) for square in squares]
    stacked = xr.concat(power, xr.Variable("of", list(WHAT))).transpose("seed", "step", "of", *maps[2:])
    total = stacked.sum(maps[2:], skipna=False)
    share = stacked / total.where(total > 0)
    mean = (share["frequency_a"] == 0) & (share["frequency_b"] == 0)
    return xr.apply_ufunc(np.log10, share.clip(min=10**LEAST)).where(~mean)


def draw_fourier_map(info: ByteArray, keys: StepArray | None = None) -> go.Figure:
    """Heat map frequency of a x frequency of b at the last checkpoint, of the logits; a choice per map."""
    *_, frequencies_a, frequencies_b = info.coords
    figure = go.Figure(layout={"template": template()})
    figure.add_heatmap(
        z=info.values[0, -1, 0],
        x=frequencies_b,
        y=frequencies_a,
        zmin=LEAST,
        zmax=0,
        colorscale=SEQUENTIAL,
        colorbar={**colour_bar("share"), "tickprefix": "10<sup>", "ticksuffix": "</sup>"},
        hovertemplate="k = %{y} of a, %{x} of b: 10<sup>%{z:.1f}</sup> of the variance<extra></extra>",
        meta={"array": info.key, "choices": [[i] for i in range(len(WHAT))]},
    )
    last = float(frequencies_b[-1]) + 0.5
    add_marks(figure, keys, "top", last, of=info)
    add_marks(figure, keys, "right", last, of=info)
    figure.update_xaxes(title_text="frequency of b", range=[-0.5, last], showline=False, constrain="domain")
    figure.update_yaxes(title_text="frequency of a", range=[-0.5, last], showgrid=False)
    figure.update_yaxes(scaleanchor="x", constrain="domain")
    return figure.update_layout(height=340, plot_bgcolor=MISSING, showlegend=False)


def table_of_fourier_maps(arrays: Sequence[ByteArray], top: int = 6) -> Table:
    """The strongest pairs of frequencies at the last checkpoint, and the shares of diagonal and edges."""
    rows = []
    for info in arrays:
        for what, logs in zip(info.coords[0], info.values[0, -1].astype(np.float64), strict=True):
            share = np.nan_to_num(10**logs)
            strongest = np.argsort(-share, axis=None)[:top]
            pairs = [np.unravel_index(i, share.shape) for i in strongest]
            words = [f"({a}, {b}): {100 * share[a, b]:.2g}%" for a, b in pairs if share[a, b] > 0]
            sums = (np.trace(share), share[0].sum() + share[:, 0].sum())
            rows.append(
                (
                    info.cell.label,
                    str(what),
                    *(f"{100 * s:.1f}%" for s in sums),
                    ", ".join(words) or "&ndash;",
                )
            )
    header = ("cell", "of", "diagonal", "one number alone", "strongest (k of a, k of b)")
    note = (
        "Shares of the variance over pairs, last checkpoint, one seed. One number alone: the edges k = 0. "
        "The CSV has the logarithms to base 10 of the shares, those below 10<sup>&minus;6</sup> as &minus;6."
    )
    return Table(header, tuple(rows), note)
