"""Modular arithmetic: pairs, answers, tokens, and the split that the paper's code draws."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.task import Task

RECORDS = sorted(Path(__file__).parent.glob("data/*/record.json"))

patient = settings(deadline=None)
small_tasks = st.builds(
    Task,
    st.sampled_from(["add", "subtract", "multiply", "xor", "and", "rshift"]),
    st.integers(3, 31),
    st.floats(0.1, 0.9),
)


@patient
@given(small_tasks)
def test_answers_are_those_of_python_integers(task: Task):
    reference = {
        "add": lambda a, b: a + b,
        "subtract": lambda a, b: a - b,
        "multiply": lambda a, b: a * b,
        "xor": lambda a, b: a ^ b,
        "and": lambda a, b: a & b,
        "rshift": lambda a, b: a >> b,
    }[task.operation]
    pairs = task.pairs()
    expected = [reference(a, b) % task.p for a in range(task.p) for b in range(task.p)]
    assert task.answers(pairs).tolist() == expected


def test_right_shift_by_more_than_the_word_is_zero():
    task = Task("rshift", 113, 0.7)
    assert task.answers(np.array([[112, 63], [112, 64], [112, 112], [112, 1]])).tolist() == [0, 0, 0, 56]


def test_known_answers():
    pairs = np.array([[112, 1], [3, 5], [100, 100]])
    assert Task("add", 113, 0.7).answers(pairs).tolist() == [0, 8, 87]
    assert Task("subtract", 113, 0.7).answers(pairs).tolist() == [111, 111, 0]
    assert Task("multiply", 113, 0.7).answers(pairs).tolist() == [112, 15, 56]


@patient
@given(small_tasks)
def test_pairs_are_lexicographic_and_tokens_end_in_equals(task: Task):
    pairs = task.pairs()
    assert pairs.tolist() == [[a, b] for a in range(task.p) for b in range(task.p)]
    tokens = task.tokens(pairs)
    assert tokens[:, :2].tolist() == pairs.tolist()
    assert set(tokens[:, 2]) == {task.p}


@patient
@given(small_tasks, st.integers(0, 2**32))
def test_a_split_is_a_partition_that_its_seed_alone_decides(task: Task, seed: int):
    split = task.split_indices(seed)
    assert len(split["train"]) == task.n_train
    assert len(split["test"]) == task.n_test
    assert sorted([*split["train"], *split["test"]]) == list(range(task.p**2))
    again = task.split_indices(seed)
    assert all(np.array_equal(split[s], again[s]) for s in split)


def test_sizes_at_113_are_those_of_the_paper():
    task = Task("add", 113, 0.7)
    assert (task.n_train, task.n_test) == (3831, 8938)


@pytest.mark.parametrize(("fraction", "p", "n_test"), [(0.7, 10, 70), (0.29, 10, 28), (0.57, 10, 56)])
def test_the_test_set_is_truncated_in_floating_point(fraction: float, p: int, n_test: int):
    # 0.29 * 100 is 28.999..., so the paper's code holds out 28 pairs, not 29.
    assert Task("add", p, fraction).n_test == n_test


def test_drawing_a_split_leaves_the_global_generators_alone():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    Task("add", 23, 0.7).split_indices(5)
    assert (random.random(), np.random.rand()) == expected


def test_seeds_draw_different_splits():
    task = Task("add", 23, 0.7)
    assert not np.array_equal(task.split_indices(456)["train"], task.split_indices(789)["train"])


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.parent.name)
def test_splits_recorded_from_the_papers_code(path: Path):
    meta = json.loads(path.read_text())["meta"]
    task = Task("add", meta["P"], 0.7)
    tokens = task.tokens(task.pairs())
    split = task.split_indices(meta["data_seed"])
    assert (task.n_train, task.n_test) == (meta["n_train"], meta["n_test"])
    assert tokens[split["train"][:8]].tolist() == meta["first_train_pairs"]
    assert tokens[split["test"][-4:]].tolist() == meta["last_test_pairs"]
