"""Work for Ray's workers, which import it from here, and what the tests of it share."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mech_grok.sweep.workers.engine import Engine
from mech_grok.sweep.workers.job import Job, Outcome

PATIENCE_S = 300.0


def act(job: Job) -> Outcome:
    """What the job's name says, in place of training."""
    deed, _, detail = job.name.partition("-")
    return _DEEDS[deed](job, detail)


def _answer(job: Job, detail: str) -> Outcome:
    return Outcome("done", str(os.getpid()))


def _raise(job: Job, detail: str) -> Outcome:
    raise ValueError("no such thing:\nnowhere")


def _die(job: Job, detail: str) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


def _meet(job: Job, detail: str) -> Outcome:
    """Wait for so many others, and some more time; say how many have been at work at once."""
    folder = Path(job.place).parent
    mark = folder / f"{job.name}.mark"
    mark.touch()
    until(lambda: _at_work(folder) >= int(detail.partition("-")[0]))
    time.sleep(1.0)
    most = _at_work(folder)
    mark.unlink()
    return Outcome("done", f"{most} at once, {_environment()}")


def _environment() -> str:
    threads, gpus = (os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"))
    return f"{threads} threads, GPU {gpus}"


def _at_work(folder: Path) -> int:
    return len(list(folder.glob("*.mark")))


def _wait(job: Job, detail: str) -> Outcome:
    """Until the signal that `work` turns into a checkpoint."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    Path(job.place).write_text(str(os.getpid()))
    try:
        while not seen:
            time.sleep(0.02)
    finally:
        signal.signal(signal.SIGINT, before)
    return Outcome("stopped", f"{os.getpid()} wrote a checkpoint")


_DEEDS = {"answer": _answer, "raise": _raise, "die": _die, "meet": _meet, "wait": _wait}


def settle(
    engine: Engine, jobs: Sequence[Job], meanwhile: Callable[[], object] = lambda: None
) -> dict[str, list[Outcome]]:
    """Name of a job -> what came of it; one that died is given out again, as a sweep does.

    Args:
        meanwhile: called again and again until all is settled.
    """
    waiting, running = list(jobs), set[str]()
    outcomes: dict[str, list[Outcome]] = {job.name: [] for job in jobs}
    deadline = time.monotonic() + PATIENCE_S
    while waiting or running:
        assert time.monotonic() < deadline, f"not settled: {outcomes}"
        while waiting and engine.free > 0:
            running.add(waiting[0].name)
            engine.start(waiting.pop(0))
        for job, outcome in engine.finished():
            running.remove(job.name)
            outcomes[job.name].append(outcome)
            if outcome.kind == "died" and len(outcomes[job.name]) < 3:
                waiting.append(job)
        meanwhile()
        time.sleep(0.02)
    return outcomes


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
