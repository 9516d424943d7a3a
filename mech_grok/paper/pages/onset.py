"""When structure appears in the cells of a figure, against when they generalise."""

from collections.abc import Sequence
from dataclasses import replace

from mech_grok.paper.checks.marks import GENERALISED
from mech_grok.paper.measures import Measured
from mech_grok.paper.pages.seeds import step_by_seed
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.report import onset_section
from mech_grok.report.onset import STRUCTURES, Onset, paired
from mech_grok.report.section import Figure


def onsets(name: str, group: ShownGroup, measured: Measured) -> list[Onset]:
    """One for each cell and seed that has both curves.

    Args:
        name: of `STRUCTURES`, and of the curve that shows it.
    """
    found = []
    for cell in group.drawn:
        curve, accuracy = (measured.get((cell.name, of)) for of in (name, GENERALISED.curve))
        if curve is not None and accuracy is not None:
            found += paired(cell, name, curve, accuracy, step_by_seed(accuracy, GENERALISED))
    return found


def onset_figure(name: str, groups: Sequence[ShownGroup], measured: Measured) -> Figure | None:
    """When structure appears against when the network generalises; None if no seed has both curves."""
    found = [one for group in groups for one in onsets(name, group, measured)]
    if not found:
        return None
    figure = onset_section.onset_figure(STRUCTURES[name], found)
    return replace(figure, caption=f"{onset_section.tally(STRUCTURES[name], found)} {figure.caption}")
