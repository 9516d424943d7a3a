"""Independent pieces of work, as many at once as there are threads, their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_MOST_AT_ONCE = 8  # a checkpoint in work at p = 113 takes about 0.6 GiB


def in_order(items: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """What `work` gives for each item, in order; each piece has one thread to itself.

    Hooked passes go in small batches, over which the threads of one pass wait for each other more than they
    work. Items are drawn by the caller's thread, a few ahead: models are built there, since TransformerLens'
    warnings are silenced for the whole process while one is.
    """
    with _one_thread() as threads, ThreadPoolExecutor(min(threads, _MOST_AT_ONCE)) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > min(threads, _MOST_AT_ONCE):  # one more, so that nobody idles meanwhile
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[int]:
    """One thread per torch operation inside; gives the number that there was before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
