"""Ours beside the published: the limits, the rules and the tables, on curves whose answers are known."""

import math
from collections import defaultdict

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.paper.compare import figure_rows
from mech_grok.paper.figures import FIGURES, find_figure
from mech_grok.paper.limits import are_told_apart, band_text, close, in_band, near, same_step
from mech_grok.paper.measures import (
    MEASURES,
    Measured,
    first_perfect_step,
    generalisation_step,
    last_step,
    matching_step,
    means,
    peak,
    peak_step,
)
from mech_grok.paper.orders import order_row, series_order_row
from mech_grok.paper.published import Curve, PublishedNumbers, PublishedOrder, PublishedSeries, published
from mech_grok.paper.row import Row

SEEDS = published().seeds
NEVER = 99_999


def curve(steps, *values, seeds=None) -> xr.DataArray:
    """One row of values for each seed."""
    names = list(seeds or SEEDS[: len(values)])
    return xr.DataArray(np.array(values, float), {"seed": names, "step": list(steps)}, ("seed", "step"))


def accuracy(*generalised: int, last: int = 10_000, seeds=None) -> xr.DataArray:
    """Half right, then all right from a step on; tested every ten steps, nan at one step between."""
    steps = np.array([1, 5, *range(10, last + 1, 10)])
    rows = [np.where(steps == 5, math.nan, np.where(steps >= g, 1.0, 0.5)) for g in generalised]
    return curve(steps, *rows, seeds=seeds)


@pytest.mark.parametrize(
    ("ours", "value", "last", "inside"),
    [
        (75, 100, 200, True),
        (125, 100, 200, True),
        (74, 100, 200, False),
        (126, 100, 200, False),
        (None, 100, 124, None),  # it may still happen in time
        (None, 100, 125, False),
        (None, None, 1000, True),
        (None, None, 999, None),
        (1000, None, 1000, False),
        (1010, None, 2000, True),
    ],
)
def test_steps_within_a_quarter(ours, value, last, inside) -> None:
    assert same_step(ours, value, 0.25, last, horizon=1000) is inside


@given(
    st.integers(1, 10_000), st.none() | st.integers(1, 10_000), st.integers(0, 20_000), st.integers(0, 20_000)
)
def test_a_verdict_on_a_step_stands_as_training_goes_on(value, ours, last, more) -> None:
    now = same_step(ours, value, 0.25, last, 10_000)
    assert now is None or same_step(ours, value, 0.25, last + more, 10_000) is now


def test_other_limits() -> None:
    assert near(0.75, 0.8)
    assert not near(0.7499, 0.8)
    assert close(4.5, 5.0, 0.1)
    assert not close(4.49, 5.0, 0.1)
    assert in_band("c_fourier", 1.0, 1.0, 2.0)
    assert not in_band("c_fourier", 2.1, 1.0, 2.0)
    assert not any([near(math.nan, 1.0), close(math.nan, 1.0, 0.5), in_band("c_fourier", math.nan, 0.0, 1.0)])


@pytest.mark.parametrize(
    ("quantity", "ours", "low", "high", "inside", "limit"),
    [
        ("test_loss", 5.0, 4.0, 6.0, True, "mean in [4, 6]"),
        ("test_loss", 6.1, 4.0, 6.0, False, "mean in [4, 6]"),
        ("test_loss", 1e-7, 1e-4, 0.5, True, "mean at most 0.5"),  # below the band, but generalised
        ("test_loss", 0.51, 1e-4, 0.5, False, "mean at most 0.5"),
        ("test_loss", 0.01, 1e-7, 1e-6, True, "mean at most 0.01"),
        ("test_loss", 0.011, 1e-7, 1e-6, False, "mean at most 0.01"),
        ("test_loss", 0.009, 0.02, 0.5, False, "mean in [0.02, 0.5]"),
        ("test_loss", math.nan, 1e-7, 1e-6, False, "mean at most 0.01"),
        ("train_loss", 1e-7, 1e-4, 0.5, False, "mean in [0.0001, 0.5]"),
        ("test_accuracy", 0.996, 1.0, 1.0, True, "mean at least 0.995"),
        ("test_accuracy", 0.994, 1.0, 1.0, False, "mean at least 0.995"),
        ("test_accuracy", 0.994, 0.9, 0.997, True, "mean at least 0.9"),
        ("test_accuracy", 1.0, 0.9, 0.99, False, "mean in [0.9, 0.99]"),
    ],
)
def test_networks_that_have_generalised_are_alike(quantity, ours, low, high, inside, limit) -> None:
    assert in_band(quantity, ours, low, high) is inside
    assert band_text(quantity, low, high) == limit


