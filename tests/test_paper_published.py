"""The published values: spot checks against their source, and that they fit together."""

import json

import pydantic
import pytest

from mech_grok.paper.curves import CURVES
from mech_grok.paper.figures import FIGURES
from mech_grok.paper.measures import MEASURES
from mech_grok.paper.published import Curve, Published, PublishedSeries, published

ENTRIES = (*published().numbers, *published().series, *published().orders)


def numbers(figure: str, quantity: str) -> dict[str, float | None]:
    """All numbers of a quantity in a figure."""
    found = [n for n in published().of(figure).numbers if n.quantity == quantity]
    return {cell: value for n in found for cell, value in n.cells.items()}


def value(figure: str, cell: str, step: int) -> tuple[float, float | None, float | None]:
    """Mean, low and high of the first curve of a figure with a cell, at a step."""
    series = next(s for s in published().of(figure).series if cell in s.cells)
    curve, i = series.cells[cell], series.steps.index(step)
    if curve.low is None or curve.high is None:
        return curve.mean[i], None, None
    return curve.mean[i], curve.low[i], curve.high[i]


def test_the_set_up() -> None:
    known = published()
    assert (known.p, known.seeds, known.steps) == (113, (456, 789, 111, 222, 333), 10_000)
    assert "2602.06702" in known.paper
    assert known.licence == "MIT"


def test_steps_of_the_four_placements() -> None:
    steps = {"mlp-pre": 954, "pre": 3297, "attn-pre": 7126, "off": 7763}
    assert numbers("fig2", "generalisation_step") == steps
    assert numbers("fig2", "first_perfect_step") == {
        "mlp-pre": 859,
        "pre": 2510,
        "attn-pre": 3718,
        "off": 6613,
    }


def test_values_read_off_figures() -> None:
    found = numbers("fig4", "generalisation_step")
    assert found["off_weight_decay=0.75"] == 9000
    assert found["off_weight_decay=0.5"] is None
    assert found["off_lr=0.01_weight_decay=0.1"] == 4000
    assert numbers("fig5", "generalisation_step")["off_readout_scale=0.5_lr=0.004"] == 1700
    assert numbers("fig3", "generalisation_step") == {"attn-pre-v": 1700, "attn-pre-qk": None}
    assert {n.kind for f in ("fig3", "fig4", "fig5") for n in published().of(f).numbers} == {
        "read off a figure"
    }


def test_values_on_curves() -> None:
    assert value("fig2", "off", 10_000) == (3.347172, 3.065869, 3.991751)
    assert value("fig2", "mlp-pre", 1) == (0.008934, 0.008089, 0.010411)
    assert value("fig3", "attn-pre-qk", 10_000) == (0.77042, None, None)
    assert value("fig6", "mlp-pre", 200) == (57.646, 49.781, 61.076)
    assert value("fig9", "off_weight_decay=1.5", 10_000) == (6.957, 2.671, 13.922)
    assert value("ntk", "off_readout_scale=0.5", 200) == (833.91, 674.92, 1085.24)


def test_every_value_is_of_a_cell_that_its_figure_shows() -> None:
    shown = {figure.name: {cell.name for cell in figure.cells} for figure in FIGURES}
    for entry in (*published().numbers, *published().series):
        assert set(entry.cells) <= shown[entry.figure], entry.where
    for order in published().orders:
        assert {cell for group in order.first_to_last for cell in group} <= shown[order.figure], order.where


def test_every_value_can_be_measured_on_a_curve_that_its_figure_draws() -> None:
    drawn = {figure.name: figure.curves for figure in FIGURES}
    for entry in (*published().numbers, *published().orders):
        assert MEASURES[entry.quantity].curve in drawn[entry.figure]
    for series in published().series:
        assert series.quantity in drawn[series.figure]
        assert all(step == 1 or step % 200 == 0 for step in series.steps)
    assert all(name in CURVES for names in drawn.values() for name in names)


def test_every_value_says_where_it_is_from() -> None:
    assert all(entry.where for entry in ENTRIES)
    assert {entry.kind for entry in ENTRIES} == {"data file", "read off a figure"}


def test_one_cell_has_the_same_values_in_every_figure() -> None:
    assert all(value("fig6", "off", step) == value("fig9", "off", step) for step in (200, 5000, 10_000))
    fixed, falling = published().of("ntk").series
    assert fixed.cells["off"] == falling.cells["off"]


def test_the_best_seed_is_not_later_than_the_mean() -> None:
    mean, best = (numbers("fig2", q) for q in ("generalisation_step", "first_perfect_step"))
    assert all((best[cell] or 0) <= (mean[cell] or 0) for cell in mean)


def test_an_order_agrees_with_the_steps_of_its_figure() -> None:
    for order in published().orders:
        steps = numbers(order.figure, order.quantity)
        known = [cell for group in order.first_to_last for cell in group if cell in steps]
        times = [steps[cell] or 10_001 for cell in known]
        assert times == sorted(times)


def test_of_keeps_one_figure() -> None:
    entries = [e for figure in FIGURES for e in _entries(published().of(figure.name))]
    assert sorted(map(repr, entries)) == sorted(map(repr, ENTRIES))
    assert not _entries(published().of("lattice"))


def _entries(values: Published) -> list[object]:
    return [*values.numbers, *values.series, *values.orders]


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"mean": [1.0], "low": [1.1], "high": [1.2]}, "low <= mean <= high"),
        ({"mean": [1.0], "low": [0.9]}, "a low and a high end"),
        ({"mean": [float("nan")]}, "finite"),
    ],
)
def test_a_curve_that_cannot_be(curve: dict[str, list[float]], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Curve.model_validate(curve)


def test_a_curve_as_long_as_its_steps() -> None:
    tree = published().series[0].model_dump() | {"steps": [1, 2]}
    with pytest.raises(pydantic.ValidationError, match="9 values for 2 steps"):
        PublishedSeries.model_validate(tree)


def test_a_quantity_without_a_rule() -> None:
    tree = json.loads(published().model_dump_json())
    del tree["rules"]["c_fourier"]
    with pytest.raises(pydantic.ValidationError, match="no rule says how c_fourier"):
        Published.model_validate(tree)
