"""Numbers of several cells' curves, as far as they were measured, and how two of them compare."""

from collections.abc import Callable, Mapping, Sequence

import xarray as xr

from mech_grok.paper.cells import PaperCell
from mech_grok.paper.checks.onsets import Naming, full_label
from mech_grok.paper.measures import Measured, last_step
from mech_grok.paper.published import published

Level = Callable[[xr.DataArray], float | None]
Levels = Mapping[PaperCell, float | None]
"""None where it is not known."""


def levels(cells: Sequence[PaperCell], curve: str, of: Level, measured: Measured) -> Levels:
    """A number of each cell's curve."""
    curves = {cell: measured.get((cell.name, curve)) for cell in cells}
    return {cell: None if one is None else of(one) for cell, one in curves.items()}


def is_whole(curve: xr.DataArray) -> bool:
    """Whether it goes on to the published number of steps."""
    return last_step(curve) >= published().steps


def of_whole(of: Level) -> Level:
    """The same number, or None of a curve that ends too early."""
    return lambda curve: of(curve) if is_whole(curve) else None


def labelled(found: Levels, label: Naming = full_label) -> list[tuple[str, float | None]]:
    """The numbers with the names of their cells."""
    return [(label(cell), level) for cell, level in found.items()]


def is_below(one: float | None, other: float | None) -> bool | None:
    """Whether one number is smaller; None if either is not known."""
    return None if one is None or other is None else one < other


def ratio(one: float | None, other: float | None) -> float | None:
    """One number over the other; None if either is not known."""
    return None if one is None or not other else one / other
