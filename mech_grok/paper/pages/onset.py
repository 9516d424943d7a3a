"""When structure appears in a network, against when it generalises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from mech_grok.paper.checks.marks import COMPRESSED, CONCENTRATED, CONCENTRATION, GENERALISED
from mech_grok.paper.measures import Measure, Measured
from mech_grok.paper.pages.seeds import step_by_seed
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.paper.pages.wording import counted, step_text
from mech_grok.report.cells import Cell
from mech_grok.report.section import Figure, Panel
from mech_grok.report.style import GRID, MUTED, template
from mech_grok.report.tables import Table


@dataclass(frozen=True)
class Structure:
    """What appears in a network, and in which words.

    Attributes:
        event: when it first has, on the curve of one seed.
        slug: in names of files and elements.
        title: HTML.
        happened: HTML, such as `effective rank halved`.
        definition: HTML, a sentence.
    """

    event: Measure
    slug: str
    title: str
    happened: str
    definition: str


STRUCTURES: Mapping[str, Structure] = {
    "c_fourier": Structure(
        CONCENTRATED,
        "fourier",
        "Onset of Fourier structure, against generalisation",
        f"C<sub>Fourier</sub> reached {CONCENTRATION:g}",
        f"Per seed, the first checkpoint of the trained model at which C<sub>Fourier</sub> is at least "
        f"{CONCENTRATION:g}.",
    ),
    "effective_rank": Structure(
        COMPRESSED,
        "rank",
        "Onset of compressibility, against generalisation",
        "effective rank halved",
        "Per seed, the first checkpoint of the trained model at which the effective rank is at most half of "
        "its highest until then.",
    ),
}
"""By the curve that shows it."""


@dataclass(frozen=True)
class Onset:
    """When structure appeared in one seed, and when it generalised; None where it did not."""

    cell: Cell
    seed: int
    appeared: int | None
    generalised: int | None


def onsets(structure: Structure, group: ShownGroup, measured: Measured) -> list[Onset]:
    """One for each cell and seed that has both curves."""
    found = []
    for cell in group.drawn:
        curve, accuracy = (measured.get((cell.name, m.curve)) for m in (structure.event, GENERALISED))
        if curve is not None and accuracy is not None:
            appeared, generalised = step_by_seed(curve, structure.event), step_by_seed(accuracy, GENERALISED)
            both = [seed for seed in appeared if seed in generalised]
            found += [Onset(cell, seed, appeared[seed], generalised[seed]) for seed in both]
    return found


def onset_figure(
    structure: Structure, groups: Sequence[ShownGroup], measured: Measured, horizon: int
) -> Figure | None:
    """When structure appears against when the network generalises; None if no seed has both curves.

    Args:
        horizon: the last step of both axes.
    """
    found = [onset for group in groups for onset in onsets(structure, group, measured)]
    if not found:
        return None
    lacking = sum(o.appeared is None or o.generalised is None for o in found)
    never = f" {counted(lacking, 'seed').capitalize()} did not do both within the run." if lacking else ""
    return Figure(
        slug=f"onset-{structure.slug}",
        title=structure.title,
        caption=f"A point for each cell and seed. Across: {structure.definition} Up: the first evaluated "
        "step with a test accuracy of at least 0.995. On the diagonal both happen at once; below it the "
        f"network generalises first.{never}",
        panels=(Panel(_draw_onsets(structure, found, horizon)),),
        table=_table_of_onsets(structure, found, horizon),
        width="single",
    )


def _draw_onsets(structure: Structure, found: Sequence[Onset], horizon: int) -> go.Figure:
    figure = go.Figure(layout={"template": template()})
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, y0=0, x1=horizon, y1=horizon, line=line, layer="below")
    for onset in found:
        if onset.appeared is not None and onset.generalised is not None:
            figure.add_trace(_onset_trace(structure, onset, onset.appeared, onset.generalised))
    reach = [-0.02 * horizon, 1.03 * horizon]
    figure.update_xaxes(title_text=f"{structure.happened} at step", tickformat=",", range=reach, nticks=6)
    figure.update_yaxes(title_text="generalised at step", tickformat=",", range=reach, nticks=6)
    figure.update_xaxes(tickangle=0, showgrid=True, gridcolor=GRID)
    return figure.update_layout(height=400)


def _onset_trace(structure: Structure, onset: Onset, appeared: int, generalised: int) -> go.Scatter:
    return go.Scatter(
        x=[appeared],
        y=[generalised],
        customdata=[""],  # the step of the CSV file's rows, which are of no step
        mode="markers",
        marker={
            "color": onset.cell.colour,
            "size": 10,
            "opacity": 0.8,
            "line": {"width": 1, "color": "#ffffff"},
        },
        cliponaxis=False,
        hovertemplate=f"<b>{onset.cell.label}</b>, seed {onset.seed}<br>{structure.happened} at %{{x:,}}"
        "<br>generalised at %{y:,}<extra></extra>",
        showlegend=False,
        name=onset.cell.label,
        meta={
            "cell": onset.cell.index,
            "split": "",
            "seed": onset.seed,
            "apart": True,
            "against": [f"{structure.slug}_onset_step", "generalisation_step"],
        },
    )


def _table_of_onsets(structure: Structure, found: Sequence[Onset], horizon: int) -> Table:
    rows = [
        (o.cell.label, str(o.seed), step_text(o.appeared, horizon), step_text(o.generalised, horizon))
        for o in found
    ]
    return Table(("cell", "seed", structure.happened, "generalised"), tuple(rows), "Steps of single seeds.")
