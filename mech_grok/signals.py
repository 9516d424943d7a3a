"""Signals: SIGUSR1 asks a training process for a checkpoint, SIGTERM and Ctrl-C for one and to stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818 (not an error)
    """Training stopped at a signal, after its checkpoint was written."""

    def __init__(self, signal_number: int, go_on: str):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; continue with {go_on}")
        self.exit_code = 128 + signal_number
        """The shell's convention: 130 for Ctrl-C, 143 for SIGTERM."""


class Terminated(BaseException):
    """SIGTERM outside training: unwinds like Ctrl-C's KeyboardInterrupt."""

    exit_code = 128 + signal.SIGTERM


class Requests:
    """What signals have asked for since the last look."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        self.checkpoint = False

    def pending(self) -> bool:
        """Whether a checkpoint is wanted now."""
        return self.checkpoint or self.stop_signal is not None


Handler = Callable[[int, FrameType | None], None]

_abandoned = threading.Event()


def abandon() -> None:
    """Stop what the main thread does, as SIGTERM, but without a checkpoint: the run is another's to write.

    May be called from any thread.
    """
    _abandoned.set()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def unwinding() -> Iterator[None]:
    """Outside training: SIGTERM raises, as Ctrl-C does, and SIGUSR1 finds nothing to write.

    While a module is being imported nothing is being written, and torch aborts if an exception reaches its
    C++ code, so the process ends there and then.
    """

    def unwind(number: int, frame: FrameType | None) -> None:
        _abandoned.clear()
        if _importing(frame):
            os.write(2, b"mech-grok: interrupted\n")
            os._exit(128 + number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated("terminated")

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    with _handling({signal.SIGINT: unwind, signal.SIGTERM: unwind, signal.SIGUSR1: ignore}):
        yield


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def listening() -> Iterator[Requests]:
    """Catch the three signals while the block runs; a second Ctrl-C and `abandon` interrupt at once."""
    requests = Requests()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if _abandoned.is_set():
            _abandoned.clear()
            raise Terminated("terminated")
        if requests.stop_signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        requests.stop_signal = (
            requests.stop_signal or number
        )  # schedulers repeat SIGTERM: the first one counts

    def ask_for_checkpoint(number: int, frame: FrameType | None) -> None:
        requests.checkpoint = True

    handlers: dict[int, Handler] = {
        signal.SIGINT: ask_to_stop,
        signal.SIGTERM: ask_to_stop,
        signal.SIGUSR1: ask_for_checkpoint,
    }
    with _handling(handlers):
        yield requests


@contextmanager
def held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done."""
    waiting: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    try:
        with _handling({signal.SIGINT: wait, signal.SIGTERM: wait}):
            yield
    finally:
        for number in waiting:
            signal.raise_signal(number)


@contextmanager
def _handling(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Handle signals while the block runs; Python allows that in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
