"""What a sweep shows of its cells and of all of them together, and how that reads in a log: a line each."""

from dataclasses import dataclass

from mech_grok.progress import Status, clock
from mech_grok.sweep.cells import State


@dataclass(frozen=True)
class Row:
    """One cell of a running sweep.

    Attributes:
        name: the cell's.
        state: where it is in the sweep.
        status: what its worker last said; None if it has not said anything yet.
        note: why it failed, who is at it, or what became of its last worker.
    """

    name: str
    state: State
    status: Status | None = None
    note: str = ""


@dataclass(frozen=True)
class Total:
    """All cells of a running sweep.

    Attributes:
        cells, complete, failed, waiting: how many there are, and how many of them are in these states.
        work_done: share of the estimated work, 0 to 1.
        elapsed: seconds since the sweep began.
        seconds_left: as far as it can be told.
    """

    cells: int
    complete: int
    failed: int
    waiting: int
    work_done: float
    elapsed: float
    seconds_left: float | None = None


def change_line(row: Row, before: str | None) -> str | None:
    """What has happened to a cell since it was in the state `before`; None if that is not worth a line.

    A cell that waits again says nothing here: only the scheduler knows why.
    """
    if row.state in (before, "waiting") or (row.state == "stopped" and before != "running"):
        return None
    what = "begun" if row.state == "running" else row.state
    why = f": {row.note}" if row.note and row.state in ("failed", "busy") else ""
    return printable(f"{row.name}: {what}{why}")


def status_line(row: Row) -> str:
    """How far a cell is."""
    return printable(f"{row.name}: {row.status.line if row.status else 'starting'}")


def total_line(total: Total) -> str:
    """How far the sweep is."""
    parts = [
        complete(total),
        f"{total.waiting:,} waiting" if total.waiting else "",
        f"{total.work_done:.0%} of the work",
        f"{clock(total.elapsed)} elapsed",
        time_left(total.seconds_left),
    ]
    return f"total: {', '.join(filter(None, parts))}"


def complete(total: Total) -> str:
    """How many cells are complete, and how many will not be: `3/40 complete, 1 failed`."""
    failed = f", {total.failed:,} failed" if total.failed else ""
    return f"{total.complete:,}/{total.cells:,} complete{failed}"


def time_left(seconds: float | None) -> str:
    """`1:02 left`; nothing if it is not known."""
    return "" if seconds is None else f"{clock(seconds)} left"


def printable(text: str) -> str:
    """Text on one line, without control characters or anything that UTF-8 cannot encode."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
