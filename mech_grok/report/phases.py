"""The phases of grokking as the time plots shade them: from which step to which, cell by cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mech_grok.phases import Phases, phases
from mech_grok.report.cells import Cell, Run, identify
from mech_grok.report.definitions import NANDA, Terms
from mech_grok.report.forks import with_parents

NAMES = ("memorisation", "plateau", "cleanup")
"""The phases in their order; after the last one, the network has generalised."""


@dataclass(frozen=True)
class Spans:
    """The phases of one seed, or of the mean over seeds, as intervals of steps.

    Attributes:
        spans: [from, to] of each of `NAMES`, which follow one another; those that it reached.
        circuit: the step of the plateau from which the circuit forms; None if it is not known.
    """

    spans: tuple[tuple[int, int], ...]
    circuit: int | None


@dataclass(frozen=True)
class CellPhases:
    """The phases of one cell: of the mean over its seeds, and of each."""

    cell: Cell
    mean: Spans
    seeds: dict[int, Spans]


def compute_phases(runs: Sequence[Run]) -> tuple[CellPhases, ...]:
    """The phases of every cell on the page, the parents of forks included.

    A fork has none of its own: it may have memorised, and generalised, before it was forked.
    """
    cells = [(c, run) for c, run in zip(identify(runs), runs, strict=True) if not run.config.surgery]
    parents = {cell.index: (cell, run) for _, _, cell, run in with_parents(runs) if cell.index >= len(runs)}
    return tuple(_of_cell(cell, run) for cell, run in (*cells, *parents.values()))


def phases_of(run: Run) -> dict[int, Phases]:
    """The phases of every seed of a run, with the onset of the circuit if that was probed."""
    return phases(run.metrics, run.probe("progress") if "progress" in run.probe_names else None)


def _of_cell(cell: Cell, run: Run) -> CellPhases:
    known = phases_of(run)
    first, last = (int(run.metrics["step"].values[end]) for end in (0, -1))
    return CellPhases(
        cell=cell,
        mean=spans(_mean(list(known.values())), first, last),
        seeds={seed: spans(found, first, last) for seed, found in known.items()},
    )


def _mean(those: Sequence[Phases]) -> Phases:
    """Each boundary's mean over the seeds that got there, as a whole step; None unless more than half did."""

    def of(field: str) -> int | None:
        reached = [step for phases in those if (step := getattr(phases, field)) is not None]
        return round(sum(reached) / len(reached)) if 2 * len(reached) > len(those) else None

    return Phases(of("memorised"), of("circuit_formation"), of("cleanup"), of("generalised"))


def spans(known: Phases, first: int, last: int) -> Spans:
    """The intervals between the boundaries; a phase whose end was not reached goes on to the last step.

    What begins later than generalisation is no phase: a test loss that falls only then ends the plateau
    where the network generalised, and there is no cleanup.
    """
    end = last if known.generalised is None else known.generalised
    bounds = [first]
    for step in (known.memorised, known.cleanup, known.generalised):
        bounds.append(min(max(end if step is None else step, bounds[-1]), end))
        if step is None:
            break
    pairs = tuple(pairwise(bounds))
    plateau = pairs[1] if len(pairs) > 1 else None
    circuit = known.circuit_formation
    within = circuit is not None and plateau is not None and plateau[0] < circuit < plateau[1]
    return Spans(pairs, circuit if within else None)


def embedded_phases(cells: Sequence[CellPhases]) -> dict[int, dict[str, object]]:
    """What the page's script shades by, by the cell's index: of `mean`, and of each seed."""
    return {
        c.cell.index: {str(who): _plain(found) for who, found in {"mean": c.mean, **c.seeds}.items()}
        for c in cells
    }


def _plain(found: Spans) -> dict[str, object]:
    return {"spans": found.spans, "circuit": found.circuit}


PHASES: Terms = (
    (
        "Phases",
        "<b>Memorisation</b> lasts until the train accuracy is 0.99. On the <b>plateau</b> the test loss "
        "is still high, while the circuit that will generalise forms. <b>Cleanup</b> begins at the evaluated "
        "step from which on the test loss stays below half of its largest since memorisation, and ends at "
        "the generalisation step; a network that does not generalise has none. The names are those of "
        f"{NANDA}, who draw the lines by eye; the rules are this project's. The mean of a step is over the "
        "seeds that reached it, if more than half did; a phase that did not end goes on to the last step. A "
        "fork has no phases here: it may have memorised before it was forked.",
    ),
    (
        "Circuit formation",
        "The checkpoint between memorisation and generalisation with the least excluded loss on the training "
        "pairs, if that is higher at the checkpoints before and after: from there on the network does worse "
        "without its key frequencies, so it has begun to use them. Known where the progress measures were "
        "probed, to within a checkpoint, and marked where it is on the plateau.",
    ),
)
"""What the phases are: (term, HTML)."""
