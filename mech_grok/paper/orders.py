"""Whether our cells come in the published order."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import xarray as xr

from mech_grok.paper.limits import are_told_apart, as_compared
from mech_grok.paper.measures import MEASURES, Measured, last_step, matching_step, means
from mech_grok.paper.published import Number, PublishedOrder, PublishedSeries
from mech_grok.paper.row import Row, joined

_SHOWN = 4
"""How many pairs that are not known a note names."""


def order_row(order: PublishedOrder, measured: Measured) -> Row:
    """Cells by the step at which something first happens to each; those to which it does not come last.

    Of two cells of different groups it is not known which comes first if it happens to neither, or if it may
    yet happen to one of them before it did to the other.
    """
    cells = [cell for group in order.first_to_last for cell in group]
    ours = _first_times(cells, order.quantity, measured)
    pairs = [(a, b) for a, b in combinations(cells, 2) if order.rank(a) < order.rank(b)]
    unknown = [p for p in pairs if not (ours.keys() >= set(p) and is_known(ours[p[0]], ours[p[1]]))]
    swapped = [(a, b) for a, b in pairs if (a, b) not in unknown and ours[a].step > ours[b].step]
    found = sorted(ours, key=lambda cell: ours[cell].step)
    return Row(
        quantity=f"order of {order.quantity}",
        cell="",
        step=None,
        ours=", ".join(cell + ours[cell].censored for cell in found) or None,
        published=", ".join(" = ".join(group) for group in order.first_to_last),
        limit="the same order",
        inside=False if swapped else None if unknown else True,
        note=_note([" and ".join(p) for p in swapped], [" and ".join(p) for p in unknown]),
        source=f"{order.kind}: {order.where}",
    )


def series_order_row(series: PublishedSeries, measured: Measured) -> Row | None:
    """Cells by their curve's mean at each published step, wherever the published curves have an order.

    None if they have none anywhere.
    """
    curves = {cell: measured.get((cell, series.quantity)) for cell in series.cells}
    ours = {cell: {} if curve is None else means(curve) for cell, curve in curves.items()}
    swapped: list[str] = []
    unknown: list[str] = []
    count = 0
    for i, step in enumerate(series.steps):
        for pair in (p for p in combinations(series.cells, 2) if are_told_apart(series, *p, i)):
            count += 1
            same = _is_same_order(series, pair, i, ours)
            if not same:
                (unknown if same is None else swapped).append(f"{' and '.join(pair)} at {step}")
    if not count:
        return None
    return Row(
        quantity=f"order of {series.quantity}",
        cell="",
        step=None,
        ours=f"{count - len(swapped) - len(unknown)} the same",
        published=f"{count} pairs of cells that can be told apart, over {len(series.steps)} steps",
        limit="the same order at every published step",
        inside=False if swapped else None if unknown else True,
        note=_note(swapped, unknown),
        source=f"{series.kind}: {series.where}",
    )


class FirstTime(NamedTuple):
    """When something first happened, infinity if it did not; and until when it was looked for."""

    step: Number
    last: int

    @property
    def text(self) -> str:
        """In words that follow a name: `at 670`, `not by 10,000`."""
        return f"at {self.step:,}" if self.step < math.inf else f"not by {self.last:,}"

    @property
    def censored(self) -> str:
        return "" if self.step < math.inf else f" (not by {self.last:,})"


def _first_times(cells: Sequence[str], quantity: str, measured: Measured) -> dict[str, FirstTime]:
    """Of the cells that were measured."""
    measure = MEASURES[quantity]
    known = {cell: measured.get((cell, measure.curve)) for cell in cells}
    return {cell: first_time(curve, measure.of) for cell, curve in known.items() if curve is not None}


def first_time(curve: xr.DataArray, step_of: Callable[[xr.DataArray], Number | None]) -> FirstTime:
    """When something first happened on a curve (seed, step), by a rule that gives the step or None."""
    step = step_of(curve)
    return FirstTime(math.inf if step is None else step, last_step(curve))


def is_known(one: FirstTime, other: FirstTime) -> bool:
    """Whether the earlier one happened, and before the other one was lost sight of."""
    first = min(one.step, other.step)
    return first <= min(one.last, other.last)


def _is_same_order(
    series: PublishedSeries, pair: tuple[str, str], at: int, ours: Mapping[str, Mapping[int, float]]
) -> bool | None:
    """Whether two curves have the published order at a step; None where one of ours has no value."""
    steps = [matching_step(series.steps[at], list(ours[cell])) for cell in pair]
    if None in steps:
        return None
    found = (ours[cell][step] for cell, step in zip(pair, steps, strict=True) if step is not None)
    a, b = (as_compared(series.quantity, value) for value in found)
    one, other = (series.cells[cell].mean[at] for cell in pair)
    return (a < b) == (one < other) and a != b


def _note(swapped: Sequence[str], unknown: Sequence[str]) -> str:
    shown = [*unknown[:_SHOWN], *([f"{len(unknown) - _SHOWN} more"] if len(unknown) > _SHOWN else [])]
    told = {"swapped": swapped, "not known": shown}
    return joined(f"{word}: {', '.join(pairs)}" for word, pairs in told.items() if pairs)
