"""One curve against another, checkpoint by checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from markupsafe import Markup

from mech_grok.paper.measures import Measured
from mech_grok.paper.pages.quantities import QUANTITIES
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.paper.pages.wording import lowered
from mech_grok.report.cells import Cell
from mech_grok.report.section import Figure, Panel
from mech_grok.report.style import template, translucent
from mech_grok.report.tables import Table, number, picked


@dataclass(frozen=True)
class Path:
    """One seed's way through the plane: [checkpoint] of both quantities, at the steps that have both."""

    cell: Cell
    seed: int
    steps: np.ndarray
    across: np.ndarray
    up: np.ndarray


def paths(names: tuple[str, str], group: ShownGroup, measured: Measured) -> list[Path]:
    """The ways of all seeds of a group's cells that have both curves (across, up)."""
    found = []
    for cell in group.drawn:
        curves = [measured.get((cell.name, name)) for name in names]
        if curves[0] is not None and curves[1] is not None:
            found += list(_paths(cell, curves[0], curves[1]))
    return found


def _paths(cell: Cell, across: xr.DataArray, up: xr.DataArray) -> Iterator[Path]:
    across, up = xr.align(across.transpose("seed", "step"), up.transpose("seed", "step"), join="inner")
    both = np.isfinite(across.values) & np.isfinite(up.values)
    for i, seed in enumerate(across["seed"].values):
        if both[i].any():
            steps = across["step"].values[both[i]]
            yield Path(cell, int(seed), steps, across.values[i, both[i]], up.values[i, both[i]])


def scatter_figure(names: tuple[str, str], groups: Sequence[ShownGroup], measured: Measured) -> Figure | None:
    """A panel for each group; None if no seed has both curves."""
    found = [paths(names, group, measured) for group in groups]
    if not any(found):
        return None
    across, up = (QUANTITIES[name] for name in names)
    return Figure(
        slug="scatter",
        title=Markup(f"{up.title} against {lowered(across.title)}"),
        caption="A point for each checkpoint and seed, the untrained model left out; a faint line follows "
        "one seed through training. Where the cells lie on one curve, the relation does not depend on the "
        "cell.",
        panels=tuple(
            Panel(_draw_paths(names, of_group), group.title if len(groups) > 1 else "")
            for group, of_group in zip(groups, found, strict=True)
        ),
        table=_table_of_paths(names, [path for of_group in found for path in of_group]),
        width="large" if len(groups) > 1 else "single",
    )


def _draw_paths(names: tuple[str, str], found: Sequence[Path]) -> go.Figure:
    figure = go.Figure(layout={"template": template()})
    figure.add_traces([_path_trace(names, path) for path in found])
    across, up = (QUANTITIES[name] for name in names)
    figure.update_xaxes(title_text=across.unit, type="log" if across.log else "linear", tickangle=0)
    figure.update_yaxes(title_text=up.unit, range=up.extent)
    return figure.update_layout(height=400)


def _path_trace(names: tuple[str, str], path: Path) -> go.Scatter:
    across, up = (QUANTITIES[name] for name in names)
    return go.Scatter(
        x=path.across.astype(np.float32),
        y=path.up.astype(np.float32),
        customdata=path.steps.tolist(),
        mode="lines+markers",
        line={"color": translucent(path.cell.colour, 0.22), "width": 1},
        marker={"color": path.cell.colour, "size": 5, "opacity": 0.8},
        hovertemplate=f"<b>{path.cell.label}</b>, seed {path.seed}<br>step %{{customdata:,}}<br>"
        f"{across.unit} %{{x:.4g}}, {up.unit} %{{y:.4g}}<extra></extra>",
        name=path.cell.label,
        showlegend=False,
        meta={
            "cell": path.cell.index,
            "split": "",
            "seed": path.seed,
            "apart": True,
            "against": list(names),
        },
    )


def _table_of_paths(names: tuple[str, str], found: Sequence[Path]) -> Table:
    picks = picked([path.steps for path in found])
    rows = [
        (path.cell.label, str(path.seed), f"{step:,}", number(path.across[i]), number(path.up[i]))
        for path in found
        for i, step in enumerate(path.steps)
        if step in picks
    ]
    header = ("cell", "seed", "step", *(QUANTITIES[name].title for name in names))
    return Table(header, tuple(rows), "Single seeds at a few of the checkpoints.")
