"""What a sweep shows while it runs: lines that stay in place on a terminal, or a log of plain ones."""

import sys
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mech_grok.signals import held
from mech_grok.sweep.display.live_lines import live_lines
from mech_grok.sweep.display.rows import Row, Total, change_line, printable, status_line, total_line

_OFTEN_S, _SELDOM_S, _AT_FIRST_S = 15.0, 30.0, 120.0
"""Off a terminal: seconds between two looks at what runs, in the first two minutes and after them."""


class Board:
    """Shows a sweep. Use as a context manager; Ctrl-C and exceptions leave the terminal as it was.

    That a cell has begun, is done, has failed, is busy elsewhere or was stopped follows from its rows. What
    they cannot say, such as that a cell is given to another worker and why, is told with `say`.
    """

    def __init__(self) -> None:
        console = Console(highlight=False, markup=False, emoji=False)
        is_live = sys.stdout.isatty() and console.is_interactive and not console.options.ascii_only
        self._screen: _Screen = _Live(console) if is_live else _Log()
        self._states: dict[str, str] = {}
        self._total: Total | None = None

    def __enter__(self) -> "Board":
        with held():
            self._screen.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with held():
            self._screen.end(self._total)

    def say(self, text: str) -> None:
        """Print lines that stay."""
        with held():
            for line in text.splitlines():
                self._screen.say(printable(line))

    def show(self, rows: Sequence[Row], total: Total) -> None:
        """How far the sweep is; may be called many times a second.

        Args:
            rows: the cells that the sweep works on; none that was complete before it.
        """
        self._total = total
        with held():
            for row in rows:
                line = change_line(row, self._states.get(row.name))
                self._states[row.name] = row.state
                if line:
                    self._screen.changed(row, line)
            self._screen.show(rows, total)


@runtime_checkable
class _Screen(Protocol):
    """Where it is shown."""

    def begin(self) -> None: ...
    def say(self, line: str) -> None: ...
    def changed(self, row: Row, line: str) -> None: ...
    def show(self, rows: Sequence[Row], total: Total) -> None: ...
    def end(self, total: Total | None) -> None: ...


class _Live:
    """A terminal: what runs stays in place at the bottom, what has ended scrolls up."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn: object = None

    def begin(self) -> None:
        self._live.start()

    def say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def changed(self, row: Row, line: str) -> None:
        if row.state in ("done", "failed", "stopped"):  # the others are to be seen in place
            self._console.print(Text(line, style="red" if row.state == "failed" else ""), soft_wrap=True)

    def show(self, rows: Sequence[Row], total: Total) -> None:
        # The last column stays free, as some terminals wrap when it is filled; so does a line below.
        width, height = self._console.width - 1, self._console.height - 1
        lines = live_lines(rows, total, width, height)
        if (width, height, lines) != self._drawn:
            self._drawn = (width, height, lines)
            self._live.update(Group(*lines), refresh=True)

    def end(self, total: Total | None) -> None:
        self._live.stop()
        if total:
            self.say(total_line(total))


class _Log:
    """A file or a pipe: short lines without control characters, all of them for good."""

    def __init__(self) -> None:
        self._began = self._shown = monotonic()
        self._has_shown = False

    def begin(self) -> None:
        self._began = monotonic()

    def say(self, line: str) -> None:
        print(line, flush=True)

    def changed(self, row: Row, line: str) -> None:
        self.say(line)

    def show(self, rows: Sequence[Row], total: Total) -> None:
        now = monotonic()
        every = _OFTEN_S if now - self._began < _AT_FIRST_S else _SELDOM_S
        if self._has_shown and now - self._shown < every:
            return
        self._shown, self._has_shown = now, True
        running = [row for row in rows if row.state == "running"]
        for row in running or [row for row in rows if row.state == "busy"]:
            self.say(status_line(row))
        self.say(total_line(total))

    def end(self, total: Total | None) -> None:
        if total:
            self.say(total_line(total))
