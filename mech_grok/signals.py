"""Signals that ask a training process for a checkpoint: SIGUSR1 for one only, SIGTERM and Ctrl-C to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818 (not an error)
    """Training stopped at a signal, after its checkpoint was written."""

    def __init__(self, signal_number: int, path: str):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; continue with --resume: {path}")
        self.exit_code = 128 + signal_number
        """The shell's convention: 130 for Ctrl-C, 143 for SIGTERM."""


class Requests:
    """What signals have asked for since the last look."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        self.checkpoint = False

    def pending(self) -> bool:
        """Whether a checkpoint is wanted now."""
        return self.checkpoint or self.stop_signal is not None


@contextmanager
def listening() -> Iterator[Requests]:
    """Catch the three signals while the block runs; a second Ctrl-C interrupts at once."""
    requests = Requests()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if requests.stop_signal is not None:
            raise KeyboardInterrupt
        requests.stop_signal = number

    def ask_for_checkpoint(number: int, frame: FrameType | None) -> None:
        requests.checkpoint = True

    handlers = {
        signal.SIGINT: ask_to_stop,
        signal.SIGTERM: ask_to_stop,
        signal.SIGUSR1: ask_for_checkpoint,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
