"""Where a study's runs are, on this machine or elsewhere, and how far they are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.config_difference import check_same_config
from mech_grok.config_file import load_cell, to_yaml
from mech_grok.errors import RunBusyError, UserError
from mech_grok.origins import check_origins
from mech_grok.run_lock import locked
from mech_grok.study import Target, report_target
from mech_grok.study_config import StudyConfig
from mech_grok.sweep.places.mirror import fetch, publish
from mech_grok.sweep.places.remote import is_remote
from mech_grok.sweep.state import CellState, cell_state
from mech_grok.training.checkpoints import write_whole


@dataclass(frozen=True)
class StudyPlace:
    """A study, and where its runs are.

    Attributes:
        study: its config.
        folder: its directory: an absolute path, or a URL that fsspec understands.
        here: its directory, or a copy of it, on this machine.
    """

    study: StudyConfig
    folder: str
    here: Path

    @classmethod
    def below(cls, study: StudyConfig, root: str) -> "StudyPlace":
        """At `<root>/<study>`; of a remote one, what is there is copied here.

        Raises:
            UserError: the root is no name that every file system understands, or cannot be reached.
        """
        if "::" in root:
            raise UserError(f"--out {root}: '::' has a meaning in URLs; give the folder another name")
        if is_remote(root):
            folder = f"{root.rstrip('/')}/{study.study}"
            return cls(study, folder, fetch(folder))
        here = Path(root) / study.study
        return cls(study, os.path.abspath(here), here)

    @property
    def cells(self) -> dict[Path, CellConfig]:
        """Run directory here -> config, in the study's order."""
        return {self.here / name: cell for name, cell in self.study.all_cells().items()}

    def place_of(self, run: Path) -> str:
        """Where a cell's run directory really is."""
        return f"{self.folder}/{run.name}"

    def states(self, cells: Mapping[Path, CellConfig]) -> dict[Path, CellState]:
        """How far cells are; one that is damaged counts as not begun, and its worker will say what it is.

        Raises:
            UserError: a directory holds another config, or a run that a cell builds on is nowhere.
        """
        for run, cell in cells.items():
            if _has_a_config(run):
                check_same_config(run, cell)
        check_origins(cells)
        return {run: self._state(run, cell) for run, cell in cells.items()}

    def _state(self, run: Path, cell: CellConfig) -> CellState:
        work = self.study.work_of(run.name)
        try:
            return cell_state(run, cell, work.stages, work.probes)
        except UserError:
            return CellState(-1, work.stages)

    def begin(self) -> None:
        """Write the study beside its cells."""
        write_whole(self.here / "study.yaml", to_yaml(self.study).encode())
        if is_remote(self.folder):
            publish(self.here / "study.yaml", f"{self.folder}/study.yaml")

    def report(self) -> str | None:
        """Write one report over all cells; where it is, or None if another process is writing it."""
        try:
            with locked(self.here / "report"):
                page = report_target(Target(self.here, self.cells, self.study))
        except RunBusyError:
            return None
        if not is_remote(self.folder):
            return str(page)
        publish(page.parent, f"{self.folder}/report")
        return f"{self.folder}/report/{page.name}"


def _has_a_config(run: Path) -> bool:
    """Whether a run directory says what it is of; one that is damaged does not."""
    try:
        load_cell(run / "config.yaml")
    except UserError:
        return False
    return True
