"""The table of runs on disk."""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from mech_grok.generalisation import TEST_ACCURACY, GeneralisationSteps, generalisation_steps
from mech_grok.run import Run
from mech_grok.study import find_runs

_HEADINGS = ("run", "placement", "seeds", "steps", "generalised at step")


def print_runs(folder: Path) -> None:
    """Print one line per run at or below a folder."""
    table = Table(*(Column(h, overflow="fold") for h in _HEADINGS), box=None, pad_edge=False)
    for path in find_runs(folder):
        table.add_row(*_row(Run(path)))
    # Through a pipe there is no width to fit into.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(f"generalised: first evaluated step with test accuracy >= {TEST_ACCURACY}, per seed")


def _row(run: Run) -> tuple[str, ...]:
    done, total = max(run.steps_done, 0), run.config.training.steps
    generalised = _generalised(generalisation_steps(run.metrics), run.diverged) if run.rows_done else "-"
    return (
        str(run.path),
        _placement(run),
        " ".join(map(str, run.seeds)),
        f"{done:,}/{total:,}",
        generalised,
    )


def _placement(run: Run) -> str:
    """The placement, of a run that began from another one `No LN -> M at 500`."""
    label, parent = run.config.model.placement.label, run.parent_config
    return f"{parent.model.placement.label} -> {label} at {run.config.first_step:,}" if parent else label


def _generalised(steps: GeneralisationSteps, diverged: Mapping[int, int]) -> str:
    return ", ".join(f"{seed}: {_when(step, diverged.get(seed))}" for seed, step in steps.accuracy.items())


def _when(generalised: int | None, diverged: int | None) -> str:
    reached = "" if generalised is None else f"{generalised:,}"
    lost = "" if diverged is None else f"diverged at {diverged:,}"
    return " then ".join(filter(None, [reached, lost])) or "not yet"
