"""Jobs in processes of this machine."""

import time
from collections.abc import Iterable, Sequence
from multiprocessing.connection import wait

from mech_grok.progress import say
from mech_grok.sweep.workers.job import Job, Outcome
from mech_grok.sweep.workers.nursery import Nursery
from mech_grok.sweep.workers.worker_process import WorkerProcess

WORK = "mech_grok.sweep.workers.work:work"


class LocalEngine:
    """One process per job, forked from one that has everything loaded. An `Engine`.

    A worker takes no Ctrl-C: stopping is the sweep's to decide. Leaving the block stops what still runs; what
    runs `grace` seconds after it was asked to stop is killed, or at once at another Ctrl-C. A worker whose
    sweep is killed does the same to itself.
    """

    def __init__(
        self,
        workers: int,
        threads: int,
        gpus: Sequence[str] = (),
        work: str = WORK,
        grace: float = 10.0,
    ):
        """
        Args:
            workers: how many jobs at once.
            threads: CPU threads of each.
            gpus: one for each worker, as in `CUDA_VISIBLE_DEVICES`; empty: workers see what the sweep sees.
            work: the function that does a job, as `module:name`.
            grace: seconds that a worker has to write its checkpoint before it is killed.
        """
        if gpus and len(gpus) != workers:
            raise ValueError(f"gpus: one for each of {workers} workers, not {len(gpus)}")
        self._work, self._grace = work, grace
        self._slots: list[str | None] = list(gpus) or [None] * workers
        self._nursery = Nursery(threads)
        self._has_complained = False
        self._waiting: list[tuple[Job, str | None]] = []
        self._running: list[WorkerProcess] = []
        self._ended: list[tuple[Job, Outcome]] = []

    @property
    def free(self) -> int:
        """How many more jobs it takes now."""
        return len(self._slots)

    def start(self, job: Job) -> None:
        """Begin a job; comes back at once. Until workers can be forked it waits, for a call of `finished`."""
        if not self._slots:
            raise RuntimeError(f"{job.name}: no worker is free")
        self._waiting.append((job, self._slots.pop(0)))
        self._begin_waiting()

    def finished(self) -> Iterable[tuple[Job, Outcome]]:
        """Jobs whose processes have ended since the last call, and how; comes back at once."""
        self._begin_waiting()
        for worker in list(self._running):
            outcome = worker.outcome()
            if outcome is not None:
                self._running.remove(worker)
                self._end(worker.job, worker.gpu, outcome)
        ended, self._ended = self._ended, []
        return ended

    def interrupt(self) -> None:
        """Have every running job write its checkpoint and stop; its outcome is then `stopped`."""
        for job, gpu in self._waiting:
            self._end(job, gpu, Outcome("stopped", "stopped before it began"))
        self._waiting.clear()
        for worker in self._running:
            worker.stop()

    def _begin_waiting(self) -> None:
        if not (self._waiting and self._nursery.is_ready):
            return
        self._complain_once()
        while self._waiting:
            job, gpu = self._waiting.pop(0)
            try:
                self._running.append(WorkerProcess(self._nursery, self._work, job, gpu, self._grace))
            except (EOFError, OSError) as error:
                self._end(job, gpu, Outcome("died", f"no process could be started: {error!r}"))

    def _complain_once(self) -> None:
        if not (self._nursery.is_loaded or self._has_complained):
            self._has_complained = True
            say("workers: torch and TransformerLens could not be loaded ahead, so each start takes seconds")

    def _end(self, job: Job, gpu: str | None, outcome: Outcome) -> None:
        self._slots.append(gpu)
        self._ended.append((job, outcome))

    def __enter__(self) -> "LocalEngine":
        self._nursery.open()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.interrupt()
            until = max((worker.asked_at or 0.0 for worker in self._running), default=0.0) + self._grace
            while self._running and (left := until - time.monotonic()) > 0:
                wait([worker.answer for worker in self._running], left)
                self.finished()
        finally:
            for worker in self._running:
                worker.kill()
            self._running.clear()
