"""What a sweep is asked for, besides the study: cheap to import, and to make."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Asked:
    """Where and how the cells are to be worked on.

    Attributes:
        engine: processes of this machine, or tasks of a Ray cluster.
        workers: at once; None: as many as the machine carries. Of this machine only.
        cpus: CPU threads of each; None: as many as there are for each.
        gpus: GPUs of each, which may be a fraction.
        shard: which share of the cells, of how many.
        only: names of the cells; None: all of the study's.
    """

    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    cpus: int | None = None
    gpus: float = 0.0
    shard: tuple[int, int] = (1, 1)
    only: Collection[str] | None = None
