"""The scheduler: gives cells to workers until every one of them is complete, failed for good, or stopped."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from mech_grok.errors import UserError
from mech_grok.signals import Interrupted, listening
from mech_grok.sweep.cells import Cell
from mech_grok.sweep.display.board import Board
from mech_grok.sweep.display.rows import Row, Total
from mech_grok.sweep.places.claim import Watch, read_claim
from mech_grok.sweep.workers.engine import Engine
from mech_grok.sweep.workers.job import Outcome

_ROUND_S = 0.2
_ASK_AGAIN_S = 5.0
"""How often a cell that somebody else is at is looked at again."""


def sweep(cells: Sequence[Cell], engine: Engine, folder: str) -> None:
    """Work through the cells; each one's `state` and `message` then say what came of it.

    Args:
        folder: the study's, for the message when the sweep is stopped.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; running cells have written a checkpoint.
    """
    schedule = _Schedule(cells, engine)
    with listening() as requests, engine, Board() as board:
        while not schedule.is_over:
            schedule.take_in(board.say)
            if requests.stop_signal is None:
                schedule.begin()
            elif not schedule.is_stopping:
                board.say("stopping: running cells write their checkpoints")
                schedule.stop()
            board.show(schedule.rows(), schedule.total())
            if not schedule.is_over:
                time.sleep(_ROUND_S)
    if requests.stop_signal is not None and any(cell.state == "stopped" for cell in cells):
        raise Interrupted(requests.stop_signal, f"the same command: {folder}")


class _Schedule:
    """Which cell is where, and what is to be done next."""

    def __init__(self, cells: Sequence[Cell], engine: Engine):
        self._cells = {cell.job.place: cell for cell in cells}
        self._engine = engine
        self._watch = Watch()
        self._began = self._asked = time.monotonic()
        self._work = {cell.job.place: cell.seconds_left for cell in cells}
        self._pace_from: tuple[float, float] | None = None
        self.is_stopping = False

    @property
    def is_over(self) -> bool:
        return all(cell.is_settled for cell in self._cells.values())

    def take_in(self, say: Callable[[str], None]) -> None:
        """What has ended, and how far the others are."""
        for job, outcome in self._engine.finished():
            self._settle(self._cells[job.place], outcome, say)
        for cell in self._in_state("running"):
            cell.look()

    def begin(self) -> None:
        """Begin what can begin."""
        self._ask_again()
        self._start_waiting()

    def stop(self) -> None:
        """Interrupt what runs; what waits will not be begun."""
        self.is_stopping = True
        self._engine.interrupt()
        for cell in self._in_state("waiting", "busy"):
            cell.state = "stopped"

    def rows(self) -> list[Row]:
        return [Row(c.job.name, c.state, c.status, c.message) for c in self._cells.values()]

    def total(self) -> Total:
        left, now = self._seconds_left, time.monotonic()
        if self._pace_from is None and any(cell.status for cell in self._cells.values()):
            self._pace_from = (now, left)  # what comes before the first worker is at work says nothing
        since, left_then = self._pace_from or (now, left)
        done = left_then - left
        pace = (now - since) / done if done > 0.02 * sum(self._work.values()) else None
        work = sum(self._work[place] for place, cell in self._cells.items() if cell.state != "failed")
        return Total(
            cells=len(self._cells),
            complete=len(self._in_state("done")),
            failed=len(self._in_state("failed")),
            waiting=len(self._in_state("waiting", "busy")),
            work_done=1 - left / work if work else 0.0,
            elapsed=now - self._began,
            seconds_left=None if pace is None else left * pace,
        )

    @property
    def _seconds_left(self) -> float:
        return sum(cell.seconds_left for cell in self._cells.values())

    def _in_state(self, *states: str) -> list[Cell]:
        return [cell for cell in self._cells.values() if cell.state in states]

    def _settle(self, cell: Cell, outcome: Outcome, say: Callable[[str], None]) -> None:
        cell.message = outcome.message
        if outcome.kind == "died" or (outcome.kind == "stopped" and not self.is_stopping):
            cell.has_died(outcome.message)
            if cell.state == "waiting":
                say(f"{cell.job.name}: {outcome.message}; given to another worker")
            if self.is_stopping and cell.state == "waiting":
                cell.state = "stopped"
        elif outcome.kind == "busy":
            cell.state = "stopped" if self.is_stopping else "busy"
        else:
            cell.state = outcome.kind

    def _start_waiting(self) -> None:
        """Start waiting cells whose parents are there, in order, as many as the engine takes."""
        for cell in self._in_state("waiting"):
            parents = [self._cells[p] for p in cell.parents if p in self._cells]
            failed = [parent.job.name for parent in parents if parent.state == "failed"]
            if failed:
                cell.state, cell.message = "failed", f"not begun: it builds on {failed[0]}, which failed"
            elif self._engine.free > 0 and all(parent.state == "done" for parent in parents):
                cell.state, cell.status = "running", None
                self._engine.start(cell.job)

    def _ask_again(self) -> None:
        """Let cells wait for a worker again that nobody is at any more, or whose claim is lifeless."""
        now = time.monotonic()
        if now - self._asked < _ASK_AGAIN_S:
            return
        self._asked = now
        for cell in self._in_state("busy"):
            cell.look()
            lifeless = self._watch.lifeless(cell.job.place)
            if lifeless or (_is_unclaimed(cell.job.place) and cell.is_worth_asking_again(now)):
                cell.job = replace(cell.job, taken_from=lifeless)
                cell.state, cell.message = "waiting", ""


def _is_unclaimed(place: str) -> bool:
    """Whether nobody claims a run; a place that cannot be reached now may be claimed."""
    try:
        return read_claim(place) is None
    except UserError:
        return False
