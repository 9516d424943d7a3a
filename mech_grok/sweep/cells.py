"""The cells of a running sweep: what each waits for, how far it is, how often it died, how it ended."""

import math
import posixpath
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mech_grok.errors import UserError
from mech_grok.progress import Status
from mech_grok.study_config import Stage
from mech_grok.sweep.places.claim import REMOTE_BEAT_S, read_claim
from mech_grok.sweep.places.remote import Remote, is_remote, reaching
from mech_grok.sweep.workers.job import Job

State = Literal["waiting", "running", "busy", "done", "failed", "stopped"]

MOST_DEATHS = 3
"""Deaths of a cell's workers in a row, with nothing new on disk between them, after which it has failed."""

_LONGEST_PAUSE_S = 60.0


@dataclass
class Cell:
    """One cell of a running sweep.

    Attributes:
        job: its work.
        seconds: stage -> estimated seconds, of the stages that were missing when the sweep began.
        begun: stage -> share of it that was there already.
        state: `waiting` for a worker or for a parent; `running`; `busy`, as another sweep or process is at
            it; then `done`, `failed` or `stopped`.
        message: why it failed, or who is at it.
        status: what its worker last said.
        deaths: of its workers in a row, without anything new on disk.
    """

    job: Job
    seconds: Mapping[Stage, float]
    begun: Mapping[Stage, float]
    state: State = "waiting"
    message: str = ""
    status: Status | None = None
    deaths: int = 0
    _files: frozenset[str] = frozenset()
    _looked_at: float = -math.inf
    _ask_at: float = 0.0
    _pause: float = 2.5

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will come of it in this sweep."""
        return self.state in ("done", "failed", "stopped")

    @property
    def parents(self) -> tuple[str, ...]:
        """Places of the runs that it builds on."""
        folder = posixpath.dirname(self.job.place.rstrip("/"))
        return tuple(_joined(folder, name) for name in self.job.config.builds_on)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds of work that is not done, on one worker; a failure leaves none."""
        if self.state in ("done", "failed"):
            return 0.0
        stages = list(self.seconds)
        now = stages.index(self._stage) if self._stage in stages else 0
        shares = {stage: 1 - self.begun.get(stage, 0.0) for stage in stages}
        if self.status and self._stage in shares:
            shares[self._stage] = 1 - self.status.done / max(self.status.total, 1)
        return sum(self.seconds[stage] * shares[stage] for stage in stages[now:])

    @property
    def _stage(self) -> str | None:
        return self.status.label if self.status else None

    def look(self) -> None:
        """Read from its claim how far its worker is; behind a URL only as often as that is written.

        A place that cannot be reached now says nothing.
        """
        now = time.monotonic()
        if is_remote(self.job.place) and now - self._looked_at < REMOTE_BEAT_S:
            return
        self._looked_at = now
        with suppress(UserError):
            record = read_claim(self.job.place)
            if record and record.status:
                self.status = record.status

    def is_worth_asking_again(self, now: float) -> bool:
        """Whether a cell that somebody else is at should be looked at; ever less often while it stays so."""
        if now < self._ask_at:
            return False
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
        self._ask_at = now + self._pause
        return True

    def has_died(self, how: str) -> None:
        """Count a death of its worker; it waits for the next one, unless it has died too often."""
        files = _files_of(self.job.place) or self._files
        self.deaths = 1 if files - self._files else self.deaths + 1
        self._files = files
        self.state, self.message = "waiting", how
        if self.deaths >= MOST_DEATHS:
            self.state = "failed"
            self.message = (
                f"its worker died {self.deaths} times without getting further, the last time: {how}"
            )


def _joined(folder: str, name: str) -> str:
    """A name relative to a folder, which may be a URL."""
    protocol, separator, path = folder.rpartition("://")
    return f"{protocol}{separator}{posixpath.normpath(posixpath.join(path, name))}"


def _files_of(place: str) -> frozenset[str] | None:
    """What is in a run directory: checkpoints, and a file for each written chunk of an array.

    Files that are hidden, such as claims and what was being written, do not count. None if it cannot be
    reached now.
    """
    try:
        with reaching(place):
            return frozenset(Remote.at(place).files())
    except UserError:
        return None
