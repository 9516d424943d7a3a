"""What is on disk: studies with all of their cells, and the runs that belong to none."""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from mech_grok.config import CellConfig
from mech_grok.config_file import read_study
from mech_grok.errors import UserError
from mech_grok.generalisation import TEST_ACCURACY, GeneralisationSteps, generalisation_steps
from mech_grok.run import Run
from mech_grok.study import find_runs
from mech_grok.sweep.display.condition import KINDS, Condition, condition
from mech_grok.sweep.display.rows import printable

_HEADINGS = ("run", "placement", "seeds", "steps", "generalised at step")
_CELL_HEADINGS = ("run", "placement", "seeds", "steps", "state", "generalised at step")


def print_runs(folder: Path) -> None:
    """Print the studies at or below a folder, each with the state of its cells, then all other runs.

    Of what is damaged, a line says so.

    Raises:
        UserError: there is no such folder, or nothing in it.
    """
    studies, runs = _found(folder)
    if not studies and not runs:
        find_runs(folder)  # says what is wrong
    listed: set[Path] = set()
    for path in studies:
        listed |= _print_study(path)
    others = [_row(run) for run in runs if run not in listed]
    if others:
        _print_table(_HEADINGS, others)
    print(f"generalised: first evaluated step with test accuracy >= {TEST_ACCURACY}, per seed")


def _found(folder: Path) -> tuple[list[Path], list[Path]]:
    """The study files and the run directories at or below a folder, sorted; arrays are not searched."""
    studies, runs = [], []
    for at, below, files in os.walk(folder):
        if "study.yaml" in files:
            studies.append(Path(at) / "study.yaml")
        if "config.yaml" in files and "metrics.zarr" in below:
            runs.append(Path(at))
        below[:] = [name for name in below if not name.endswith(".zarr")]
    return sorted(studies), sorted(runs)


def _print_study(path: Path) -> set[Path]:
    """Print a study, in its own order; returns the run directories of its cells, be they there or not."""
    try:
        study = read_study(path)
    except UserError as error:
        print(f"{printable(str(error))}\n")
        return set()
    cells = {path.parent / name: cell for name, cell in study.all_cells().items()}
    work = {run: study.work_of(run.name) for run in cells}
    found = {run: condition(run, c, work[run].stages, work[run].probes) for run, c in cells.items()}
    print(printable(f"study {study.study} in {path.parent}: {_counts(found)}"))
    _print_table(_CELL_HEADINGS, [_cell_row(run, cell, found[run]) for run, cell in cells.items()])
    print()
    return set(cells)


def _counts(conditions: Mapping[Path, Condition]) -> str:
    """`4 cells: 2 complete, 1 running, 1 not begun`."""
    kinds = Counter(found.kind for found in conditions.values())
    counts = ", ".join(f"{kinds[kind]:,} {kind}" for kind in KINDS if kinds[kind])
    return f"{len(conditions):,} cell{'' if len(conditions) == 1 else 's'}: {counts}"


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*(Column(h, overflow="fold") for h in headings), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(printable, row))
    # Through a pipe there is no width to fit into. Brackets in names are no markup.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def _cell_row(path: Path, cell: CellConfig, found: Condition) -> tuple[str, ...]:
    """A cell of a study, which may not be there yet."""
    if found.kind != "damaged" and (path / "config.yaml").exists():
        *known, generalised = _row(path)
        return (*known, str(found), generalised)
    seeds = " ".join(map(str, cell.training.seeds))
    return (str(path), cell.model.placement.label, seeds, f"-/{cell.training.steps:,}", str(found), "-")


def _row(path: Path) -> tuple[str, ...]:
    try:
        run = Run(path)
    except UserError as error:
        return (str(path), "", "", "", f"damaged: {error}")
    done, total = max(run.steps_done, 0), run.config.training.steps
    return (
        str(path),
        _placement(run),
        " ".join(map(str, run.seeds)),
        f"{done:,}/{total:,}",
        _generalised(run),
    )


def _placement(run: Run) -> str:
    """The placement, of a run that began from another one `No LN -> M at 500`."""
    label, parent = run.config.model.placement.label, run.parent_config
    return f"{parent.model.placement.label} -> {label} at {run.config.first_step:,}" if parent else label


def _generalised(run: Run) -> str:
    if not run.rows_done:
        return "-"
    try:
        steps, diverged = generalisation_steps(run.metrics), run.diverged
    except UserError as error:
        return f"damaged: {error}"
    return _per_seed(steps, diverged)


def _per_seed(steps: GeneralisationSteps, diverged: Mapping[int, int]) -> str:
    return ", ".join(f"{seed}: {_when(step, diverged.get(seed))}" for seed, step in steps.accuracy.items())


def _when(generalised: int | None, diverged: int | None) -> str:
    reached = "" if generalised is None else f"{generalised:,}"
    lost = "" if diverged is None else f"diverged at {diverged:,}"
    return " then ".join(filter(None, [reached, lost])) or "not yet"
