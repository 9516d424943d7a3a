"""Work at the same time: in order, a few items ahead, and threads as before whatever happens."""

import threading
import time

import pytest
import torch

from mech_grok.parallel import Crew, in_order


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_each_from_one_thread_of_torch(threads: int) -> None:
    def work(item: int) -> tuple[int, int]:
        time.sleep(0.002 * (5 - item))  # the first takes longest
        return item, torch.get_num_threads()

    assert list(in_order(range(5), work)) == [(item, 1) for item in range(5)]
    assert torch.get_num_threads() == threads


def test_items_are_drawn_by_the_caller_and_only_a_few_ahead(threads: int) -> None:
    drawn: list[str] = []

    def items():
        for item in range(20):
            drawn.append(threading.current_thread().name)
            yield item

    results = in_order(items(), lambda item: item)
    assert next(results) == 0
    assert drawn == [threading.current_thread().name] * (threads + 1)
    results.close()
    assert torch.get_num_threads() == threads


def test_a_failure_is_the_callers(threads: int) -> None:
    def work(item: int) -> int:
        return 1 // (3 - item)

    results = in_order(range(9), work)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert torch.get_num_threads() == threads


@pytest.fixture
def crew(threads: int) -> Crew:
    return Crew(threads)


def test_a_crew_works_at_once_in_order_the_caller_with_it(crew: Crew) -> None:
    together = threading.Barrier(crew.size)

    def work(item: int) -> tuple[int, str, int]:
        if item < crew.size:
            together.wait(timeout=10)  # which breaks unless each of the first is in a thread of its own
        return item, threading.current_thread().name, torch.get_num_threads()

    with crew.alone():
        results = crew.map(work, range(20))
    assert [item for item, *_ in results] == list(range(20))
    assert threading.current_thread().name in {name for _, name, _ in results}
    assert {n for *_, n in results} == {1}


def test_a_crews_failure_is_raised_once_nobody_works_any_more(crew: Crew) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.01 * item)
        if item == 0:
            raise ZeroDivisionError
        done.append(item)

    with pytest.raises(ZeroDivisionError):
        crew.map(work, range(3))
    before = len(done)
    time.sleep(0.1)
    assert len(done) == before
    assert crew.map(lambda item: item, range(3)) == [0, 1, 2]


def test_of_a_crew_the_callers_operations_have_their_threads_afterwards(crew: Crew, threads: int) -> None:
    crew.map(lambda item: item, range(4))
    assert torch.get_num_threads() == threads
