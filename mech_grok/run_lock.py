"""One writer of a run directory at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mech_grok.errors import RunBusyError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run directory for writing; the lock goes with the process, however that ends.

    Raises:
        RunBusyError: another process is writing there.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusyError(f"{path}: another process is writing this run") from None
        yield
