"""`mech-grok reproduce --list`: the figures, what they take, and how much of it is in the results."""

from collections.abc import Mapping, Sequence

from mech_grok.paper.figures import find_figure
from mech_grok.paper.missing import missing_runs
from mech_grok.paper.results import Training
from mech_grok.paper.study import paper_runs

SeedGroups = Sequence[Sequence[int]]

_HEADINGS = ("figure", "cells", "runs", "there", "title")


def figure_lines(
    names: Sequence[str], seeds: SeedGroups, trainings: Mapping[str, Sequence[Training]]
) -> list[str]:
    """One line for each figure, and one with headings above.

    Args:
        names: of figures.
        seeds: groups that train as one run each.
        trainings: cell's name -> its runs that are in the results.

    Raises:
        UserError: a figure is unknown.
    """
    rows = [_row(name, seeds, trainings) for name in names]
    width = max(len(name) for name, *_ in (_HEADINGS, *rows))
    return [
        f"{name:<{width}} {cells:>5} {runs:>5} {there:>5}  {title}"
        for name, cells, runs, there, title in (_HEADINGS, *rows)
    ]


def _row(
    name: str, seeds: SeedGroups, trainings: Mapping[str, Sequence[Training]]
) -> tuple[str, str, str, str, str]:
    figure, runs = find_figure(name), paper_runs([name], seeds)
    there = len(runs) - len(missing_runs(runs, trainings))
    return name, str(len(figure.cells)), str(len(runs)), str(there), figure.title
