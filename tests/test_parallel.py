"""Work at the same time: in order, a few items ahead, and threads as before whatever happens."""

import threading
import time

import pytest
import torch

from mech_grok.parallel import in_order


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