def test_they_have_no_order() -> None:
    ends = {"a": (1e-7, 1e-6), "b": (1e-3, 9e-3), "c": (0.02, 0.03)}
    cells = {name: Curve(mean=(low,), low=(low,), high=(high,)) for name, (low, high) in ends.items()}
    losses = PublishedSeries(
        figure="fig2", quantity="test_loss", kind="data file", where="here", steps=(10,), cells=cells
    )
    ranks = losses.model_copy(update={"quantity": "effective_rank"})
    apart = [("a", "b"), ("a", "c"), ("b", "c")]
    assert [are_told_apart(losses, *pair, 0) for pair in apart] == [False, True, True]
    assert [are_told_apart(ranks, *pair, 0) for pair in apart] == [True, True, True]
    generalised = {(name, "test_loss"): curve([10], [1e-5 + i * 1e-5]) for i, name in enumerate("abc")}
    row = series_order_row(losses, generalised)
    assert (row.inside, row.note) == (False, "swapped: a and c at 10, b and c at 10")


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0.01, 0.9), st.sampled_from([0.5, 2.0, 1024.0]))
def test_a_share_does_not_depend_on_the_unit(ours, value, within, unit) -> None:
    assert close(ours, value, within) == close(ours * unit, value * unit, within)


def test_the_step_of_the_mean_is_not_a_mean_of_steps() -> None:
    # With one of two seeds at 1 the mean is 0.75: it takes both.
    assert generalisation_step(accuracy(100, 500)) == 500
    assert first_perfect_step(accuracy(100, 500)) == 100
    assert generalisation_step(accuracy(100, NEVER)) is None


def test_a_mean_may_pass_the_threshold_with_no_seed_perfect() -> None:
    almost = curve([10, 20, 30], [0.5, 0.994, 0.996], [0.5, 0.995, 0.994])
    assert generalisation_step(almost) == 30
    assert first_perfect_step(almost) is None


def test_steps_at_which_a_seed_was_not_measured_do_not_count() -> None:
    partly = curve([0, 200, 400], [1.0, 2.0, 3.0], [3.0, 4.0, math.nan])
    assert means(partly) == {0: 2.0, 200: 3.0}
    assert last_step(partly) == 200
    assert last_step(curve([0, 200], [math.nan] * 2)) == 0


def test_the_peak_is_of_a_trained_model() -> None:
    shortcut = curve([0, 200, 400, 600], [9.0, 3.0, 6.0, 4.0], [9.0, 3.0, 4.0, 4.0])
    assert (peak(shortcut), peak_step(shortcut)) == (5.0, 400)
    assert MEASURES["sr_train_lowest"].of(shortcut) == 3.0


def test_which_step_a_published_one_is_compared_with() -> None:
    assert matching_step(200, [0, 200]) == 200
    assert matching_step(1, [0, 200]) == 0
    assert matching_step(1, [0, 1, 200]) == 1
    assert matching_step(400, [0, 200]) is None
    assert matching_step(1, [200]) is None


def order(*groups: tuple[str, ...]) -> PublishedOrder:
    return PublishedOrder(
        figure="fig2", quantity="generalisation_step", kind="data file", where="here", first_to_last=groups
    )


def in_order_of(**generalised: int) -> Measured:
    return {(cell, "test_accuracy"): accuracy(step) for cell, step in generalised.items()}


def test_the_same_order() -> None:
    row = order_row(order(("a",), ("b",), ("c",)), in_order_of(c=NEVER, b=300, a=200))
    assert (row.ours, row.inside, row.note) == ("a, b, c (not by 10,000)", True, "")


def test_swapped_pairs_are_named() -> None:
    row = order_row(order(("a",), ("b",), ("c",)), in_order_of(a=400, b=300, c=500))
    assert (row.ours, row.inside, row.note) == ("b, a, c", False, "swapped: a and b")


def test_within_a_group_any_order_will_do() -> None:
    assert order_row(order(("a",), ("b", "c")), in_order_of(a=1, b=300, c=200)).inside is True


def test_two_that_never_generalise_have_no_order() -> None:
    row = order_row(order(("a",), ("b",), ("c",)), in_order_of(a=100, b=NEVER, c=NEVER))
    assert (row.inside, row.note) == (None, "not known: b and c")
    missing = order_row(order(("a",), ("b",)), in_order_of(a=100))
    assert (missing.inside, missing.note) == (None, "not known: a and b")


