"""Who works on a run: one process at a time, on whatever machine, also when the one before is dead or hangs.

A claim is a numbered file in `.claim` of the run directory, created once; the highest number is the claim
that counts. Its holder rewrites it every few seconds. A claim is taken over, or follows one that was given
back, by creating the next number. Numbers never go down (one that was given back stays until the next),
so that a process that was asleep meanwhile always finds a higher one, and never takes a claim for its own or
for free that has come and gone since it looked.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event, Lock, Thread

from mech_grok.errors import RunBusyError, UserError
from mech_grok.progress import Status
from mech_grok.signals import abandon, held
from mech_grok.sweep.places.claim_files import claim_files
from mech_grok.sweep.places.claim_record import ClaimRecord, current_claim, encoded, unknown_claim
from mech_grok.sweep.places.processes import this_process
from mech_grok.sweep.places.remote import is_remote, reaching

BEAT_S = 2.0
"""Between two signs of life in a run directory on this machine or a mounted file system."""

REMOTE_BEAT_S = 10.0
"""The same behind a URL, where each costs three requests."""

STALE_S = 60.0
"""A claim without a sign of life for so long may be taken over; one who cannot give any stops before."""


class Claim:
    """A run that is this process's alone to write.

    Attributes:
        token: of this claim.
        status: how far the work is; others read it after the next sign of life.
        is_lost: whether another process was found to have taken it over.
    """

    def __init__(self, place: str, sweep: str):
        process, now = this_process(), datetime.now(UTC).isoformat(timespec="seconds")
        self.token, self.is_lost = secrets.token_hex(8), False
        self.status: Status | None = None
        self._record = ClaimRecord(
            token=self.token,
            sweep=sweep,
            host=process.host,
            pid=process.pid,
            beat=0,
            since=now,
            status=None,
            machine=process.machine,
            started=process.started,
        )
        self._place, self._files = place, claim_files(place)
        self._number, self._is_taken = 0, False
        self._alive_at, self._lock = time.monotonic(), Lock()

    def take(self, taken_from: str | None) -> None:
        """Claim the run.

        Raises:
            RunBusyError: it is held by another process.
        """
        number, there = current_claim(self._files)
        if there and not (there.token == taken_from or self._may_follow(there)):
            raise RunBusyError(f"{self._place}: {there.holder} is at it")
        self._number, self._alive_at = number + 1, time.monotonic()
        self._files.create(self._number, encoded(self._record))
        if current_claim(self._files) != (self._number, self._record):
            raise RunBusyError(f"{self._place}: another process has just claimed it")
        self._is_taken = True
        for older in self._files.numbers()[:-1]:
            self._files.remove(older)

    def _may_follow(self, there: ClaimRecord) -> bool:
        same_sweep = bool(there.sweep) and there.sweep == self._record.sweep
        return there.released or same_sweep or there.is_dead

    def is_held(self) -> bool:
        """Whether it is still held; gives a sign of life first if the last one was long ago.

        A process that was asleep finds here what has happened meanwhile.
        """
        if not self.is_lost and time.monotonic() - self._alive_at > STALE_S / 2:
            self.beat()
        return not self.is_lost

    def beat(self) -> None:
        """Look whether the claim is still held, and give a sign of life.

        A failure (a full disk, no network) is no loss until it has lasted for STALE_S / 2: then others are
        about to take the holder for dead.
        """
        with self._lock:
            began = time.monotonic()
            try:
                self.is_lost = self.is_lost or not self._is_current()
                if not self.is_lost:
                    self._record = replace(self._record, beat=self._record.beat + 1, status=self.status)
                    self._files.rewrite(self._number, encoded(self._record))
                    self._alive_at = began
            except Exception:  # whatever the file system's package raises
                self.is_lost = time.monotonic() - self._alive_at > STALE_S / 2

    def give_back(self) -> None:
        """Let others claim the run, if it is held. If that fails, they find its holder gone."""
        with suppress(Exception):  # whatever the file system's package raises
            if not self._is_current():
                self.is_lost = self._is_taken
            elif not self.is_lost:
                self._files.rewrite(self._number, encoded(replace(self._record, released=True)))

    def _is_current(self) -> bool:
        number, there = current_claim(self._files)
        mine = (self.token, unknown_claim(number).token)  # a failed rewrite may have left half of it
        return number == self._number and there is not None and there.token in mine


@contextmanager
def claimed(place: str, sweep: str, taken_from: str | None = None) -> Iterator[Claim]:
    """Hold a run directory against all other processes of all machines.

    A claim that was given back is free. One of the same sweep is taken over, as its engine has seen that the
    worker is gone; so is that of a process of this machine that runs no more.

    If another process takes the claim over, this one is interrupted without a checkpoint, so that two never
    write the same run.

    Args:
        place: the run directory, which need not exist: a path or a URL.
        sweep: token of the sweep that the process works for.
        taken_from: token of a claim that was seen lifeless, and is taken over.

    Raises:
        RunBusyError: another process holds it, or has taken it over.
        UserError: the place cannot be reached.
    """
    with reaching(place):
        claim = Claim(place, sweep)
    stop = Event()
    thread = Thread(target=_keep, args=(claim, stop, _beat_s(place)), name="claim", daemon=True)
    try:
        try:
            with reaching(place):
                claim.take(taken_from)
            thread.start()
            yield claim
        finally:
            with held():
                stop.set()
                if thread.is_alive():
                    thread.join()
                claim.give_back()
    finally:
        if claim.is_lost:
            raise RunBusyError(f"{place}: another process has taken it over")


def _keep(claim: Claim, stop: Event, every: float) -> None:
    """Give signs of life; if the claim is lost, stop what the process does."""
    while not stop.wait(every):
        claim.beat()
        if claim.is_lost:
            abandon()
            return


def _beat_s(place: str) -> float:
    return REMOTE_BEAT_S if is_remote(place) else BEAT_S


def read_claim(place: str) -> ClaimRecord | None:
    """The claim that holds a run directory; None if none does.

    Whether its holder is alive is another matter. A claim that cannot be read is one by nobody known.

    Raises:
        UserError: the place cannot be reached.
    """
    with reaching(place):
        _, there = current_claim(claim_files(place))
    return None if there is None or there.released else there


class Watch:
    """Finds claims without a sign of life, by this process's own clock: those of two machines may differ."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[str, int], float]] = {}
        """Place -> token and beat of its claim, and when they were first seen."""

    def lifeless(self, place: str) -> str | None:
        """Token of a claim that has not changed for STALE_S seconds in which it was looked at; else None.

        A place that cannot be reached now says nothing.
        """
        try:
            there = read_claim(place)
        except UserError:
            there = None
        if there is None:
            self._seen.pop(place, None)
            return None
        now, sign = time.monotonic(), (there.token, there.beat)
        if self._seen.get(place, (None, now))[0] != sign:
            self._seen[place] = sign, now
        return there.token if now - self._seen[place][1] >= STALE_S else None
