"""Long curves are drawn at few steps: against all of their values, looked through one by one."""

import numpy as np
import pytest
from fake_runs import FakeRun, fake_run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mech_grok.generalisation import generalisation_steps
from mech_grok.report.curves import compute_concentration, compute_dynamics, compute_learning, landmarks
from mech_grok.report.lines import MOST_POINTS, thinning_note
from mech_grok.report.phases import phases_of
from mech_grok.report.section import lines_figure
from mech_grok.report.tables import number, table_of_lines
from mech_grok.report.thinning import evenly_spaced, extremes, in_table, thin

N, MOST = 10_000, 400
STEPS = np.arange(1, N + 1)


def noise(rows: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, n))


@pytest.fixture(scope="module")
def run() -> FakeRun:
    return fake_run("mlp-pre", "mlp", late=3000, seeds=(456, 789, 111), steps=10_000, every=500)


def test_evenly_spaced_indices_have_both_ends() -> None:
    for n in (1, 2, MOST, MOST + 1, N):
        kept = evenly_spaced(n, MOST)
        assert (kept[0], kept[-1]) == (0, n - 1)
        assert len(kept) <= MOST + 1


def test_a_curve_that_is_short_enough_is_left_whole() -> None:
    for n in (0, 1, 2, MOST):
        np.testing.assert_array_equal(thin(STEPS[:n], noise(3, n), MOST), np.arange(n))
    assert len(thin(STEPS[: MOST + 1], noise(3, MOST + 1), MOST)) <= MOST


@pytest.mark.parametrize("height", [9.0, -9.0])
@pytest.mark.parametrize("at", [1, 777, 5000, N - 2])
def test_a_spike_of_one_step_of_one_seed_stays(at: int, height: float) -> None:
    values = np.vstack([np.zeros(N), np.linspace(0, 20, N), np.zeros(N)])
    values[2, at] = height
    kept = thin(STEPS, values, MOST)
    assert at in kept
    assert len(kept) <= MOST


@pytest.mark.parametrize("rows", [1, 2, 6])
@pytest.mark.parametrize("most", [100, 400])
def test_the_budget_is_held_and_used_and_no_stretch_is_left_out(rows: int, most: int) -> None:
    kept = thin(STEPS, noise(rows), most)
    assert 0.6 * most < len(kept) <= most
    assert (kept[0], kept[-1]) == (0, N - 1)
    assert np.diff(kept).max() < 2 * (2 * rows * N / (0.6 * most))  # two buckets of the widest there may be


def test_milestones_stay_also_where_they_are_too_many() -> None:
    named = [3, 4, 5, 4321, 9999, 123_456]
    kept = STEPS[thin(STEPS, noise(6), MOST, named)]
    assert {3, 4, 5, 4321, 9999} <= {*kept.tolist()}
    assert len(kept) <= MOST
    assert {*range(1, 501)} <= {*STEPS[thin(STEPS, noise(6), MOST, range(1, 501))].tolist()}


@given(
    arrays(
        float,
        st.tuples(st.integers(1, 3), st.integers(1, 40)),
        elements=st.sampled_from([0.0, 1, -2, np.nan, np.inf]),
    ),
    st.integers(1, 12),
)
def test_every_bucket_has_the_extremes_of_every_row(values: np.ndarray, width: int) -> None:
    kept = extremes(values, width)
    n = values.shape[1]
    assert {*kept} <= {*range(n)}
    for start in range(0, n, width):
        bucket = range(start, min(start + width, n))
        own = [i for i in bucket if i in kept]
        for row in values:
            finite = [row[i] for i in bucket if np.isfinite(row[i])]
            drawn = [row[i] for i in own if np.isfinite(row[i])]
            if finite:
                assert (min(drawn), max(drawn)) == (min(finite), max(finite))
            else:
                assert start in own


