"""What a run is doing: a live line on a terminal, a plain one now and then elsewhere, or another console."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

_PLAIN_EVERY_S = 15.0
_LIVE_EVERY_S = 0.2
_CLEAR = "\r\x1b[2K"


@dataclass(frozen=True)
class Status:
    """How far a piece of work is.

    Attributes:
        label: what is being worked on.
        unit: what is counted, in the singular.
        done, total: how many of them.
        elapsed: seconds since this piece was begun.
        rate: how many a second, over this piece; 0 before the first.
        note: what else is worth saying, such as the loss.
    """

    label: str
    unit: str
    done: int
    total: int
    elapsed: float
    rate: float
    note: str = ""

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None if there is none yet."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    @property
    def line(self) -> str:
        """All of it on one line."""
        left, took = "", ""
        if self.done >= self.total:
            took = f", took {clock(self.elapsed)}"
        elif self.seconds_left is not None:
            left = f", {clock(self.seconds_left)} left"
        text = f"{self.label}: {self.unit} {self.done:,}/{self.total:,}, {self.rate:.1f}/s{left}{took}"
        return f"{text}  {self.note}".rstrip()


@runtime_checkable
class Console(Protocol):
    """Where lines and progress go."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def show(self, status: Status) -> None:
        """How far the work is; called often."""
        ...

    def finish(self) -> None:
        """The piece of work that was last shown is over."""
        ...


class Terminal:
    """Standard output: a live line on a terminal, a plain one now and then through a pipe."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()
        self._is_line_open = False

    def say(self, text: str) -> None:
        if self._is_line_open:  # in place of the live line, which comes again
            sys.stdout.write(_CLEAR)
            self._is_line_open = False
        print(text, flush=True)

    def show(self, status: Status) -> None:
        now, live = time.monotonic(), sys.stdout.isatty()
        every = _LIVE_EVERY_S if live else _PLAIN_EVERY_S
        if status.done < status.total and now - self._shown_at < every:
            return
        self._shown_at = now
        if not live:
            print(status.line, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be written over
        sys.stdout.write(f"{_CLEAR}{status.line[:width]}")
        sys.stdout.flush()
        self._is_line_open = True

    def finish(self) -> None:
        if self._is_line_open:
            sys.stdout.write("\n")
            self._is_line_open = False
        self._shown_at = time.monotonic()


_console: ContextVar[Console | None] = ContextVar("console", default=None)
_terminal = Terminal()


@contextmanager
def reporting_to(console: Console) -> Iterator[None]:
    """Send lines and progress of the block to another console."""
    token = _console.set(console)
    try:
        yield
    finally:
        _console.reset(token)


def _current() -> Console:
    return _console.get() or _terminal


def say(text: str) -> None:
    """Print one line at once, also through a pipe."""
    _current().say(text)


class Progress:
    """Position, rate and time left of a piece of work that has `total` parts.

    Use as a context manager; call `update` as often as you like.
    """

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "step"):
        self._label, self._total, self._unit = label, total, unit
        self._first = done
        self._started = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current().finish()

    def update(self, done: int, note: str = "") -> None:
        """Say how far the work is, if the last time was long enough ago or it is finished."""
        elapsed = time.monotonic() - self._started
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        _current().show(Status(self._label, self._unit, done, self._total, elapsed, rate, note))


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
