"""The table of runs on disk."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mech_grok.generalisation import GeneralisationSteps, generalisation_steps
from mech_grok.run import Run
from mech_grok.study import find_runs

_HEADINGS = ("run", "placement", "seeds", "steps", "generalised at (accuracy >= 0.995)")


def print_runs(folder: Path) -> None:
    """Print one line per run at or below a folder."""
    table = Table(*_HEADINGS, box=None, header_style="bold", pad_edge=False)
    for path in find_runs(folder):
        table.add_row(*_row(Run(path)))
    console = Console(soft_wrap=False)
    # Through a pipe there is no width to fit into.
    console.print(table, width=None if console.is_terminal else 200)


def _row(run: Run) -> tuple[str, ...]:
    done, total = max(run.steps_done, 0), run.config.training.steps
    generalised = _generalised(generalisation_steps(run.metrics)) if done else "-"
    return (
        str(run.path),
        run.config.model.placement.label,
        " ".join(map(str, run.seeds)),
        f"{done:,}/{total:,}",
        generalised,
    )


def _generalised(steps: GeneralisationSteps) -> str:
    return ", ".join(f"{seed}: {step:,}" if step else f"{seed}: not yet" for seed, step in steps.accuracy.items())
