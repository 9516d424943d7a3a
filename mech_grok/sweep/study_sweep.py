"""`mech-grok sweep`: from a study to all of its cells done, and a report over them."""

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.progress import say
from mech_grok.study_config import StudyConfig
from mech_grok.sweep.asked import Asked
from mech_grok.sweep.cells import Cell
from mech_grok.sweep.costs.estimate import Cost, costs
from mech_grok.sweep.display.plan import plan_lines
from mech_grok.sweep.display.summary import shown, summary
from mech_grok.sweep.places.remote import is_remote
from mech_grok.sweep.places.study_place import StudyPlace
from mech_grok.sweep.shards import share
from mech_grok.sweep.state import CellState
from mech_grok.sweep.sweep import sweep
from mech_grok.sweep.workers.engine import Engine
from mech_grok.sweep.workers.job import Job
from mech_grok.sweep.workers.local_engine import LocalEngine
from mech_grok.sweep.workers.resources import Layout, check_shares, workers


def plan_sweep(study: StudyConfig, root: str, asked: Asked) -> list[str]:
    """What `sweep_study` would do, as text. Runs and writes nothing."""
    todo = _Todo.of(study, root, asked)
    lines = plan_lines(todo.cells, todo.states, todo.costs, todo.layout, study)
    here, there = str(todo.place.here), todo.place.folder
    return [line.replace(here, there) for line in lines] if is_remote(there) else lines


def sweep_study(study: StudyConfig, root: str, asked: Asked, command: str) -> bool:
    """Do what is missing of a study's cells (or of one share), then write the report if all are complete.

    Returns, and raises, what `sweep_cells` does.
    """
    complete = sweep_cells(study, root, asked, command)
    if complete:
        _report(StudyPlace.below(study, root))
    return complete


def sweep_cells(study: StudyConfig, root: str, asked: Asked, command: str) -> bool:
    """Do what is missing of a study's cells, and say how many are complete.

    Returns:
        Whether every cell that was asked for is complete.

    Raises:
        UserError: a run directory holds another config, or what was asked for is not there.
        Interrupted: stopped by a signal; running cells have written a checkpoint.
    """
    todo = _Todo.of(study, root, asked)
    todo.place.begin()
    cells = todo.as_jobs(command)
    if cells:
        sweep(cells, _engine(asked, todo.layout, cells), shown(todo.place.folder))
    say("\n".join(summary(cells, already=len(todo.cells) - len(cells))))
    return all(cell.state == "done" for cell in cells)


@dataclass(frozen=True)
class _Todo:
    """A share of a study: its cells, how far they are, what they cost, and who works on them."""

    place: StudyPlace
    cells: Mapping[Path, CellConfig]
    states: Mapping[Path, CellState]
    costs: Mapping[Path, Cost]
    layout: Layout

    @classmethod
    def of(cls, study: StudyConfig, root: str, asked: Asked) -> "_Todo":
        place = StudyPlace.below(study, root)
        cells = share(_chosen(place, asked.only), *asked.shard)
        states = place.states(cells)
        unfinished = [run for run, state in states.items() if not state.is_complete]
        layout = _layout(asked, [cells[run] for run in unfinished])
        costs_of = costs(cells, {run: study.work_of(run.name) for run in cells}, layout.threads)
        return cls(place, cells, states, costs_of, layout)

    def as_jobs(self, command: str) -> list[Cell]:
        """Every cell that is not complete, ready for a sweep."""
        token, study = secrets.token_hex(8), self.place.study
        cells = []
        for run, state in self.states.items():
            if state.is_complete:
                continue
            config, cost, work = self.cells[run], self.costs[run], study.work_of(run.name)
            job = Job(
                place=self.place.place_of(run),
                config=config,
                stages=work.stages,
                probes=work.probes,
                threads=config.training.threads or self.layout.threads,
                sweep=token,
                command=command,
            )
            seconds = {"train": cost.train or 0.0, "probe": cost.probe, "ablate": cost.ablate}
            trained = max(state.steps_done - config.first_step, 0) / (
                config.training.steps - config.first_step
            )
            cells.append(Cell(job, {stage: seconds[stage] for stage in state.missing}, {"train": trained}))
        return cells


def _chosen(place: StudyPlace, only: Collection[str] | None) -> dict[Path, CellConfig]:
    return {run: config for run, config in place.cells.items() if only is None or run.name in only}


def _layout(asked: Asked, unfinished: list[CellConfig]) -> Layout:
    """Workers, threads and GPUs of this machine; on a cluster Ray places the cells."""
    n_jobs = max(len(unfinished), 1)
    device = "cuda" if _on_gpus(unfinished) else "cpu"
    if asked.engine == "ray":
        if asked.workers is not None:
            raise UserError("--workers is of this machine; a Ray cluster takes as many cells as fit into it")
        if unfinished:
            check_shares(asked.cpus, asked.gpus, device)
        return Layout(workers=None, threads=asked.cpus or 1)
    if asked.workers is not None and asked.workers < 1:
        raise UserError(f"--workers {asked.workers}: allowed: 1 and more")
    return workers(min(asked.workers or n_jobs, n_jobs), asked.cpus, asked.gpus, device)


def _on_gpus(cells: Iterable[CellConfig]) -> bool:
    return any(cell.training.device == "cuda" for cell in cells)


def _engine(asked: Asked, layout: Layout, cells: Iterable[Cell]) -> Engine:
    if asked.engine == "ray":
        from mech_grok.sweep.workers.ray_engine import RayEngine  # Ray is an extra

        whole = 1.0 if _on_gpus(cell.job.config for cell in cells) else 0.0
        return RayEngine(layout.threads, asked.gpus or whole)
    assert layout.workers is not None
    return LocalEngine(layout.workers, layout.threads, layout.gpus)


def _report(place: StudyPlace) -> None:
    """Write the report if no cell of the whole study is left, whoever did the others."""
    states = place.states(place.cells)
    left = [run.name for run, state in states.items() if not state.is_complete]
    if left:
        say(f"no report yet: {len(left)} of {len(states)} cells are not complete, such as {left[0]}")
        return
    page = place.report()
    say(f"report: {page}" if page else "report: another process is writing it")
