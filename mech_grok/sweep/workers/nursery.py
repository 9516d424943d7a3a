"""The forkserver that workers come from: it has loaded what they need, so that a start costs milliseconds."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from types import ModuleType

PRELOAD = "mech_grok.sweep.workers.preload"

_FORKSERVER = multiprocessing.get_context("forkserver")


class Nursery:
    """Starts processes that have torch, TransformerLens and `mech_grok.sweep.workers.work` loaded.

    Python has one forkserver per process. It stays, loaded, for the next nursery, and ends with the process.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._loading = threading.Thread(target=self._load, daemon=True)
        self.is_loaded = False
        """Whether what workers need is loaded ahead; tells once the nursery is ready."""

    def open(self) -> None:
        """Begin to load, which takes about ten seconds; comes back at once."""
        _FORKSERVER.set_forkserver_preload([PRELOAD])
        self._ensure_forkserver()
        self._loading.start()

    @property
    def is_ready(self) -> bool:
        """Whether `start` takes milliseconds by now: all is loaded, or will not be."""
        return not self._loading.is_alive()

    def start(self, target: Callable[..., object], *args: object) -> ForkServerProcess:
        """A process that has begun, with SIGINT and SIGTERM blocked; before the nursery is ready this waits.

        Raises:
            EOFError, OSError: no process could be started.
        """
        self._ensure_forkserver()
        process = _FORKSERVER.Process(target=target, args=args)
        with _main_hidden():
            process.start()
        return process

    def _load(self) -> None:
        try:
            first = self.start(_tell_whether_loaded, PRELOAD)
        except (EOFError, OSError):  # the forkserver has ended; whoever starts a worker meets that again
            return
        first.join()
        self.is_loaded = first.exitcode == 0
        first.close()

    def _ensure_forkserver(self) -> None:
        """What has to hold before the forkserver's first import is set here; its children inherit it.

        OpenMP reads its variables once, when it is loaded. Signals that are blocked wait until a worker is
        ready to take them, and spare the forkserver, which has to outlive its workers.
        """
        policy = os.environ.get("OMP_WAIT_POLICY", "passive")
        resource_tracker.ensure_running()  # the forkserver would start it, and that unblocks the signals
        with (
            _environment(OMP_NUM_THREADS=str(self._threads), OMP_WAIT_POLICY=policy),
            _blocked(signal.SIGINT, signal.SIGTERM),
        ):
            forkserver.ensure_running()


def _tell_whether_loaded(module: str) -> None:
    """Run in a process that was forked: a forkserver says nothing when what it was to import fails."""
    sys.exit(0 if module in sys.modules else 1)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep new processes from running the program's main module again, as Python would have them do."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
