"""When structure appears in the cells of a figure, against when they generalise."""

from collections.abc import Sequence

from mech_grok.paper.checks.marks import GENERALISED
from mech_grok.paper.measures import Measured
from mech_grok.paper.pages.seeds import step_by_seed
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.report import onset
from mech_grok.report.onset import STRUCTURES, Onset, paired
from mech_grok.report.section import Figure
from mech_grok.structure import by_seed


def onsets(name: str, group: ShownGroup, measured: Measured) -> list[Onset]:
    """One for each cell and seed that has both curves.

    Args:
        name: of `STRUCTURES`, and of the curve that shows it.
    """
    found = []
    for cell in group.drawn:
        curve, accuracy = (measured.get((cell.name, of)) for of in (name, GENERALISED.curve))
        if curve is not None and accuracy is not None:
            appeared = by_seed(curve, STRUCTURES[name].rule)
            found += paired(cell, appeared, step_by_seed(accuracy, GENERALISED))
    return found


def onset_figure(name: str, groups: Sequence[ShownGroup], measured: Measured, horizon: int) -> Figure | None:
    """When structure appears against when the network generalises; None if no seed has both curves.

    Args:
        horizon: the last step of both axes.
    """
    found = [one for group in groups for one in onsets(name, group, measured)]
    return onset.onset_figure(STRUCTURES[name], found, horizon) if found else None
