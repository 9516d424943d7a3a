"""What a sweep asks of whatever runs its jobs: processes of this machine, or a Ray cluster."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from mech_grok.sweep.workers.job import Job, Outcome


@runtime_checkable
class Engine(Protocol):
    """Does several jobs at once, each by `mech_grok.sweep.workers.work`. Used as a context manager.

    Leaving the block leaves no worker behind, however it is left.
    """

    @property
    def free(self) -> int:
        """How many more jobs it takes now."""
        ...

    def start(self, job: Job) -> None:
        """Begin a job; comes back at once."""
        ...

    def finished(self) -> Iterable[tuple[Job, Outcome]]:
        """Jobs that have ended since the last call, and how; comes back at once."""
        ...

    def interrupt(self) -> None:
        """Ask every running job to write its checkpoint and stop; its outcome is then `stopped`."""
        ...

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: object) -> None: ...
