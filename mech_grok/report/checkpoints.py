"""Figures that show one checkpoint, or a whole table of values over checkpoints, for one cell.

Their traces carry in `meta` which array they show, so that the page can redraw them for another step or seed:
`array` names it, `at` fixes its leading dimensions after (seed, step), or `choices` does, one entry for each
choice of the figure, and `history` says that the trace shows all steps at once. `shown` in `arrays.js` has
the few other kinds of trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mech_grok.report.cells import Cell, Run, with_probe
from mech_grok.report.lines import over_seeds, single_precision
from mech_grok.report.style import MUTED, SEQUENTIAL, template


@dataclass(frozen=True)
class StepArray:
    """One quantity of one cell at every checkpoint.

    Attributes:
        key: its name on the page.
        seeds, steps: what the first two dimensions of `values` are.
        dims: names of the others.
        coords: their values.
        values: [seed, step, *dims].
        snaps: whether the page shows it as a `ByteArray`: one seed at a time, at the nearest of few steps.
    """

    key: str
    cell: Cell
    seeds: tuple[int, ...]
    steps: NDArray[np.int32]
    dims: tuple[str, ...]
    coords: tuple[tuple[str | int | float, ...], ...]
    values: NDArray[np.float32]
    snaps: bool = False

    @property
    def mean(self) -> NDArray[np.float32]:
        """[step, *dims]: mean over the seeds with a value."""
        return over_seeds(self.values)[0]


def step_array(key: str, cell: Cell, data: xr.DataArray, *, snaps: bool = False) -> StepArray:
    """The StepArray of a (seed, step, ...) array."""
    dims = tuple(str(d) for d in data.dims[2:])
    return StepArray(
        key=f"{key}:{cell.index}",
        cell=cell,
        seeds=tuple(int(s) for s in data["seed"].values),
        steps=data["step"].values.astype(np.int32),
        dims=dims,
        coords=tuple(
            tuple(data[d].values.tolist()) if d in data.coords else tuple(range(data.sizes[d])) for d in dims
        ),
        values=single_precision(data.values),
        snaps=snaps,
    )


def compute_patterns(runs: Sequence[Run]) -> tuple[StepArray, ...]:
    """Attention patterns, mean over all pairs: [seed, step, layer, head, query, key]; one per cell."""
    return tuple(step_array("pattern", cell, d["pattern"]) for cell, d in with_probe(runs, "attention"))


def draw_patterns(info: StepArray) -> go.Figure:
    """One annotated heat map per head at the last checkpoint, mean over seeds; two heads a row."""
    layers, heads = info.values.shape[2:4]
    rows = -(-heads // 2)
    titles = [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]
    figure = make_subplots(
        rows=layers * rows,
        cols=min(2, heads),
        subplot_titles=titles,
        horizontal_spacing=0.07,
        vertical_spacing=0.2 / (layers * rows),
        shared_xaxes=True,
        shared_yaxes=True,
    )
    for layer, head in np.ndindex(layers, heads):
        trace = _pattern(info, layer, head)
        figure.add_trace(trace, row=layer * rows + head // 2 + 1, col=head % 2 + 1)
    figure.update_annotations(font_size=12, yshift=2)
    figure.update_xaxes(showline=False, ticks="", title_standoff=4)
    figure.update_yaxes(autorange="reversed", showgrid=False, title_standoff=4)
    figure.update_xaxes(title_text="key", row=layers * rows)
    figure.update_yaxes(title_text="query", col=1)
    figure.update_layout(template=template(), height=52 + 148 * layers * rows, margin_t=26)
    return figure


def _pattern(info: StepArray, layer: int, head: int) -> go.Heatmap:
    queries, keys = info.coords[2:]
    return go.Heatmap(
        z=info.mean[-1, layer, head],
        x=keys,
        y=queries,
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        showscale=False,
        xgap=2,
        ygap=2,
        texttemplate="%{z:.2f}",
        hovertemplate="from %{y} to %{x}: %{z:.4f}<extra></extra>",
        meta={"array": info.key, "at": [layer, head]},
    )


def largest(values: Sequence[NDArray[np.floating]]) -> float:
    """The largest finite magnitude in several arrays, the end of a common scale; 1 where all are 0."""
    finite = np.concatenate([np.abs(v[np.isfinite(v)]) for v in values])
    return float(finite.max(initial=0.0)) or 1.0


def time_span(arrays: Sequence[StepArray]) -> tuple[float, float]:
    """From half a checkpoint before the first to half a one after the last, over several arrays.

    A run that begins later, or ends earlier, than another on the page is then seen to.
    """
    steps = np.unique(np.concatenate([a.steps for a in arrays]))
    half = 0.5 * float(np.median(np.diff(steps))) if steps.size > 1 else 0.5
    return float(steps[0]) - half, float(steps[-1]) + half


def colour_bar(title: str) -> dict[str, object]:
    """The colour bar of an exported heat map."""
    return {
        "thickness": 8,
        "outlinewidth": 0,
        "xpad": 4,
        "nticks": 5,
        "title": {"text": title, "font": {"size": 11}},
        "tickfont": {"size": 11, "color": MUTED},
    }
