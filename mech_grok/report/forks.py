"""Forked runs, each beside the run that it began from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mech_grok.futures import Futures, compare_futures, steps_at_fork
from mech_grok.generalisation import GeneralisationSteps
from mech_grok.report.cells import Cell, Run, identify
from mech_grok.report.contrast import shade
from mech_grok.report.labels import cell_label
from mech_grok.report.style import placement_colour
from mech_grok.report.verdicts import verdict


@dataclass(frozen=True)
class Fork:
    """A forked cell whose parent can still be read.

    Attributes:
        cell, parent: how the two appear on the page; the parent's own place on it, if it has one.
        futures: when each generalised, seed by seed.
        at_fork: what the parent had reached when they parted.
        planned: the step at which the child's training ends; it may not be there yet.
    """

    cell: Cell
    parent: Cell
    futures: Futures
    at_fork: GeneralisationSteps
    planned: int

    @property
    def verdict(self) -> str:
        """What came of it, in words."""
        return verdict(self.futures, self.planned)


def compute_forks(runs: Sequence[Run]) -> tuple[Fork, ...]:
    """One Fork per forked run of which the parent is there, evaluated and of the same seeds."""
    forks = []
    for cell, run, parent_cell, parent in with_parents(runs):
        at = run.config.first_step
        futures = compare_futures(parent.metrics, run.metrics, at)
        at_fork = steps_at_fork(parent.metrics, at)
        forks.append(Fork(cell, parent_cell, futures, at_fork, run.config.training.steps))
    return tuple(forks)


def with_parents(runs: Sequence[Run]) -> list[tuple[Cell, Run, Cell, Run]]:
    """Per forked run: its cell, the run, its parent's cell and its parent.

    A parent that is not among the runs of the page is a guest, with an index after theirs. Runs are the same
    if their directories are: two studies may have cells of one name and config.
    """
    cells = identify(runs)
    forked = list(_forked(runs, cells))
    places: dict[Path, Cell] = {}
    for cell, run in zip(cells, runs, strict=True):
        places.setdefault(run.path.resolve(), cell)
    shown = list(cells)
    for _, _, parent in forked:
        if parent.path.resolve() not in places:
            shown.append(_guest(parent, shown))
            places[parent.path.resolve()] = shown[-1]
    return [(cell, run, places[parent.path.resolve()], parent) for cell, run, parent in forked]


def guests(runs: Sequence[Run]) -> tuple[Cell, ...]:
    """The parents that are drawn beside their forks without being among the runs of the page."""
    cells = {cell.index: cell for _, _, cell, _ in with_parents(runs) if cell.index >= len(runs)}
    return tuple(cells.values())


def _forked(runs: Sequence[Run], cells: Sequence[Cell]) -> Iterator[tuple[Cell, Run, Run]]:
    for cell, run in zip(cells, runs, strict=True):
        parent = run.parent if run.config.surgery else None
        if parent is not None and parent.metrics["evaluated"].any():
            seeds = set(parent.metrics["seed"].values.tolist())
            if seeds >= set(run.metrics["seed"].values.tolist()):
                yield cell, run, parent


def _guest(run: Run, shown: Sequence[Cell]) -> Cell:
    """The cell after those that are there, of a label and a colour that none of them has."""
    placement = run.config.model.placement
    colour, label = placement_colour(placement), cell_label(run.name, run.config)
    shades = (shade(colour, rank, of) for of in count(1) for rank in range(of))
    labels = (label if n == 1 else f"{label} ({n})" for n in count(1))
    return Cell(
        index=len(shown),
        name=run.name,
        label=next(text for text in labels if text not in {cell.label for cell in shown}),
        specifier=placement.specifier,
        colour=next(hue for hue in shades if hue not in {cell.colour for cell in shown}),
    )