def test_one_that_may_still_be_earlier_has_no_order() -> None:
    def row(until: int) -> Row:
        ours = {("a", "test_accuracy"): accuracy(NEVER, last=until), ("b", "test_accuracy"): accuracy(500)}
        return order_row(order(("a",), ("b",)), ours)

    assert (row(490).inside, row(490).note) == (None, "not known: a and b")
    assert (row(500).inside, row(500).note) == (False, "swapped: a and b")


@settings(max_examples=24, deadline=None)
@given(st.permutations([100, 200, 300, 400]))
def test_an_order_is_swapped_in_as_many_pairs_as_the_permutation_inverts(steps) -> None:
    row = order_row(
        order(("a",), ("b",), ("c",), ("d",)), in_order_of(**dict(zip("abcd", steps, strict=True)))
    )
    inversions = sum(steps[i] > steps[j] for i in range(4) for j in range(i + 1, 4))
    assert row.note.count(" and ") == inversions
    assert row.inside is (inversions == 0)


def band(*ends: tuple[float, float]) -> Curve:
    low, high = zip(*ends, strict=True)
    return Curve(mean=tuple((a + b) / 2 for a, b in ends), low=low, high=high)


def test_curves_are_ordered_where_the_published_bands_are_disjoint() -> None:
    series = PublishedSeries(
        figure="fig2",
        quantity="c_fourier",
        kind="data file",
        where="here",
        steps=(200, 400),
        cells={"a": band((1, 2), (1, 2)), "b": band((1.5, 3), (3, 4))},
    )

    def row(a: list[float], b: list[float]) -> Row:
        ours = {("a", "c_fourier"): curve([200, 400], a), ("b", "c_fourier"): curve([200, 400], b)}
        return series_order_row(series, ours)

    assert row([9, 1], [1, 9]).inside is True  # at 200 the bands overlap
    swapped = row([1, 9], [9, 1])
    assert (swapped.inside, swapped.note) == (False, "swapped: a and b at 400")
    assert row([1, math.nan], [9, 1]).note == "not known: a and b at 400"
    assert row([1, 5], [9, 5]).inside is False
    backwards = series.model_copy(update={"cells": dict(reversed(series.cells.items()))})
    equal = {(cell, "c_fourier"): curve([200, 400], [5, 5]) for cell in "ab"}
    assert series_order_row(backwards, equal).inside is False


def exactly_as_published(figure: str) -> dict[tuple[str, str], xr.DataArray]:
    """Curves of five equal seeds that have the published values, and at other steps none."""
    points: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    values = published().of(figure)
    for series in values.series:
        for cell, known in series.cells.items():
            points[cell, series.quantity] |= dict(zip(series.steps, known.mean, strict=True))
    for numbers in values.numbers:
        for cell, value in numbers.cells.items():
            if numbers.quantity == "generalisation_step":
                points[cell, "test_accuracy"].setdefault(10_000, 0.5 if value is None else 1.0)
                if value is not None:
                    points[cell, "test_accuracy"][10 * math.ceil(value / 10)] = 1.0
    return {
        key: curve(sorted(known), *[[known[step] for step in sorted(known)]] * 5)
        for key, known in points.items()
    }


def test_a_perfect_reproduction_is_nowhere_outside() -> None:
    judged = 0
    for figure in FIGURES:
        rows = figure_rows(figure, exactly_as_published(figure.name))
        elsewhere = ("first_perfect_step", "sr_train_peak_step")  # at steps without a published value
        assert not [row for row in rows if row.inside is False and row.quantity not in elsewhere]
        judged += sum(row.inside is True for row in rows)
    assert judged > 400


def test_the_table_of_figure_2() -> None:
    measured = exactly_as_published("fig2") | {
        ("mlp-pre", "test_accuracy"): accuracy(800, 800, 800, 900, 1200)
    }
    rows = figure_rows(find_figure("fig2"), measured)
    (mean,) = (r for r in rows if (r.quantity, r.cell) == ("generalisation_step", "mlp-pre"))
    (best,) = (r for r in rows if (r.quantity, r.cell) == ("first_perfect_step", "mlp-pre"))
    assert (mean.ours, mean.published, mean.limit, mean.inside) == (1200, 954, "within 25%", False)
    assert (best.ours, best.published, best.inside) == (800, 859, True)
    assert rows[0].quantity == "seeds and splits"
    assert rows[0].inside is True
    assert sum(row.quantity == "c_fourier" for row in rows) == 4 * 9