def test_a_long_gap_stays_a_gap() -> None:
    values = np.linspace(0, 1, N)[None].copy()
    values[0, 3000:6000] = np.nan
    kept = thin(STEPS, values, MOST)
    assert np.isnan(values[0, kept]).any()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (STEPS, [1, 2000, 4000, 6000, 8000, 10_000]),
        (np.array([1, *range(10, 1501, 10)]), [1, 300, 600, 900, 1200, 1500]),
        (np.arange(0, 1001, 300), [0, 300, 600, 900]),
        (np.arange(4000, 5001, 500), [4000, 5000]),  # forked
        (np.array([7]), [7]),
        (np.array([], int), []),
    ],
)
def test_a_table_has_each_fifth_of_the_steps(steps: np.ndarray, expected: list[int]) -> None:
    assert steps[in_table(steps)].tolist() == expected


# ---- the curves of a run --------------------------------------------------------------------------------


def test_the_drawn_curves_have_every_milestone_of_every_seed(run: FakeRun) -> None:
    known = generalisation_steps(run.metrics)
    loss, accuracy = compute_learning([run])
    (train_loss, test_loss), (train, test) = loss.curves, accuracy.curves
    for i, seed in enumerate(test.seeds):
        for c, bar, step in ((train, 0.99, known.memorisation[seed]), (test, 0.995, known.accuracy[seed])):
            assert c.steps[c.values[i] >= bar][0] == step
        assert test_loss.steps[test_loss.values[i] <= 0.01][0] == known.loss[seed]
        boundary = phases_of(run)[seed].cleanup
        assert boundary is not None
        assert boundary in test_loss.steps
    assert test.steps[test.values.mean(0) >= 0.995][0] == known.mean_accuracy
    for c in (train_loss, test_loss, train, test):
        assert len(c.steps) <= MOST_POINTS < 1001
        assert {*landmarks(run)} & {
            *run.metrics["step"].values[run.metrics["evaluated"].values].tolist()
        } <= {*c.steps.tolist()}


def test_drawn_values_are_the_run_s_and_a_spike_between_evaluations_is_among_them() -> None:
    spiked = fake_run("off", "", late=9000, steps=3000)
    for name in ("train_loss", "grad_norm"):
        spiked.metrics[name].loc[{"seed": 789, "step": 1234}] = 1e4
    drawn = [c for p in (*compute_learning([spiked]), *compute_dynamics([spiked])) for c in p.curves]
    raw = (
        "train_loss",
        "test_loss",
        "train_accuracy",
        "test_accuracy",
        "weight_norm",
        "grad_norm",
        "update_norm",
    )
    for c, name in zip(drawn, raw, strict=True):
        np.testing.assert_array_equal(c.values, spiked.metrics[name].sel(step=c.steps).values)
        assert (1e4 in c.values) == (name in ("train_loss", "grad_norm"))


def test_the_table_of_a_thinned_curve_has_the_curve_s_own_values(run: FakeRun) -> None:
    table = table_of_lines(compute_learning([run]))
    assert table.header[3:] == tuple(f"step {step:,}" for step in (1, 2000, 4000, 6000, 8000, 10_000))
    for row in table.rows:
        values = run.metrics[f"{row[2]}_{row[0].lower()}"]
        means = [float(values.sel(step=step).mean()) for step in (1, *range(2000, 10_001, 2000))]
        assert [cell.split(" [")[0] for cell in row[3:]] == [number(mean) for mean in means]


def test_a_figure_says_that_it_was_thinned_if_it_was(run: FakeRun) -> None:
    for panels, is_thinned in ((compute_learning([run]), True), (compute_concentration([run]), False)):
        caption = lines_figure("a", "A", "What it is.", panels).caption
        assert ("load_run(...)" in caption, f"more than {MOST_POINTS} steps" in caption) == (is_thinned,) * 2
        assert bool(thinning_note(panels)) == is_thinned
    assert lines_figure("a", "A", "What it is.", compute_concentration([run])).caption == "What it is."
