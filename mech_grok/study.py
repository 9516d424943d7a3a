"""A study from config to report: its cells, where they live on disk, and the main job over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mech_grok.config import CellConfig
from mech_grok.config_difference import check_same_config
from mech_grok.config_file import load_cell, read_study, to_yaml
from mech_grok.errors import UserError
from mech_grok.study_config import StudyConfig, Work

if TYPE_CHECKING:
    import mech_grok.run  # torch takes seconds to import, and a plan needs none of it


@dataclass(frozen=True)
class Target:
    """What a command works on: cells, and where they live.

    Attributes:
        folder: the study's directory, or the directory that the user named; the report goes here.
        cells: run directory -> config, in the order of the study; each after those that it builds on.
        study: the config that the cells come from; None if they were found on disk.
    """

    folder: Path
    cells: Mapping[Path, CellConfig]
    study: StudyConfig | None = None

    def work_of(self, path: Path) -> Work:
        """What the main job does with a cell; with one that was found on disk, everything."""
        return self.study.work_of(path.name) if self.study else Work()


def study_target(study: StudyConfig, root: Path) -> Target:
    """Every cell of a study, at `<root>/<study>/<cell>`."""
    folder = root / study.study
    return Target(folder, {folder / name: cell for name, cell in study.all_cells().items()}, study)


def find_target(path: Path, overrides: Sequence[str], root: Path) -> Target:
    """What a config file, a run directory or a folder of runs stands for.

    Raises:
        UserError: the path is none of these, or overrides were given for runs.
    """
    if path.is_file() or (path.suffix in (".yaml", ".yml") and not path.is_dir()):
        return study_target(read_study(path, overrides), root)
    runs = find_runs(path)
    if overrides:
        raise UserError(f"{overrides[0]}: overrides go with a config file, not with runs")
    from mech_grok.origins import parents_first

    return Target(path, parents_first({run: load_cell(run / "config.yaml") for run in runs}))


def find_runs(folder: Path) -> list[Path]:
    """The run directories at or below a folder, sorted.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such file or folder"
        raise UserError(f"{folder}: {problem}; give a run directory or a folder of runs")
    runs = sorted(p.parent for p in folder.rglob("config.yaml") if _is_run(p.parent))
    if not runs:
        raise UserError(f"{folder}: no runs in it (a run directory has a config.yaml and a metrics.zarr)")
    return runs


def _is_run(path: Path) -> bool:
    return (path / "metrics.zarr").exists()


def plan(target: Target) -> list[str]:
    """One line per cell: what training it means, and what is on disk already. Touches nothing."""
    return [f"{cell_line(path, cell)} [{_state(path, cell)}]" for path, cell in target.cells.items()]


def cell_line(path: Path, cell: CellConfig) -> str:
    """A cell, and what training it means."""
    seeds, pairs, checkpoints = len(cell.training.seeds), cell.task.task.n_train, len(cell.checkpoint_steps)
    steps = cell.training.steps - cell.first_step
    origin = f" from {cell.surgery.parent} at {cell.surgery.step:,}" if cell.surgery else ""
    return (
        f"{path}: {cell.model.placement.label}{origin}, p = {cell.task.p}, {_count(pairs, 'training pair')}, "
        f"{_count(seeds, 'seed')} x {_count(steps, 'step')}, {_count(checkpoints, 'checkpoint')}"
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _state(path: Path, cell: CellConfig) -> str:
    if not (path / "config.yaml").exists():
        return "new"
    if load_cell(path / "config.yaml") != cell:
        return "holds another config"
    from mech_grok.run import Run

    run = Run(path)
    return "trained" if run.is_trained else f"at step {max(run.steps_done, 0):,}"


def check_startable(target: Target, resume: bool) -> None:
    """Refuse, before anything is written, what one of the cells would refuse later.

    Raises:
        UserError: a directory holds another config, or an unfinished run and `resume` is false; or a run
            that a cell begins from or follows is not there.
    """
    from mech_grok.origins import check_origins
    from mech_grok.train_stage import check_cell

    for path, cell in target.cells.items():
        check_cell(path, cell, resume)
    check_origins(target.cells)


def run_target(target: Target, resume: bool, command: str) -> Path:
    """The main job: the study's stages (train, probe, ablate) for every cell, then one report over them.

    Returns:
        The report's path.
    """
    from mech_grok.checkpoint_stages import ablate_run, probe_run

    to_train = {path: c for path, c in target.cells.items() if "train" in target.work_of(path).stages}
    recorded_runs(replace(target, cells={p: c for p, c in target.cells.items() if p not in to_train}))
    if to_train:
        train_target(replace(target, cells=to_train), resume, command)
    for run in recorded_runs(target):
        work = target.work_of(run.path)
        if "probe" in work.stages:
            probe_run(run, work.probes)
        if "ablate" in work.stages:
            ablate_run(run)
    return report_target(target)


def train_target(target: Target, resume: bool, command: str) -> "list[mech_grok.run.Run]":
    """Train every cell, in order; returns the runs."""
    from mech_grok.origins import record_followed
    from mech_grok.train_stage import train_cell
    from mech_grok.training.checkpoints import write_whole

    check_startable(target, resume)
    if target.study:
        write_whole(target.folder / "study.yaml", to_yaml(target.study).encode())
    runs = []
    for path, cell in target.cells.items():
        record_followed(path, cell)
        runs.append(train_cell(path, cell, resume, command))
    return runs


def recorded_runs(target: Target) -> "list[mech_grok.run.Run]":
    """The runs of a target, trained at least in part.

    Raises:
        UserError: a cell has no run yet, or its directory holds another config.
    """
    from mech_grok.run import Run

    for path, cell in target.cells.items():
        if not (path / "config.yaml").exists():
            raise UserError(f"{path}: not trained yet; mech-grok train does that")
        check_same_config(path, cell)
    return [Run(path) for path in target.cells]


def evaluated_runs(target: Target) -> "list[mech_grok.run.Run]":
    """The runs of a target, each with an evaluated step at least.

    Raises:
        UserError: a run has none yet, or a cell has no run.
    """
    runs = recorded_runs(target)
    for run in runs:
        if not run.is_evaluated:
            raise UserError(f"{run.path}: no evaluated training step recorded yet; train it first")
    return runs


def report_target(target: Target) -> Path:
    """One report over the runs of a target, at `report/index.html` in its folder; returns its path.

    Raises:
        UserError: a run has no evaluated step yet.
    """
    from mech_grok.report import study_report

    runs = evaluated_runs(target)
    study = target.study or _study_in(target.folder)
    return study_report(
        runs,
        target.folder / "report",
        title=study.study if study else target.folder.resolve().name,
        description=study.description if study else "",
        command="\n".join(dict.fromkeys(run.environment.get("command", "") for run in runs)),
    )


def _study_in(folder: Path) -> StudyConfig | None:
    """The study that was trained into a folder, if the folder is a study's."""
    path = folder / "study.yaml"
    return read_study(path) if path.exists() else None
