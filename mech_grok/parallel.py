"""Independent pieces of work, as many at once as there are threads, their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from threading import Barrier
from typing import TypeVar, cast

import torch

from mech_grok.freed_memory import keep_freed_memory

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """The caller's thread and others that stay, which work on independent pieces.

    There is one thread per torch operation: the threads of an operation wait for each other at its end, those
    of whole pieces only at theirs. With as many threads as cores none of them has to make way for another.
    """

    def __init__(self, size: int):
        """So many threads; with 1, the caller's operations have as many as ever."""
        self.size = size
        self._others = _pool_of_single_threads(size - 1) if size > 1 else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One thread also for the caller's operations inside, if there are others than the caller.

        The threads of an operation spin when it has ended, in the way of those that work next.
        """
        with _one_thread() if self._others else nullcontext():
            yield

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """What `work` gives for each item, in order.

        Raises:
            Exception: what `work` raised, once no thread works any more.
        """
        todo = list(items)
        if not self._others or len(todo) == 1:
            return [work(item) for item in todo]
        results: list[R | None] = [None] * len(todo)
        turns = iter(range(len(todo)))

        def take_turns() -> None:
            for i in turns:
                results[i] = work(todo[i])

        others = [self._others.submit(take_turns) for _ in range(min(self.size, len(todo)) - 1)]
        try:
            with self.alone():
                take_turns()
        finally:
            wait(others)
        for each in others:
            each.result()
        return cast(list[R], results)


def _pool_of_single_threads(size: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(size)
    torch.set_num_threads(1)  # what a thread finds when it first asks is what it has from then on
    everyone = Barrier(size)
    list(pool.map(lambda _: (everyone.wait(), torch.get_num_threads()), range(size)))
    torch.set_num_threads(before)
    return pool


_MOST_AT_ONCE = 8  # a checkpoint in work at p = 113 takes about 0.6 GiB


def in_order(items: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """What `work` gives for each item, in order; each piece has one thread to itself.

    Hooked passes go in small batches, over which the threads of one pass wait for each other more than they
    work. Items are drawn by the caller's thread, a few ahead: models are built there, since TransformerLens'
    warnings are silenced for the whole process while one is.
    """
    keep_freed_memory()
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
