"""Folders of this machine for copies of what is elsewhere, each used by one process at a time."""

import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from mech_grok.errors import UserError

_kept = ExitStack()


@contextmanager
def slot(kind: str) -> Iterator[Path]:
    """A folder that no other process has now; what an earlier one left in it is still there.

    It goes back with the process, however that ends, so that there are never more of them than processes at
    once.

    Raises:
        UserError: the folder that holds them is another user's.
    """
    root = _scratch()
    for i in itertools.count():
        with (root / f"{kind}-{i}.lock").open("w") as file:
            if _is_ours(file):
                folder = root / f"{kind}-{i}"
                folder.mkdir(exist_ok=True)
                yield folder
                return


@cache
def slot_for_good(kind: str) -> Path:
    """A slot that this process keeps until it ends."""
    return _kept.enter_context(slot(kind))


def _is_ours(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _scratch() -> Path:
    """`mech-grok-<user>` in the folder for temporary files, which TMPDIR names."""
    root = Path(tempfile.gettempdir()) / f"mech-grok-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise UserError(f"{root}: belongs to another user; set TMPDIR to a folder of yours")
    return root
