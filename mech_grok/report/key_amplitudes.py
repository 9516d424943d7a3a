"""How much of each key frequency is in the logits, through training: a line for each, of every seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from mech_grok.report.cells import Cell, Run, with_probe
from mech_grok.report.checkpoints import StepArray, largest
from mech_grok.report.key_marks import compute_key_frequencies
from mech_grok.report.lines import single_precision
from mech_grok.report.section import Figure, Panel
from mech_grok.report.style import template, translucent
from mech_grok.report.tables import Table, number, picked

AMPLITUDE = "logit_cosine_amplitude"
"""Of the progress probe: (seed, step, split, frequency)."""


@dataclass(frozen=True)
class Amplitudes:
    """How much of each key frequency is in the logits of one seed.

    Attributes:
        steps: [step].
        frequencies: [frequency], the seed's own.
        values: [frequency, step], logits.
    """

    cell: Cell
    seed: int
    steps: NDArray[np.int32]
    frequencies: tuple[int, ...]
    values: NDArray[np.float32]


def compute_amplitudes(runs: Sequence[Run]) -> list[Amplitudes]:
    """Of every cell and seed that has key frequencies, over all pairs."""
    keys = compute_key_frequencies(runs)
    found = []
    for cell, data in with_probe(runs, "progress"):
        known = keys.get(cell.index)
        for seed, own in _of_each_seed(known) if known else ():
            if own:
                there = data[AMPLITUDE].sel(split="all", seed=seed, frequency=list(own))
                steps = there["step"].values.astype(np.int32)
                values = single_precision(there.transpose("frequency", "step").values)
                found.append(Amplitudes(cell, seed, steps, own, values))
    return found


def _of_each_seed(keys: StepArray) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every seed with its key frequencies."""
    for seed, marked in zip(keys.seeds, keys.values[:, 0], strict=True):
        yield seed, tuple(int(k) for k, is_key in zip(keys.coords[0], marked, strict=True) if is_key == 1)


def amplitude_figures(runs: Sequence[Run]) -> list[Figure]:
    """One figure, a panel for each cell; none where no seed has key frequencies."""
    found = compute_amplitudes(runs)
    by_cell: dict[Cell, list[Amplitudes]] = {}
    for one in found:
        by_cell.setdefault(one.cell, []).append(one)
    if not by_cell:
        return []
    figure = Figure(
        slug="key-amplitudes",
        title="Amplitude of each key frequency in the logits",
        caption="A line for each key frequency k of each seed, named at its end where there is room: how "
        "much of cos(2πk(a + b &minus; c)/p) is in the logits. Look for the frequencies that grow together "
        "as the circuit forms, and for those that are given up again. Select one seed to see its own.",
        panels=tuple(
            Panel(draw_amplitudes(own), cell.label if len(by_cell) > 1 else "", cell)
            for cell, own in by_cell.items()
        ),
        table=_table_of_amplitudes(found),
        width="large",
    )
    return [figure]


def draw_amplitudes(own: Sequence[Amplitudes]) -> go.Figure:
    """A thin line for each seed and key frequency of one cell, with its frequency at the end."""
    figure = go.Figure(layout={"template": template()})
    named = _with_room(own)
    for one in own:
        for k, values in zip(one.frequencies, one.values, strict=True):
            figure.add_trace(_amplitude(one, k, values, name=(one.seed, k) in named))
    figure.update_xaxes(title_text="step", tickformat=",", tickangle=0, nticks=5, rangemode="tozero")
    figure.update_yaxes(title_text="amplitude (logits)", nticks=6)
    return figure.update_layout(height=320)


def _with_room(own: Sequence[Amplitudes], share: float = 0.05) -> set[tuple[int, int]]:
    """(seed, frequency) of the lines whose names do not overlap, the strongest first.

    Args:
        share: of the largest amplitude: the least distance of two names.
    """
    ends = {
        (one.seed, k): float(x)
        for one in own
        for k, x in zip(one.frequencies, one.values[:, -1], strict=True)
        if np.isfinite(x)
    }
    room = share * largest([one.values for one in own])
    kept: dict[tuple[int, int], float] = {}
    for line, end in sorted(ends.items(), key=lambda item: -item[1]):
        if all(abs(end - other) >= room for other in kept.values()):
            kept[line] = end
    return set(kept)


def _amplitude(one: Amplitudes, k: int, values: NDArray[np.float32], *, name: bool) -> go.Scatter:
    return go.Scatter(
        x=one.steps,
        y=values,
        mode="lines+text" if name else "lines",
        text=[*[""] * (len(values) - 1), f" {k}"] if name else None,
        textposition="middle right",
        textfont={"size": 10.5, "color": one.cell.colour},
        cliponaxis=False,
        line={"color": translucent(one.cell.colour, 0.75), "width": 1.4},
        name=f"{one.cell.label} k = {k}, seed {one.seed}",
        hovertemplate=f"<b>{one.cell.label}</b>, seed {one.seed}, k = {k}<br>step %{{x:,}}<br>%{{y:.4g}}"
        "<extra></extra>",
        showlegend=False,
        meta={
            "cell": one.cell.index,
            "split": "all",
            "seed": one.seed,
            "apart": True,
            "quantity": f"amplitude of frequency {k}",
        },
    )


def _table_of_amplitudes(found: Sequence[Amplitudes]) -> Table:
    picks = picked([one.steps for one in found])
    rows = []
    for one in found:
        for k, values in zip(one.frequencies, one.values, strict=True):
            at = {int(step): number(value) for step, value in zip(one.steps, values, strict=True)}
            cells = (at.get(int(pick), "&ndash;") for pick in picks)
            rows.append((one.cell.label, str(one.seed), str(k), *cells))
    header = ("cell", "seed", "frequency", *(f"step {step:,}" for step in picks))
    return Table(header, tuple(rows), "Logits, single seeds, at a few of the checkpoints.")
