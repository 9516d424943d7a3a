"""What each cell of a study will cost: seconds of every stage on one worker, and bytes on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.study_config import Work
from mech_grok.sweep.costs.disk import training_bytes
from mech_grok.sweep.costs.speed import Shape, recorded_seconds, training_seconds


@dataclass(frozen=True)
class Cost:
    """What a whole cell costs, whatever is there of it already.

    Attributes:
        train: seconds of training on one worker; None if nobody can tell, as on a GPU on which no run of
            this shape has been timed yet. 0 if the stage is not asked for, and so for the other two.
        probe, ablate: seconds of these stages.
        disk: bytes of the run directory.
    """

    train: float | None
    probe: float
    ablate: float
    disk: int


def costs(cells: Mapping[Path, CellConfig], work: Mapping[Path, Work], threads: int) -> dict[Path, Cost]:
    """Estimates for a worker of a machine like this one that is not disturbed.

    Training takes as long as runs of the same shape took that are beside the study's folder or in it; where
    there are none, it is computed (see `mech_grok.sweep.costs.speed`).

    Args:
        cells: run directory -> config.
        work: what is done with each.
        threads: of a worker; a cell's own `training.threads` goes before it.
    """
    trained = any("train" in work[path].stages for path in cells)
    recorded = recorded_seconds({path.parent.parent for path in cells}, cells) if trained else {}
    return {path: _cost(config, work[path], threads, recorded) for path, config in cells.items()}


def _cost(config: CellConfig, work: Work, threads: int, recorded: Mapping[Shape, float]) -> Cost:
    train: float | None = 0.0
    threads = config.training.threads or threads
    probe, ablate, disk = 0.0, 0.0, 0
    if "train" in work.stages:
        train = training_seconds(config, threads, recorded)
        disk += training_bytes(config)
    if {"probe", "ablate"} & {*work.stages}:
        from mech_grok.sweep.costs import stage_costs  # imports TransformerLens

        if "probe" in work.stages:
            probe = stage_costs.probe_seconds(config, work.probes, threads)
            disk += stage_costs.probe_bytes(config, work.probes)
        if "ablate" in work.stages:
            ablate = stage_costs.ablation_seconds(config, threads)
            disk += stage_costs.ablation_bytes(config)
    return Cost(train, probe, ablate, disk)