def test_a_row_without_all_published_seeds_says_so() -> None:
    whole = exactly_as_published("fig2")
    rows = figure_rows(find_figure("fig2"), {key: c.isel(seed=[0, 1]) for key, c in whole.items()})
    assert (rows[0].ours, rows[0].inside) == ("456, 789", None)
    assert all("over 2 of 5 seeds" in row.note for row in rows[1:])
    assert {row.inside for row in rows if row.quantity == "c_fourier"} == {True}


def test_only_what_lacks_a_seed_says_so() -> None:
    measured = exactly_as_published("fig2")
    measured["off", "c_fourier"] = measured["off", "c_fourier"].isel(seed=[0, 1])
    rows = figure_rows(find_figure("fig2"), measured)
    fewer = {(row.quantity, row.cell) for row in rows if "over 2 of 5 seeds" in row.note}
    assert fewer == {("c_fourier", "off"), ("order of c_fourier", "")}
    assert rows[0].inside is None


def test_many_pairs_that_are_not_known_are_counted() -> None:
    row = order_row(order(("a",), ("b",), ("c",), ("d",)), in_order_of(a=100))
    assert row.note == "not known: a and b, a and c, a and d, b and c, 2 more"


def test_seeds_that_were_not_published_do_not_count() -> None:
    whole = exactly_as_published("fig2")
    stranger = {
        key: xr.concat([c, curve(c["step"].values, c[0] * 0, seeds=[7])], "seed") for key, c in whole.items()
    }
    assert figure_rows(find_figure("fig2"), stranger) == figure_rows(find_figure("fig2"), whole)


def test_nothing_measured() -> None:
    rows = figure_rows(find_figure("fig3"), {})
    assert {(row.ours, row.inside) for row in rows if row.cell} == {(None, None)}
    assert {row.note for row in rows if row.quantity == "generalisation_step"} == {"not measured"}
    assert figure_rows(find_figure("lattice"), {}) == []


def test_an_untrained_checkpoint_stands_for_the_first_update_and_others_are_not_compared() -> None:
    (series,) = (s for s in published().of("fig3").series if s.quantity == "attention_entropy")
    known = series.cells["off"].mean
    ours = curve([0, 200, 300], *[[known[0], known[1] + 0.06, 9.0]] * 5)
    rows = [
        r for r in figure_rows(find_figure("fig3"), {("off", "attention_entropy"): ours}) if r.cell == "off"
    ]
    by_step = {row.step: row for row in rows if row.quantity == "attention_entropy"}
    assert list(by_step) == list(series.steps)
    assert (by_step[1].inside, by_step[1].note) == (True, "ours at step 0, before the first update")
    assert (by_step[200].inside, by_step[200].limit) == (False, "within 0.05")
    assert (by_step[1000].inside, by_step[1000].note) == (None, "not measured at this step")


def test_a_peak_takes_the_whole_training() -> None:
    def row(last: int, loss: float) -> Row:
        ours = {("off", "sr_train"): curve([200, last], *[[loss, 3.0]] * 5)}
        return next(r for r in figure_rows(find_figure("fig3"), ours) if r.quantity == "sr_train_peak")

    assert (row(10_000, 6.7).inside, row(10_000, 6.8).inside) == (True, False)
    assert (row(10_000, 6.7).published, row(10_000, 6.7).limit) == (6.12132, "within 10%")
    assert (row(9_000, 6.1).inside, row(9_000, 6.1).note) == (None, "measured until step 9,000 of 10,000")


@pytest.mark.parametrize(("ours", "inside"), [(6600, True), (6610, False), (5400, True), (5390, False)])
def test_a_step_read_off_a_figure_has_a_narrower_limit(ours: int, inside: bool) -> None:
    cell = "off_lr=0.005_weight_decay=0.2"
    rows = figure_rows(find_figure("fig4"), {(cell, "test_accuracy"): accuracy(*[ours] * 5)})
    (row,) = (row for row in rows if row.cell == cell and row.quantity == "generalisation_step")
    assert (row.published, row.limit, row.inside) == (6000, "within 10%", inside)


def test_every_number_has_a_measure() -> None:
    assert {n.quantity for n in published().numbers} == set(MEASURES)
    assert all(isinstance(n, PublishedNumbers) for n in published().numbers)
