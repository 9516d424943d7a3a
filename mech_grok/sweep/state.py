"""How far a cell is, judged from its run directory alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.config_difference import check_same_config
from mech_grok.probe_names import PROBE_NAMES
from mech_grok.recorded import lacking_ablations, lacking_probes
from mech_grok.run import Run
from mech_grok.study_config import Stage


@dataclass(frozen=True)
class CellState:
    """How far a cell is.

    Attributes:
        steps_done: updates up to the last checkpoint; -1 before the first.
        missing: the stages that are not complete yet, in order.
    """

    steps_done: int
    missing: tuple[Stage, ...]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.missing


def cell_state(path: Path, config: CellConfig, stages: Sequence[Stage], probes: Sequence[str]) -> CellState:
    """What is there of a cell.

    Args:
        path: its run directory, which need not exist.
        stages: those that are to be done.
        probes: which are to be recorded; none named: all.

    Raises:
        UserError: the directory holds another config, or something in it is damaged.
    """
    if not (path / "config.yaml").exists():
        return CellState(-1, (*stages,))
    check_same_config(path, config)
    run = Run(path)
    missing: list[Stage] = [s for s in stages if not run.is_trained or _is_lacking(run, s, probes)]
    return CellState(run.steps_done, tuple(missing))


def _is_lacking(run: Run, stage: Stage, probes: Sequence[str]) -> bool:
    if stage == "train":
        return not run.is_trained
    final = run.config.training.steps
    if stage == "ablate":
        return bool(lacking_ablations(run, final))
    return any(lacking_probes(run, probes or PROBE_NAMES, final).values())
