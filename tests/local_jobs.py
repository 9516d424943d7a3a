"""Jobs for an engine of this machine, and waiting for what comes of them."""

import fcntl
import time
from collections.abc import Callable
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.sweep.workers.engine import Engine
from mech_grok.sweep.workers.job import Job, Outcome


def job(place: Path | str, threads: int = 1) -> Job:
    return Job(str(place), CellConfig(), ("train",), (), threads, "sweep", "mech-grok sweep")


def outcomes(engine: Engine, count: int) -> dict[str, Outcome]:
    """Name -> outcome of that many jobs."""
    found: dict[str, Outcome] = {}
    wait_until(lambda: found.update({j.name: o for j, o in engine.finished()}) or len(found) >= count)
    return found


def wait_until(holds: Callable[[], object], seconds: float = 180.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it has not come about"
        time.sleep(0.01)


def wait_for_begin(local: Engine, place: Path) -> None:
    """Until the only job is at work; the engine is looked at meanwhile, as a sweep does."""
    wait_until(lambda: not list(local.finished()) and (place / "began").exists())


def is_held(place: Path) -> bool:
    """Whether the process that locked a job's directory is there."""
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
