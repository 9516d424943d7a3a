"""The key frequencies of each seed, as marks beside what is drawn over frequencies."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from mech_grok.report.byte_arrays import ByteArray
from mech_grok.report.cells import Run, with_probe
from mech_grok.report.checkpoints import StepArray, step_array
from mech_grok.report.style import INK

Side = Literal["top", "right"]

MARKED = (
    " Triangles mark the key frequencies of the training: of the selected seed, else of any seed, the "
    "stronger the more seeds have them."
)


def compute_key_frequencies(runs: Sequence[Run]) -> dict[int, StepArray]:
    """Cell index -> 1 for the key frequencies of the training, else 0: [seed, 1, frequency].

    They are those of the last checkpoint, which every other one is read with.
    """
    return {
        cell.index: step_array("key_frequency", cell, data["key_frequency_frozen"].isel(step=[-1]))
        for cell, data in with_probe(runs, "key_frequencies")
    }


def keys_of(keys: Mapping[int, StepArray], shown: Sequence[StepArray | ByteArray]) -> tuple[StepArray, ...]:
    """The key frequencies of the cells that some arrays are of."""
    cells = {a.cell.index for a in shown}
    return tuple(array for cell, array in keys.items() if cell in cells)


def add_marks(
    figure: go.Figure, keys: StepArray | None, side: Side, level: float, of: ByteArray | None = None
) -> None:
    """Mark key frequencies along an axis of frequencies: a triangle on each, nothing where none is known.

    Args:
        side: `top` for frequencies on the x axis, `right` for those on the y axis.
        level: where on the other axis.
        of: what shows one seed, whose key frequencies alone are then marked.
    """
    if keys is None:
        return
    seeds = [keys.seeds.index(of.seeds[0])] if of else range(len(keys.seeds))
    counts = np.nansum(keys.values[list(seeds), 0], axis=0).astype(int)
    at = np.flatnonzero(counts)
    along, across = ("x", "y") if side == "top" else ("y", "x")
    figure.add_scatter(
        **{along: [keys.coords[0][i] for i in at], across: [level] * len(at)},
        mode="markers",
        marker={
            "symbol": {"top": "triangle-down", "right": "triangle-left"}[side],
            "size": 8,
            "color": INK,
            "opacity": [_opacity(counts[i] / len(seeds)) for i in at],
        },
        cliponaxis=False,
        showlegend=False,
        customdata=[f"seed {of.seeds[0]}" if of else f"{counts[i]} of {len(seeds)} seeds" for i in at],
        hovertemplate=f"key frequency %{{{along}}}: %{{customdata}}<extra></extra>",
        meta={"array": keys.key, "marks": along, "level": level, **({"of": of.key} if of else {})},
    )


def _opacity(share: float) -> float:
    """As in `arrays.js`: pale for few of the seeds, full for all."""
    return round(0.4 + 0.6 * share, 3)
