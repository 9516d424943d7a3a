"""The published values: spot checks against their source, and that they fit together."""

import json

import pydantic
import pytest

from mech_grok.generalisation import TEST_ACCURACY
from mech_grok.paper.curves import CURVES, METRICS
from mech_grok.paper.figures import FIGURES
from mech_grok.paper.measures import MEASURES
from mech_grok.paper.published import Curve, Published, PublishedSeries, published

ENTRIES = (*published().numbers, *published().series, *published().orders)


def numbers(figure: str, quantity: str) -> dict[str, float | None]:
    """All numbers of a quantity in a figure."""
    found = [n for n in published().of(figure).numbers if n.quantity == quantity]
    return {cell: value for n in found for cell, value in n.cells.items()}


def series_of(figure: str, quantity: str, cell: str) -> list[PublishedSeries]:
    """The series of a quantity in a figure that have a cell."""
    return [s for s in published().of(figure).series if s.quantity == quantity and cell in s.cells]


def value(figure: str, quantity: str, cell: str, step: int) -> tuple[float, float | None, float | None]:
    """Mean, low and high of the first such curve that has a step."""
    series = next(s for s in series_of(figure, quantity, cell) if step in s.steps)
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


def test_values_on_curves() -> None:
    assert value("fig2", "c_fourier", "off", 10_000) == (3.347172, 3.065869, 3.991751)
    assert value("fig2", "c_fourier", "mlp-pre", 1) == (0.008934, 0.008089, 0.010411)
    assert value("fig2", "train_loss", "pre", 40) == (2.74393, 2.7068, 2.79327)
    assert value("fig2", "train_loss", "off", 100) == (3.31373, 3.2817, 3.35006)
    assert value("fig2", "test_loss", "mlp-pre", 200) == (6.29608, 5.76691, 6.78264)
    assert value("fig2", "test_accuracy", "off", 4000) == (0.227881, 0.137279, 0.28183)
    assert value("fig3", "attention_entropy", "attn-pre-qk", 10_000) == (0.77042, None, None)
    assert value("fig3", "test_loss", "attn-pre-qk", 10_000) == (15.9691, 2.89231, 27.2157)
    assert value("fig3", "sr_train", "mlp-pre", 10_000) == (2.67803, 1.88301, 3.42884)
    assert value("fig4", "test_loss", "off_weight_decay=0.1", 10_000) == (34.3648, 30.3768, 37.8159)
    assert value("fig4", "test_loss", "off_lr=0.003_weight_decay=0.3333", 7200) == (
        0.181186,
        5.24471e-08,
        0.903631,
    )
    assert value("fig5", "test_loss", "off_readout_scale=1.5", 7000) == (1.20781, 1.8478e-07, 6.03873)
    assert value("fig5", "test_loss", "off_readout_scale=0.5_lr=0.004", 2000) == (
        0.012852,
        2.47665e-07,
        0.0637426,
    )
    assert value("fig4", "update_norm", "off_lr=0.01_weight_decay=0.1", 1) == (4.65419, 4.63801, 4.66868)
    assert value("fig5", "test_loss", "off_activation=gelu_init=kaiming_eps=0", 40) == (
        5.53109,
        5.50399,
        5.57356,
    )
    assert value("fig6", "effective_rank", "mlp-pre", 200) == (57.646, 49.781, 61.076)
    assert value("fig9", "effective_rank", "off_weight_decay=1.5", 10_000) == (6.957, 2.671, 13.922)
    assert value("ntk", "kernel_drift", "off_readout_scale=0.5", 200) == (833.91, 674.92, 1085.24)


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
        every = 10 if CURVES[series.quantity].source == METRICS else 200
        assert all(step == 1 or step % every == 0 for step in series.steps)
    assert all(name in CURVES for names in drawn.values() for name in names)


def test_every_value_says_where_it_is_from() -> None:
    assert all(entry.where for entry in ENTRIES)
    assert {entry.kind for entry in ENTRIES} == {"data file", "read off a figure"}


def test_one_cell_has_the_same_values_in_every_figure() -> None:
    found: dict[tuple[str, str, int], tuple[float, ...]] = {}
    shared = 0
    for series in published().series:
        for cell, curve in series.cells.items():
            ends = (curve.mean, curve.low or curve.mean, curve.high or curve.mean)
            for step, *here in zip(series.steps, *ends, strict=True):
                key = series.quantity, cell, step
                shared += key in found
                assert found.setdefault(key, tuple(here)) == tuple(here), key
    assert shared > 20
    off = {
        n.cells["off"]
        for n in published().numbers
        if n.quantity == "generalisation_step" and "off" in n.cells
    }
    assert off == {7763}


def test_a_placement_generalises_where_its_accuracy_passes_the_threshold() -> None:
    for cell, generalised in numbers("fig2", "generalisation_step").items():
        (series,) = series_of("fig2", "test_accuracy", cell)
        means = dict(zip(series.steps, series.cells[cell].mean, strict=True))
        assert all(mean < TEST_ACCURACY for step, mean in means.items() if step < (generalised or 0))
        assert means[10_000] >= TEST_ACCURACY


def test_steps_fit_the_test_losses_of_their_figure() -> None:
    seen = 0
    for figure in ("fig2", "fig3", "fig4", "fig5"):
        for cell, generalised in numbers(figure, "generalisation_step").items():
            for series in series_of(figure, "test_loss", cell):
                means = dict(zip(series.steps, series.cells[cell].mean, strict=True))
                before = [loss for step, loss in means.items() if step < (generalised or 10_001)]
                assert all(loss > 0.1 for loss in before), (figure, cell)
                assert generalised is None or means[10_000] < 0.05, (figure, cell)
                seen += len(before)
    assert seen > 40


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
    tree = published().of("ntk").series[0].model_dump() | {"steps": [1, 2]}
    with pytest.raises(pydantic.ValidationError, match="9 values for 2 steps"):
        PublishedSeries.model_validate(tree)


def test_a_quantity_without_a_rule() -> None:
    tree = json.loads(published().model_dump_json())
    del tree["rules"]["c_fourier"]
    with pytest.raises(pydantic.ValidationError, match="no rule says how c_fourier"):
        Published.model_validate(tree)
