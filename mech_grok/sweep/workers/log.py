"""What a worker prints goes into its run directory, and how far it is into its claim."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mech_grok.progress import Status
from mech_grok.study_config import Stage
from mech_grok.sweep.places.claim import Claim

_LOG_EVERY_S = 60.0


class WorkerLog:
    """A console whose progress others read in the claim; lines, and progress now and then, are printed.

    Attributes:
        stage: what is being done with the cell; the label of its progress in the claim.
    """

    def __init__(self, claim: Claim):
        self._claim = claim
        self._logged_at = time.monotonic()
        self.stage: Stage = "train"

    def say(self, text: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}", flush=True)

    def show(self, status: Status) -> None:
        self._claim.status = replace(status, label=self.stage)
        if status.done >= status.total or time.monotonic() - self._logged_at > _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            self.say(status.line)

    def finish(self) -> None:
        self._logged_at = time.monotonic()


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Append to a file what the process writes to standard output and error, its C++ libraries included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        kept = {stream: os.dup(stream) for stream in (1, 2)}
        _flush()
        try:
            for stream in kept:
                os.dup2(file.fileno(), stream)
            yield
        finally:
            _flush()
            for stream, before in kept.items():
                os.dup2(before, stream)
                os.close(before)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
