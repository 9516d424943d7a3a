"""What the tests of the local engine have its workers do."""

import fcntl
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from mech_grok.signals import listening
from mech_grok.sweep.workers.job import Job, Outcome


def report(job: Job) -> Outcome:
    """What a worker finds when it begins."""
    wanted = ("torch", "transformer_lens", "mech_grok.sweep.workers.work")
    found = {
        "pid": os.getpid(),
        "forkserver": os.getppid(),
        "loaded": [name for name in wanted if name in sys.modules],
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "argv": sys.argv,
        "stdin": sys.stdin.read(),
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "omp": [os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY")],
        "parent": multiprocessing.parent_process().pid,
    }
    return Outcome("done", json.dumps(found))


def use_threads(job: Job) -> Outcome:
    """How many threads an operation has, and how many more the process has after it."""
    import torch

    torch.set_num_threads(job.threads)
    before = len(os.listdir("/proc/self/task"))
    torch.rand(1_000_000).exp_()
    return Outcome("done", f"{torch.get_num_threads()} {len(os.listdir('/proc/self/task')) - before}")


def by_name(job: Job) -> Outcome:
    """End as the job's name says; a job with a directory works until it is stopped."""
    if Path(job.place).is_dir():
        return until_stopped(job)
    if job.name == "raises":
        raise ValueError("two\nlines")
    if job.name == "exits":
        os._exit(3)
    if job.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome("done", job.name)


def until_stopped(job: Job) -> Outcome:
    """Work until a signal says stop, then write a checkpoint; the lock is held as long as that."""
    place = Path(job.place)
    with listening() as requests, (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (place / "began").write_text(str(os.getpid()))
        while requests.stop_signal is None:
            time.sleep(0.01)
        (place / "checkpoint").touch()
    return Outcome("stopped", signal.Signals(requests.stop_signal).name)


def stubborn(job: Job) -> Outcome:
    """Heed no signal; the lock is held as long as the process lives."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with (Path(job.place) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (Path(job.place) / "began").write_text(str(os.getpid()))
        time.sleep(60)
    return Outcome("done")
