"""A worker process of this machine, seen from the sweep: what came of its job, and how it is stopped."""

import os
import signal
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait

from mech_grok.sweep.workers.job import Job, Outcome
from mech_grok.sweep.workers.local_worker import live
from mech_grok.sweep.workers.nursery import Nursery

_REAP_S = 10.0
"""How long a process that is gone may take to be accounted for."""


class WorkerProcess:
    """A process that does one job and ends. Its pipe, which it alone can write, tells whether it is there."""

    def __init__(self, nursery: Nursery, work: str, job: Job, gpu: str | None, grace: float):
        """Begin; the arguments are those of `mech_grok.sweep.workers.local_worker.live`.

        Raises:
            EOFError, OSError: no process could be started.
        """
        self.job, self.gpu = job, gpu
        self._said: Outcome | None = None
        self.asked_at: float | None = None
        """When it was asked to stop, on the monotonic clock."""
        self.answer, theirs = Pipe(duplex=False)
        try:
            self._process = nursery.start(live, work, job, gpu, grace, theirs)
        except BaseException:
            self.answer.close()
            raise
        finally:
            theirs.close()  # so that the pipe ends when the worker does

    def outcome(self) -> Outcome | None:
        """What came of the job; None while the process is there."""
        try:
            while self.answer.poll():
                self._said = self.answer.recv()
        except (EOFError, OSError):
            code = self._reap()
            return self._said or _unsaid(code)
        return None

    def stop(self) -> None:
        """SIGTERM, once: a second one could hit the worker while it writes what the first one asked for."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._send(signal.SIGKILL)
        while self.outcome() is None and wait([self.answer], _REAP_S):
            pass

    def _send(self, number: signal.Signals) -> None:
        # Not Process.terminate: it takes a worker whose forkserver is gone for ended, and sends nothing.
        pid = self._process.ident
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def _reap(self) -> int | None:
        """The exit code; negative: the signal that ended the process."""
        self._process.join(_REAP_S)
        code = self._process.exitcode
        if code is not None:
            self._process.close()
        self.answer.close()
        return code


def _unsaid(code: int | None) -> Outcome:
    """What came of a job whose process ended without a word."""
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):  # before anything was begun, or during an import
        return Outcome("stopped", "the worker ended at SIGTERM")
    if code is not None and code < 0:
        reason = " (out of memory?)" if -code == signal.SIGKILL else ""
        return Outcome("died", f"the worker was killed by {_signal_name(-code)}{reason}")
    return Outcome("died", f"the worker ended with exit code {code}")


def _signal_name(number: int) -> str:
    names = {int(known): known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")
