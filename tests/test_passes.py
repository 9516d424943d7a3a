"""Passes over seeds and pairs, and the threads that work on several of them at once."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mech_grok.config import CellConfig, ModelConfig
from mech_grok.parallel import Crew
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.passes import Pass, needs_more_than_a_heap, passes, passes_at_once
from mech_grok.training.trainer import Trainer


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@given(
    n_seeds=st.integers(1, 12),
    n_pairs=st.integers(1, 100_000),
    device=st.sampled_from(["cpu", "cuda"]),
    at_once=st.integers(1, 16),
)
def test_every_pair_of_every_seed_is_in_one_pass(
    n_seeds: int, n_pairs: int, device: str, at_once: int
) -> None:
    found = passes(n_seeds, n_pairs, device, at_once)
    counted = np.zeros((n_seeds, n_pairs), int)
    for each in found:
        counted[each.seeds, each.pairs] += 1
    assert (counted == 1).all()
    starts = [(each.seeds.start, each.pairs.start) for each in found]
    assert starts == sorted(starts)
    if device == "cpu":
        sizes = [each.pairs.stop - each.pairs.start for each in found]
        assert max(sizes) <= 8192
        assert max(sizes) >= 1024 or len(found) == n_seeds


@pytest.mark.parametrize(
    ("n_seeds", "n_pairs", "at_once", "each_seed"),
    [
        (1, 3831, 1, 1),
        (1, 3831, 2, 2),  # halves
        (2, 3831, 2, 1),  # a seed each
        (5, 3831, 2, 2),  # ten halves: five after another, not three whole ones
        (1, 77_724, 1, 10),  # p = 509: what the cache holds
        (3, 1500, 8, 1),  # too few to split
    ],
)
def test_pairs_are_split_where_it_ends_sooner(
    n_seeds: int, n_pairs: int, at_once: int, each_seed: int
) -> None:
    assert len(passes(n_seeds, n_pairs, "cpu", at_once)) == n_seeds * each_seed


@pytest.mark.parametrize(
    ("n_seeds", "n_pairs", "device", "n_threads", "expected"),
    [
        (1, 3831, "cpu", 2, 2),
        (5, 3831, "cpu", 1, 1),
        (5, 3831, "cpu", 4, 4),
        (1, 1500, "cpu", 4, 1),  # one pass: its operations have all threads
        (5, 500, "cpu", 4, 1),
        (5, 3831, "cuda", 4, 1),
    ],
)
def test_how_many_passes_go_at_once(
    n_seeds: int, n_pairs: int, device: str, n_threads: int, expected: int
) -> None:
    assert passes_at_once(n_seeds, n_pairs, device, n_threads) == expected


@pytest.mark.usefixtures("two_threads")
def test_a_crew_has_one_thread_for_each_piece_and_keeps_their_order() -> None:
    crew = Crew(2)
    meeting = threading.Barrier(2, timeout=20)  # is passed only if two pieces are worked on at once

    def work(item: int) -> tuple[int, int]:
        meeting.wait()
        return item, torch.get_num_threads()

    assert list(crew.map(work, range(6))) == [(item, 1) for item in range(6)]
    with crew.alone():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [2]
    with pytest.raises(ZeroDivisionError):
        list(crew.map(lambda item: 1 // item, [1, 0]))


def test_a_crew_of_one_is_the_caller() -> None:
    assert list(Crew(1).map(lambda _: threading.current_thread(), [0])) == [threading.current_thread()]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("seeds", [[1], [1, 2, 3]])
def test_passes_at_once_train_like_one_after_another(seeds: list[int]) -> None:
    config = CellConfig.model_validate(
        {
            "task": {"p": 97},
            "model": {"d_model": 16, "n_heads": 2, "placement": "M"},
            "training": {"seeds": seeds, "dtype": "float64", "evaluate_every": 2},
        }
    )

    def train(threads: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
        torch.set_num_threads(threads)
        trainer = Trainer(config, ParameterStack.initial(config))
        rows = trainer.advance(4)
        return trainer.parameters.flat.clone(), rows

    (weights, rows), (again, same_rows), (alone, rows_alone) = train(2), train(2), train(1)
    assert torch.equal(weights, again)
    torch.testing.assert_close(weights, alone, rtol=1e-9, atol=1e-12)
    for name, values in rows.items():
        np.testing.assert_array_equal(values, same_rows[name])
        np.testing.assert_allclose(values, rows_alone[name], rtol=1e-9)


def test_the_papers_pass_stays_in_a_heap_and_larger_ones_do_not() -> None:
    def outgrows(n_pairs: int, **model: int) -> bool:
        return needs_more_than_a_heap(ModelConfig(**model), Pass(slice(0, 1), slice(0, n_pairs)))

    assert not outgrows(3831)
    assert outgrows(8192)
    assert outgrows(1916, n_layers=3, d_model=64)
