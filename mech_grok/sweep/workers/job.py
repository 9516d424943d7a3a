"""What a worker is given, and what comes of it."""

from dataclasses import dataclass
from typing import Literal

from mech_grok.config import CellConfig
from mech_grok.study_config import Stage


@dataclass(frozen=True)
class Job:
    """One cell's work: all that a worker on any machine needs to know.

    Attributes:
        place: the run directory, as an absolute path or a URL that fsspec understands.
        config: the cell's config.
        stages: what is to be done with it, in order; what is done already is kept.
        probes: which are recorded; none named: all.
        threads: CPU threads that it may use.
        sweep: the token of the sweep that it belongs to.
        command: what the user typed, for the record.
        taken_from: the token of a claim on the cell that has been seen lifeless and may be taken over.
    """

    place: str
    config: CellConfig
    stages: tuple[Stage, ...]
    probes: tuple[str, ...]
    threads: int
    sweep: str
    command: str
    taken_from: str | None = None

    @property
    def name(self) -> str:
        """The cell's name, which is that of its directory."""
        return self.place.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        kind: `done`: all stages are complete. `failed`: an error that would come again. `died`: the worker or
            its machine is gone, so that the job is to be given to another. `busy`: another sweep or process
            is at the cell. `stopped`: a signal stopped it, after its checkpoint was written.
        message: one line on it.
    """

    kind: Literal["done", "failed", "died", "busy", "stopped"]
    message: str = ""
