"""A run and its fork: who generalised first, and what the fork of a generalised network kept."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from mech_grok.futures import Comparison, Retention, compare_futures, steps_at_fork

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


RETENTIONS = [  # test accuracies after the fork -> what is kept
    ([1.0, 0.999, 0.995], Retention(0.995, None, 0.995), False),
    ([1.0, 0.9949, 0.3], Retention(0.3, 60, 0.3), False),
    ([0.6, 0.2, 1.0], Retention(0.2, 50, 1.0), True),
]


@pytest.mark.parametrize(("accuracies", "retention", "recovered"), RETENTIONS)
def test_what_a_generalised_network_keeps(
    accuracies: list[float], retention: Retention, recovered: bool
) -> None:
    parent = metrics({7: rising(20, 0, 100), 9: rising(90, 0, 100)})
    child = metrics({7: accuracies, 9: accuracies}, first=FORK)
    futures = compare_futures(parent, child, FORK)
    assert futures.retention == {7: retention}  # seed 9 had not generalised at the fork
    assert retention.recovered is recovered


def test_a_diverged_seed_keeps_nothing() -> None:
    parent = metrics({7: rising(20, 0, 100)})
    child = metrics({7: [1.0, 0.999, np.nan]}, first=FORK)
    child["test_accuracy"].loc[{"step": 70}] = np.nan
    kept = compare_futures(parent, child, FORK).retention[7]
    assert (kept.lowest, kept.fell, kept.recovered) == (pytest.approx(0.999), 70, False)
    assert np.isnan(kept.last)


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
