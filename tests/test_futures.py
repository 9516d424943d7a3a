"""A run and its fork: who generalised first, and what the fork of a generalised network kept."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from mech_grok.futures import Comparison, Lapses, compare_futures, steps_at_fork

EVERY = 10
FORK = 40


def metrics(accuracy: dict[int, list[float]], first: int = 0, loss: float = 4.7) -> xr.Dataset:
    """Test accuracies of each seed at every tenth step after `first`; nothing is known in between."""
    values = np.array(list(accuracy.values()))
    steps = np.arange(first + 1, first + EVERY * values.shape[1] + 1)
    evaluated = steps % EVERY == 0
    curves = np.full((len(accuracy), steps.size), np.nan)
    curves[:, evaluated] = values
    dims = ("seed", "step")
    return xr.Dataset(
        {
            "train_accuracy": (dims, np.ones(curves.shape)),
            "test_accuracy": (dims, curves),
            "test_loss": (dims, np.where(np.isfinite(curves), loss, np.nan)),
        },
        {"seed": list(accuracy), "step": steps, "evaluated": ("step", evaluated)},
    )


def rising(at: int | None, first: int, last: int) -> list[float]:
    """0.5, and 0.995 from a step on."""
    return [0.995 if at is not None and s >= at else 0.5 for s in range(first + EVERY, last + 1, EVERY)]


OUTCOMES = [  # parent at, child at, parent's last, child's last -> outcome, earlier
    (90, 60, 100, 100, "both", 30),
    (60, 90, 100, 100, "both", -30),
    (60, 60, 100, 100, "both", 0),
    (40, 50, 100, 100, "before fork", None),
    (30, None, 100, 100, "before fork", None),
    (None, 60, 100, 100, "child only", None),
    (60, None, 100, 100, "parent only", None),
    (None, None, 100, 100, "neither", None),
    (None, 90, 70, 100, "undecided", None),
    (None, 70, 70, 100, "child only", None),
    (90, None, 100, 70, "undecided", None),
    (70, None, 100, 70, "parent only", None),
]


@pytest.mark.parametrize(
    ("parent_at", "child_at", "parent_last", "child_last", "outcome", "earlier"), OUTCOMES
)
def test_who_generalised_first(
    parent_at: int | None,
    child_at: int | None,
    parent_last: int,
    child_last: int,
    outcome: str,
    earlier: int | None,
) -> None:
    parent = metrics({7: rising(parent_at, 0, parent_last)})
    child = metrics({7: rising(child_at, FORK, child_last)}, first=FORK)
    comparison = compare_futures(parent, child, FORK).accuracy[7]
    assert comparison == Comparison(parent_at, child_at, FORK, parent_last, child_last)
    assert (comparison.outcome, comparison.earlier) == (outcome, earlier)


@given(st.tuples(*[st.none() | st.integers(1, 12).map(lambda n: 10 * n)] * 2), st.integers(5, 12))
def test_exchanging_the_futures_turns_the_difference_round(
    at: tuple[int | None, int | None], tenths: int
) -> None:
    one, other = at
    after = [None if step is None else FORK + step for step in (one, other)]
    last = FORK + 10 * tenths
    there = Comparison(after[0], after[1], FORK, last, last)
    back = Comparison(after[1], after[0], FORK, last, last)
    assert (there.earlier is None) == (back.earlier is None)
    if there.earlier is not None:
        assert there.earlier == -(back.earlier or 0)


def test_both_rules_are_compared() -> None:
    parent = metrics({7: rising(90, 0, 100)})
    child = metrics({7: rising(60, FORK, 100)}, first=FORK, loss=0.01)
    futures = compare_futures(parent, child, FORK)
    assert futures.accuracy[7].earlier == 30
    assert futures.loss[7] == Comparison(None, 50, FORK, 100, 100)


RETENTIONS = [  # test accuracies at 50, 60, ... -> lapses of the child, its last, outcome
    ([1.0, 0.999, 0.995], Lapses(0.995, None, 0.0, 70), 0.999, "stays"),
    ([1.0, 0.9949, 0.3], Lapses(0.3, 60, 2 / 3, 70), 0.9949, "falls short"),
    ([0.6, 0.2, 1.0, 1.0, 1.0, 0.7], Lapses(0.2, 50, 0.5, 100), 0.85, "forgets"),
    ([0.6, 1.0, 1.0, 1.0, 0.7], Lapses(0.6, 50, 0.4, 90), 1.0, "recovers"),
    ([1.0, 0.995, 0.2, 0.9, 0.9], Lapses(0.2, 70, 0.6, 90), 0.9, "falls short"),
    ([1.0, 0.899, 0.3], Lapses(0.3, 60, 2 / 3, 70), 0.899, "forgets"),
]


@pytest.mark.parametrize(("accuracies", "lapses", "last", "outcome"), RETENTIONS)
def test_what_a_generalised_network_keeps(
    accuracies: list[float], lapses: Lapses, last: float, outcome: str
) -> None:
    parent = metrics({7: rising(20, 0, 100), 9: rising(90, 0, 100)})
    child = metrics({7: accuracies, 9: accuracies}, first=FORK)
    retention = compare_futures(parent, child, FORK).retention
    assert list(retention) == [7]  # seed 9 had not generalised at the fork
    kept = retention[7]
    assert (kept.child, kept.outcome) == (lapses, outcome)
    assert kept.last == pytest.approx(last)
    assert kept.parent == Lapses(0.995, None, 0.0, lapses.until)


SPIKES = [0.1, 1.0, 1.0, 1.0, 0.3, 1.0, 0.2, 1.0]  # the parent at 10, 20, ..., 80; forked at 40
PARENTS = [  # the child's last step -> the parent's lapses over the same steps
    (50, Lapses(0.3, 50, 1.0, 50)),
    (60, Lapses(0.3, 50, 0.5, 60)),
    (80, Lapses(0.2, 50, 0.5, 80)),
    (90, Lapses(0.2, 50, 0.5, 80)),
]


@pytest.mark.parametrize(("last", "lapses"), PARENTS)
def test_the_parent_is_known_by_the_same_steps(last: int, lapses: Lapses) -> None:
    child = metrics({7: rising(FORK, FORK, last)}, first=FORK)
    kept = compare_futures(metrics({7: SPIKES}), child, FORK).retention[7]
    assert kept.parent == lapses
    assert (kept.outcome, kept.child.until) == ("stays", last)


def test_a_parent_that_ends_at_the_fork_has_no_lapses() -> None:
    child = metrics({7: [0.2, 1.0, 1.0]}, first=FORK)
    kept = compare_futures(metrics({7: SPIKES[:4]}), child, FORK).retention[7]
    assert np.isnan([kept.parent.lowest, kept.parent.share]).all()
    assert (kept.parent.first, kept.parent.until) == (None, FORK)


ENDS = [  # how often 1.0 and then how often 0.5, after a fall -> median of the last 50
    (75, 25, 0.75),
    (74, 26, 0.5),
    (76, 24, 1.0),
    (0, 49, 0.5),
]


@pytest.mark.parametrize(("high", "low", "last"), ENDS)
def test_no_single_step_decides_how_a_child_ended(high: int, low: int, last: float) -> None:
    child = metrics({7: [0.2] + [1.0] * high + [0.5] * low}, first=FORK)
    kept = compare_futures(metrics({7: SPIKES}), child, FORK).retention[7]
    assert kept.last == last
    assert kept.child.share == pytest.approx((1 + low) / (1 + high + low))


@given(st.lists(st.sampled_from([0.1, 0.91, 0.995, 1.0]), min_size=1, max_size=8))
def test_a_child_that_nothing_was_done_to_lapses_like_its_parent(accuracies: list[float]) -> None:
    child = metrics({7: accuracies}, first=FORK)
    kept = compare_futures(metrics({7: SPIKES[:4] + accuracies}), child, FORK).retention[7]
    assert kept.parent == kept.child


def test_a_diverged_seed_keeps_nothing() -> None:
    parent = metrics({7: rising(20, 0, 100)})
    child = metrics({7: [1.0, 0.999, np.nan]}, first=FORK)
    child["test_accuracy"].loc[{"step": 70}] = np.nan
    kept = compare_futures(parent, child, FORK).retention[7]
    assert kept.child == Lapses(0.999, 70, 1 / 3, 70)
    assert (kept.outcome, np.isnan(kept.last)) == ("forgets", True)


def test_what_the_parent_had_reached() -> None:
    parent = metrics({7: rising(40, 0, 100), 9: rising(50, 0, 100)})
    assert steps_at_fork(parent, FORK).accuracy == {7: 40, 9: None}
    assert steps_at_fork(parent, 0).accuracy == {7: None, 9: None}


def test_a_child_may_have_fewer_seeds_but_no_others() -> None:
    parent = metrics({7: rising(90, 0, 100), 9: rising(90, 0, 100)})
    child = metrics({9: rising(60, FORK, 100)}, first=FORK)
    assert list(compare_futures(parent, child, FORK).accuracy) == [9]
    with pytest.raises(ValueError, match=r"seeds \[7\] are none of its parent's; allowed: \[9\]"):
        compare_futures(child, parent, 0)


def test_a_child_begins_after_the_fork() -> None:
    parent, child = metrics({7: rising(90, 0, 100)}), metrics({7: rising(60, FORK, 100)}, first=FORK)
    with pytest.raises(ValueError, match="a step 41, before it was forked at 50; allowed: 51 on"):
        compare_futures(parent, child, 50)
