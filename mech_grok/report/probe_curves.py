"""Quantities of a probe as curves through training, one panel each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from mech_grok.report.cells import Cell, Run, with_probe
from mech_grok.report.lines import Curve, Lines, curve


@dataclass(frozen=True)
class Tracked:
    """One quantity of a probe, and the panel that follows it.

    Attributes:
        variable: its name in the probe.
        title: what the panel shows, in HTML.
        y_title: the quantity and its unit, in HTML.
        at: dimension -> the label at which it is taken.
        log: whether the y axis starts logarithmic.
        y_range: fixed [low, high] of a linear axis.
    """

    variable: str
    title: str
    y_title: str
    at: Mapping[str, str] = field(default_factory=dict)
    log: bool = False
    y_range: tuple[float, float] | None = None


def compute_tracked(runs: Sequence[Run], probe: str, tracked: Sequence[Tracked]) -> tuple[Lines, ...]:
    """A panel for each quantity that some run has a value of, on train and test where it has splits."""
    cells = with_probe(runs, probe)
    panels = (
        Lines(t.title, t.y_title, tuple(_curves(cells, t)), log=t.log, y_range=t.y_range) for t in tracked
    )
    return tuple(panel for panel in panels if panel.curves)


def by_label(
    runs: Sequence[Run], probe: str, tracked: Tracked, dim: str, title: Callable[[str], str]
) -> tuple[Lines, ...]:
    """A panel for each label of a dimension of one quantity, in the order in which the runs have them.

    Args:
        title: from a label to what its panel is called, in HTML.
    """
    data = [d for _, d in with_probe(runs, probe) if tracked.variable in d]
    labels = dict.fromkeys(str(label) for d in data for label in d[dim].values)
    panels = [replace(tracked, title=title(label), at={**tracked.at, dim: label}) for label in labels]
    return compute_tracked(runs, probe, panels)


def _curves(cells: Sequence[tuple[Cell, xr.Dataset]], tracked: Tracked) -> list[Curve]:
    found = []
    for cell, data in cells:
        if tracked.variable not in data or not all(v in data[d].values for d, v in tracked.at.items()):
            continue
        values = data[tracked.variable].sel(tracked.at)
        if np.isfinite(values).any():
            found += both_splits(cell, values) if "split" in values.dims else [curve(cell, values)]
    return found


def both_splits(cell: Cell, data: xr.DataArray) -> list[Curve]:
    """The curves of a (seed, step, split) array on train and test."""
    return [curve(cell, data.sel(split=split), split) for split in ("train", "test")]
