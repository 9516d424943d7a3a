"""What was measured, beside what was published: the table of a figure."""

from collections.abc import Collection, Iterator
from itertools import chain

import xarray as xr

from mech_grok.paper.figures import Figure
from mech_grok.paper.limits import (
    ENTROPY_WITHIN,
    VALUE_WITHIN,
    band_text,
    close,
    in_band,
    near,
    same_step,
    step_within,
)
from mech_grok.paper.measures import MEASURES, Measured, last_step, matching_step, means, of_common_seeds
from mech_grok.paper.orders import order_row, series_order_row
from mech_grok.paper.published import Curve, Number, Published, PublishedNumbers, PublishedSeries, published
from mech_grok.paper.row import Row


def figure_rows(figure: Figure, measured: Measured, values: Published | None = None) -> list[Row]:
    """The table of a figure: seeds, numbers, curves at their published steps, orders; empty if none is known.

    Ours are means over the published seeds alone. The published means and bands are over all of these; a row
    whose curve lacks some of them is judged, and says over how many it is.

    Args:
        measured: cells and curves may be missing; so may seeds and steps.
        values: what was published; by default all that was.
    """
    values = (values or published()).of(figure.name)
    if not (values.numbers or values.series or values.orders):
        return []
    shown = {cell.name for cell in figure.cells}
    ours = {key: _of_published_seeds(curve, values) for key, curve in measured.items() if key[0] in shown}
    rows = [_seeds_row(ours, values)]
    for row in chain(_number_rows(values, ours), _series_rows(values, ours)):
        rows.append(_with_seeds(row, [row.cell], row.quantity, ours, values))
    for order in values.orders:
        cells = list(chain(*order.first_to_last))
        compared = of_common_seeds(_of_curve(ours, order.quantity), cells)
        rows.append(_with_seeds(order_row(order, compared), cells, order.quantity, compared, values))
    for series in values.series:
        compared = of_common_seeds(_of_curve(ours, series.quantity), series.cells)
        if row := series_order_row(series, compared):
            rows.append(_with_seeds(row, series.cells, series.quantity, compared, values))
    return rows


def _of_published_seeds(curve: xr.DataArray, values: Published) -> xr.DataArray:
    return curve.sel(seed=[seed for seed in values.seeds if seed in curve["seed"].values])


def _of_curve(ours: Measured, quantity: str) -> Measured:
    """The curves that a quantity is taken from."""
    name = MEASURES[quantity].curve if quantity in MEASURES else quantity
    return {key: curve for key, curve in ours.items() if key[1] == name}


def _seeds_row(ours: Measured, values: Published) -> Row:
    """Which of the published seeds every measured curve has."""
    held = [curve["seed"].values for curve in ours.values()]
    common = [seed for seed in values.seeds if held and all(seed in having for having in held)]
    return Row(
        quantity="seeds and splits",
        cell="",
        step=None,
        ours=", ".join(map(str, common)) or None,
        published=", ".join(map(str, values.seeds)),
        limit="the same",
        inside=True if len(common) == len(values.seeds) else None,
        note="the splits are the published ones; initial weights are drawn from the same distribution",
    )


def _with_seeds(row: Row, cells: Collection[str], quantity: str, ours: Measured, values: Published) -> Row:
    """The row, with a note if the quantity's curve of one of the cells lacks a seed."""
    held = [curve.sizes["seed"] for (cell, _), curve in _of_curve(ours, quantity).items() if cell in cells]
    fewest, all_of_them = min(held, default=len(values.seeds)), len(values.seeds)
    return row.noted(f"over {fewest} of {all_of_them} seeds") if fewest < all_of_them else row


def _number_rows(values: Published, ours: Measured) -> Iterator[Row]:
    for numbers in values.numbers:
        for cell, value in numbers.cells.items():
            curve = ours.get((cell, MEASURES[numbers.quantity].curve))
            found = None if curve is None else MEASURES[numbers.quantity].of(curve)
            last = 0 if curve is None else last_step(curve)
            inside, note = _number_verdict(numbers, value, found, last, values.steps)
            yield Row(
                quantity=numbers.quantity,
                cell=cell,
                step=None,
                ours=found,
                published=value,
                limit=f"never by step {values.steps:,}"
                if value is None
                else f"within {_within(numbers):.0%}",
                inside=inside,
                note=note if last else "not measured",
                source=f"{numbers.kind}: {numbers.where}",
            )


def _within(numbers: PublishedNumbers) -> float:
    return step_within(numbers.kind) if MEASURES[numbers.quantity].is_first_time else VALUE_WITHIN


def _number_verdict(
    numbers: PublishedNumbers, value: Number | None, ours: Number | None, last: int, horizon: int
) -> tuple[bool | None, str]:
    """Whether a number is inside, and a note."""
    if MEASURES[numbers.quantity].is_first_time:
        step = None if ours is None else int(ours)
        inside = same_step(step, value, _within(numbers), last, horizon)
        return inside, f"not by step {last:,}" if ours is None else ""
    if ours is None or value is None or last < horizon:
        return None, f"measured until step {last:,} of {horizon:,}"
    return close(ours, value, _within(numbers)), ""


def _series_rows(values: Published, ours: Measured) -> Iterator[Row]:
    for series in values.series:
        for cell, curve in series.cells.items():
            measured = ours.get((cell, series.quantity))
            yield from _curve_rows(series, cell, curve, {} if measured is None else means(measured))


def _curve_rows(series: PublishedSeries, cell: str, curve: Curve, ours: dict[int, float]) -> Iterator[Row]:
    for i, step in enumerate(series.steps):
        at = matching_step(step, list(ours))
        inside, limit = _curve_verdict(series.quantity, curve, i, None if at is None else ours[at])
        before = f"ours at step {at}, before the first update" if at != step else ""
        yield Row(
            quantity=series.quantity,
            cell=cell,
            step=step,
            ours=None if at is None else ours[at],
            published=curve.mean[i],
            limit=limit,
            inside=inside,
            note="not measured at this step" if at is None else before,
            source=f"{series.kind}: {series.where}",
        )


def _curve_verdict(quantity: str, curve: Curve, i: int, ours: float | None) -> tuple[bool | None, str]:
    """Whether a curve is inside at the i-th step, and what that takes."""
    if curve.low is None or curve.high is None:
        return (None if ours is None else near(ours, curve.mean[i])), f"within {ENTROPY_WITHIN}"
    low, high = curve.low[i], curve.high[i]
    inside = None if ours is None else in_band(quantity, ours, low, high)
    return inside, band_text(quantity, low, high)
