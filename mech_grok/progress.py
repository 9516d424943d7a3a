"""What a run is doing, on the console: one live line on a terminal, a plain line now and then elsewhere."""

import shutil
import sys
import time
from types import TracebackType

_PLAIN_EVERY_S = 15.0
_LIVE_EVERY_S = 0.2
_CLEAR = "\r\x1b[2K"


def say(text: str) -> None:
    """Print one line at once, also through a pipe."""
    print(text, flush=True)


class Progress:
    """Position, rate and time left of a piece of work that has `total` parts.

    Use as a context manager; call `update` as often as you like.
    """

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "step"):
        self._label, self._total, self._unit = label, total, unit
        self._first = done
        self._started = self._shown_at = time.monotonic()
        self._live = sys.stdout.isatty()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            sys.stdout.write("\n")

    def update(self, done: int, note: str = "") -> None:
        """Say how far the work is, if the last time was long enough ago or it is finished."""
        now = time.monotonic()
        every = _LIVE_EVERY_S if self._live else _PLAIN_EVERY_S
        if done < self._total and now - self._shown_at < every:
            return
        self._shown_at = now
        line = self._line(done, now - self._started, note)
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be written over
            sys.stdout.write(f"{_CLEAR}{line[:width]}")
            sys.stdout.flush()
        else:
            say(line)

    def note(self, text: str) -> None:
        """Print a line that stays, in place of the live one."""
        say(f"{_CLEAR}{text}" if self._live else text)

    def _line(self, done: int, elapsed: float, note: str) -> str:
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        left = f", {_clock((self._total - done) / rate)} left" if rate > 0 and done < self._total else ""
        took = f", took {_clock(elapsed)}" if done >= self._total else ""
        text = f"{self._label}: {self._unit} {done:,}/{self._total:,}, {rate:.1f}/s{left}{took}"
        return f"{text}  {note}".rstrip()


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
