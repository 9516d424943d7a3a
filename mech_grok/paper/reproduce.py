"""`mech-grok reproduce`: from figures to results and pages, by training what is not there yet."""

import os
from dataclasses import replace
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.paper.gather import check_same_run, gather
from mech_grok.paper.missing import missing_runs
from mech_grok.paper.request import Request
from mech_grok.paper.results import check_is_cell, check_same_cell, load_results, load_trainings, result_path
from mech_grok.paper.study import PaperRun
from mech_grok.progress import say
from mech_grok.sweep.asked import Asked
from mech_grok.sweep.places.mirror import fetch


def reproduce(request: Request, results: Path, out: str, asked: Asked | None, command: str) -> bool:
    """Train and measure what is missing of some figures, add it to the results, and write all pages.

    What has finished is added also if another cell fails or a signal comes.

    Args:
        results: the folder of results and pages.
        out: where runs live, as `sweep_cells` takes it.
        asked: how the cells are worked on; None: nothing is trained.
        command: what the user typed, for the record.

    Returns:
        Whether everything that was to be trained is in the results now.

    Raises:
        UserError: results or runs are of another config, or a result is damaged.
        Interrupted: stopped by a signal; running cells have written a checkpoint.
    """
    check_folder(results)
    missing = gather_complete(request, results, out)
    if missing and asked:
        from mech_grok.sweep.study_sweep import sweep_cells  # imports torch, and results need none of it

        try:
            sweep_cells(request.study, out, replace(asked, only=_names(missing)), command)
        finally:
            missing = gather_complete(request, results, out)
            write_all_pages(results)
    else:
        write_all_pages(results)
    return not (missing and asked)


def check_folder(results: Path) -> None:
    """Refuse, before hours of training, a place that results cannot be written to.

    Raises:
        UserError: it is no folder, or may not be written to.
    """
    try:
        (results / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--results {results}: {error.strerror or error}; give a folder") from None
    if not os.access(results / "cells", os.W_OK):
        raise UserError(f"--results {results}: may not be written to; give another folder")


def gather_complete(request: Request, results: Path, out: str) -> tuple[PaperRun, ...]:
    """Add to the results what complete runs have of the figures; nothing is trained.

    Returns:
        The runs that are still missing, in part or wholly.

    Raises:
        UserError: results or runs are of another config, or a result is damaged.
    """
    runs, configs = fetch(f"{out.rstrip('/')}/{request.study.study}"), request.configs
    check_results(request, results)
    for run in request.runs:
        check_same_run(runs / run.name, configs[run.name])
    for run in request.runs:
        _gather(run, runs / run.name, configs[run.name], results)
    missing = missing_runs(request.runs, load_trainings(results))
    say(_state(request, results, missing))
    return missing


def plan_missing(request: Request, results: Path, out: str, asked: Asked) -> list[str]:
    """What `reproduce` would train and measure, as text. Runs and writes nothing.

    Raises:
        UserError: results or runs are of another config, or a result is damaged.
    """
    check_results(request, results)
    missing = missing_runs(request.runs, load_trainings(results))
    if not missing:
        return [_state(request, results, missing)]
    from mech_grok.sweep.study_sweep import plan_sweep

    return plan_sweep(request.study, out, replace(asked, only=_names(missing)))


def check_results(request: Request, results: Path) -> None:
    """Refuse results of other configs than those that are asked for, and of other cells than they say.

    Raises:
        UserError: there is one, or a file is damaged.
    """
    trainings, configs = load_trainings(results), request.configs
    for name, there in trainings.items():  # all of them: pages are written over all
        check_is_cell(result_path(results, name), name, there)
    for run in request.runs:
        there = trainings.get(run.cell.name, ())
        check_same_cell(result_path(results, run.cell.name), there, configs[run.name])


def write_all_pages(results: Path) -> None:
    """Write the pages of all figures over what is there."""
    from mech_grok.paper.pages import write_pages

    write_pages(load_results(results), results)


def _gather(run: PaperRun, path: Path, config: CellConfig, results: Path) -> None:
    """Add one run; one that is damaged keeps nobody else out."""
    try:
        new = gather(path, run.cell.name, config, results)
    except UserError as error:
        say(f"not added: {error}")
    else:
        if new:
            say(f"{result_path(results, run.cell.name)}: {', '.join(new)} of seeds {_spoken(run.seeds)}")


def _state(request: Request, results: Path, missing: tuple[PaperRun, ...]) -> str:
    total = len(request.runs)
    if missing:
        return f"{results}: {total - len(missing)} of {total} runs are there"
    return f"{results}: all {total} runs are there, and nothing is left to train"


def _spoken(seeds: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"


def _names(runs: tuple[PaperRun, ...]) -> frozenset[str]:
    return frozenset(run.name for run in runs)
