"""The life of a worker process on this machine: one job, its outcome through a pipe, and the end."""

import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection

from mech_grok.signals import Interrupted, Terminated, unwinding
from mech_grok.sweep.workers.job import Job, Outcome


def live(work: str, job: Job, gpu: str | None, grace: float, answer: Connection) -> None:
    """Do one job and send its `Outcome`; the process ends here.

    SIGTERM stops the job. Ctrl-C in a terminal, which reaches every process of it, is the sweep's to pass on.

    Args:
        work: where the function is that does it, as `module:name`; it takes the job and gives the outcome.
        gpu: the only device that it may see, as in `CUDA_VISIBLE_DEVICES`; None: what the sweep sees.
        grace: seconds between SIGTERM and SIGKILL once the sweep is gone.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA is initialised, which reads it once
    threading.Thread(target=_end_after_parent, args=(grace,), daemon=True).start()
    answer.send(_outcome(work, job))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written: nothing that the interpreter still waits for may keep the worker


def _outcome(work: str, job: Job) -> Outcome:
    try:
        with unwinding():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # one that came before arrives now
            return pkgutil.resolve_name(work)(job)
    except (Interrupted, Terminated) as stop:
        return Outcome("stopped", str(stop))
    except Exception as error:  # `work` names its failures itself; this one may be its own import
        traceback.print_exc()
        return Outcome("failed", " ".join(f"{type(error).__name__}: {error}".split()))


def _end_after_parent(grace: float) -> None:
    """A sweep that was killed cannot stop its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)
