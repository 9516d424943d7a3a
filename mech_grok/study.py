"""A study from config to report: its cells, where they live on disk, and the main job over all of them."""

from collections.abc import Sequence
from pathlib import Path

from mech_grok.config import CellConfig, StudyConfig
from mech_grok.config_file import load_cell, load_study, to_yaml
from mech_grok.errors import UserError

DEFAULT_ROOT = Path("runs")


def run_paths(study: StudyConfig, root: Path) -> dict[Path, CellConfig]:
    """Run directory -> config of every cell: `<root>/<study>/<cell>`."""
    return {root / study.study / name: cell for name, cell in study.cells().items()}


def plan(study: StudyConfig, root: Path) -> list[str]:
    """One line per cell: what training it would mean, and what is on disk already. Touches nothing."""
    return [_plan_line(path, cell) for path, cell in run_paths(study, root).items()]


def _plan_line(path: Path, cell: CellConfig) -> str:
    training = cell.training
    return (
        f"{path}: {cell.model.placement.label}, p = {cell.task.p}, "
        f"{cell.task.task.n_train:,} training pairs, "
        f"{len(training.seeds)} seeds x {training.steps:,} steps, "
        f"{len(training.checkpoint_steps)} checkpoints [{_state(path, cell)}]"
    )


def _state(path: Path, cell: CellConfig) -> str:
    if not (path / "config.yaml").exists():
        return "new"
    if load_cell(path / "config.yaml") != cell:
        return "holds another config"
    from mech_grok.run import Run

    run = Run(path)
    return "trained" if run.is_trained else f"at step {max(run.steps_done, 0):,}"


def check_startable(study: StudyConfig, root: Path, resume: bool) -> None:
    """Refuse a study, before anything is written, that one of its cells would refuse later.

    Raises:
        UserError: a directory holds another config, or an unfinished run and `resume` is false.
    """
    from mech_grok.run import Run
    from mech_grok.run_writer import check_same_config
    from mech_grok.train_stage import check_device

    for path, cell in run_paths(study, root).items():
        check_device(cell)
        if (path / "config.yaml").exists():
            check_same_config(path, cell)
            run = Run(path)
            if run.steps_done > 0 and not run.is_trained and not resume:
                raise UserError(f"{path}: unfinished at step {run.steps_done:,}; continue with --resume")


def run_study(study: StudyConfig, root: Path, resume: bool, command: str) -> Path:
    """The main job: train, probe and ablate every cell, then one report over them; returns its path."""
    from mech_grok.checkpoint_stages import ablate_run, probe_run

    runs = train_study(study, root, resume, command)
    for run in runs:
        probe_run(run)
        ablate_run(run)
    return write_report([run.path for run in runs])


def train_study(study: StudyConfig, root: Path, resume: bool, command: str) -> list:
    """Train every cell of a study, in order; returns the runs."""
    from mech_grok.train_stage import train_cell
    from mech_grok.training.checkpoints import write_whole

    check_startable(study, root, resume)
    write_whole(root / study.study / "study.yaml", to_yaml(study).encode())
    return [train_cell(path, cell, resume, command) for path, cell in run_paths(study, root).items()]


def write_report(paths: Sequence[Path]) -> Path:
    """One report over some runs, at `report/index.html` beside them; returns its path."""
    from mech_grok.report import study_report
    from mech_grok.run import Run

    folder = paths[0].resolve().parent
    study = load_study(folder / "study.yaml") if (folder / "study.yaml").exists() else None
    runs = [Run(p) for p in paths]
    commands = dict.fromkeys(run.environment["command"] for run in runs if run.environment)
    return study_report(
        runs,
        _shown(folder / "report"),
        title=study.study if study else folder.name,
        description=study.description if study else "",
        command="\n".join(commands),
    )


def _shown(path: Path) -> Path:
    """A path relative to here where it is below, as a user would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def find_runs(folder: Path) -> list[Path]:
    """The run directories at or below a folder, sorted.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such config file or run directory")
    runs = sorted(p.parent for p in folder.rglob("config.yaml"))
    if not runs:
        raise UserError(f"{folder}: no runs in it (a run directory has a config.yaml)")
    return runs


def is_config(target: Path) -> bool:
    """Whether a command's target names a config file rather than runs."""
    return target.suffix in (".yaml", ".yml")


def target_runs(target: Path, overrides: Sequence[str], root: Path) -> list[Path]:
    """The run directories that a config or a folder stands for.

    Raises:
        UserError: a cell of the config has no run yet, or there is no run in the folder.
    """
    if not is_config(target):
        if overrides:
            raise UserError(f"{overrides[0]}: overrides go with a config file, not with runs")
        return find_runs(target)
    paths = list(run_paths(load_study(target, overrides), root))
    for path in paths:
        if not (path / "config.yaml").exists():
            raise UserError(f"{path}: not trained yet; mech-grok train {target}")
    return paths
