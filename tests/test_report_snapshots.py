"""Which seed and which checkpoints the report's maps show, and how their numbers are rounded."""

import numpy as np
import pytest
from fake_maps import map_runs
from fake_runs import FakeRun, fake_run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mech_grok.report.attention_maps import (
    compute_attention_maps,
)
from mech_grok.report.byte_arrays import MISSING, byte_array, decode, encode
from mech_grok.report.cells import identify
from mech_grok.report.snapshots import MOST, chosen_seed, snapshots, spread, training_position


@pytest.fixture(scope="module")
def runs() -> list[FakeRun]:
    return map_runs()


# ---- one byte a number ----------------------------------------------------------------------------------


def test_codes_by_hand() -> None:
    maps = np.array([[[-1.0, 0.0, 3.0], [np.nan, 1.0, np.inf]], [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]])
    encoded = encode(maps)
    assert encoded.codes[0].tolist() == [[0, 64, 254], [MISSING, 127, MISSING]]  # 63.5 and 127 of 254
    assert (encoded.low.tolist(), encoded.high.tolist()) == ([-1, 2], [3, 2])
    assert decode(encoded)[1].tolist() == maps[1].tolist()
    nothing = encode(np.full((1, 2, 2), np.nan))
    assert np.isnan(decode(nothing)).all()
    assert nothing.low == nothing.high == 0


@settings(deadline=None, max_examples=50)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.just(np.nan)),
    )
)
def test_what_is_decoded_is_rounded_to_half_a_step(values: np.ndarray) -> None:
    encoded = encode(values)
    decoded = decode(encoded)
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(values))
    step = (encoded.high.astype(float) - encoded.low)[:, None, None] / 254
    allowed = 0.5 * step + 1e-6 * np.abs(values).max(initial=1, where=np.isfinite(values))
    assert (np.abs(decoded - values) <= allowed)[np.isfinite(values)].all()
    for i, one in enumerate(values):  # the ends of each map's range are exact
        if np.isfinite(one).any():
            assert (encoded.low[i], encoded.high[i]) == (np.nanmin(one), np.nanmax(one))


# ---- which seed, which checkpoints ----------------------------------------------------------------------


def test_evenly_placed_checkpoints_stay_evenly_spread() -> None:
    assert spread(np.arange(51.0), MOST) == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 50]
    assert spread(np.arange(4.0), MOST) == [0, 1, 2, 3]
    assert spread(np.arange(9.0), 2) == [0, 8]
    assert spread(np.arange(9.0), 1) == [8]
    assert spread(np.arange(9.0), 0) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=60), st.integers(2, MOST))
def test_no_kept_checkpoint_would_leave_a_smaller_gap_than_one_left(gaps: list[float], most: int) -> None:
    position = np.cumsum(gaps)
    kept = spread(position, most)
    assert kept == sorted(set(kept))
    assert len(kept) == min(most, len(position))
    assert (kept[0], kept[-1]) == (0, len(position) - 1)
    at = position[kept]
    left = np.diff(at)[np.diff(kept) > 1]
    if left.size and len(kept) > 2:
        assert left.max() <= (at[2:] - at[:-2]).min()


def test_half_of_the_checkpoints_are_where_it_generalises() -> None:
    run = fake_run("mlp-pre", "mlp", late=1000, seeds=(1,), steps=10_000, every=100)
    steps = np.arange(0, 10_001, 100)
    position = training_position([run], steps)
    best = np.maximum.accumulate(run.metrics["test_accuracy"].sel(seed=1).values[9::10])
    assert position[50] == pytest.approx(0.5 + best[499], abs=1e-6)
    kept = steps[spread(position, MOST)]
    assert (kept[0], kept[-1], len(kept)) == (0, 10_000, MOST)
    rising = (kept > 600) & (kept < 1500)
    assert rising.sum() >= 4  # a tenth of the time


def test_a_spike_does_not_turn_training_back() -> None:
    run = fake_run("off", "", late=100, seeds=(1,), steps=1000)
    run.metrics["test_accuracy"].loc[{"step": 700}] = 0.0
    assert (np.diff(training_position([run], np.arange(0, 1001, 100))) > 0).all()


def test_a_diverged_seed_does_not_count_as_generalised() -> None:
    run = fake_run("off", "", late=100, seeds=(1, 2), steps=1000)
    run.metrics["test_accuracy"].loc[{"seed": 2}] = np.nan
    assert training_position([run], np.array([1000]))[0] == pytest.approx(1.5, abs=0.01)


def test_the_seed_shown_is_one_that_all_cells_have() -> None:
    first = fake_run("mlp-pre", "mlp", late=600, seeds=(1, 2, 3), steps=100)
    second = fake_run("off", "", late=600, seeds=(2, 3), steps=100)
    assert [chosen_seed(run, [first, second]) for run in (first, second)] == [2, 2]
    second.diverged = {2: 50}
    assert [chosen_seed(run, [first, second]) for run in (first, second)] == [3, 3]
    second.diverged = {2: 50, 3: 50}
    assert [chosen_seed(run, [first, second]) for run in (first, second)] == [1, 2]
    few = snapshots(first.probe("fourier"), first, [first, second], most=1)
    assert (few["seed"].values.tolist(), few["step"].values.tolist()) == ([1, 2, 3], [100])
    second.diverged = {}
    assert snapshots(first.probe("fourier"), first, [first, second])["seed"].values.tolist() == [2, 1, 3]


def test_cells_of_one_length_show_the_same_steps(runs: list[FakeRun]) -> None:
    first, second = compute_attention_maps(runs)
    assert first.steps.tolist() == second.steps.tolist()
    assert len(first.steps) == MOST < runs[0].probe("fourier").sizes["step"]


def test_a_byte_array_keeps_labels(runs: list[FakeRun]) -> None:
    cell = identify(runs)[0]
    data = runs[0].probe("attention_map")["attention_map"].isel(seed=[1], step=[0, 3])
    info = byte_array("x", cell, data)
    assert (info.key, info.seeds, info.steps.tolist()) == ("x:0", (789,), [0, 300])
    assert info.dims == ("layer", "head", "key", "a", "b")
    assert info.coords[2] == ("a", "b", "=")
