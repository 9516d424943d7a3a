"""When a network becomes compressible, against when it generalises."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from mech_grok.paper.checks.marks import COMPRESSED, GENERALISED
from mech_grok.paper.measures import Measured
from mech_grok.paper.pages.seeds import step_by_seed
from mech_grok.paper.pages.shown import ShownGroup
from mech_grok.paper.pages.wording import counted, step_text
from mech_grok.report.cells import Cell
from mech_grok.report.section import Figure, Panel
from mech_grok.report.style import GRID, MUTED, template
from mech_grok.report.tables import Table

ONSET = (
    "Halving of the effective rank",
    "Per seed, the first checkpoint after the untrained model at which the effective rank is at most half of "
    "its highest until then.",
)


@dataclass(frozen=True)
class Onset:
    """When one seed's effective rank had halved, and when it generalised; None where it did not."""

    cell: Cell
    seed: int
    halved: int | None
    generalised: int | None


def onsets(group: ShownGroup, measured: Measured) -> list[Onset]:
    """One for each cell and seed that has both curves."""
    found = []
    for cell in group.drawn:
        rank, accuracy = (measured.get((cell.name, m.curve)) for m in (COMPRESSED, GENERALISED))
        if rank is not None and accuracy is not None:
            halved, generalised = step_by_seed(rank, COMPRESSED), step_by_seed(accuracy, GENERALISED)
            both = [seed for seed in halved if seed in generalised]
            found += [Onset(cell, seed, halved[seed], generalised[seed]) for seed in both]
    return found


def onset_figure(groups: Sequence[ShownGroup], measured: Measured, horizon: int) -> Figure | None:
    """When the rank halves against when the network generalises; None if no seed has both curves.

    Args:
        horizon: the last step of both axes.
    """
    found = [onset for group in groups for onset in onsets(group, measured)]
    if not found:
        return None
    lacking = sum(o.halved is None or o.generalised is None for o in found)
    never = f" {counted(lacking, 'seed').capitalize()} did not do both within the run." if lacking else ""
    return Figure(
        slug="onset",
        title="Compressible when it generalises?",
        caption="A point for each cell and seed: across, the first checkpoint at which the effective rank is "
        "at most half of its highest until then; up, the first evaluated step with a test accuracy of at "
        f"least 0.995. On the diagonal both happen at once; above it the rank falls first.{never}",
        panels=(Panel(_draw_onsets(found, horizon)),),
        table=_table_of_onsets(found, horizon),
        width="single",
    )


def _draw_onsets(found: Sequence[Onset], horizon: int) -> go.Figure:
    figure = go.Figure(layout={"template": template()})
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, y0=0, x1=horizon, y1=horizon, line=line, layer="below")
    for onset in found:
        if onset.halved is not None and onset.generalised is not None:
            figure.add_trace(_onset_trace(onset, onset.halved, onset.generalised))
    reach = [-0.02 * horizon, 1.03 * horizon]
    figure.update_xaxes(title_text="effective rank halved at step", tickformat=",", range=reach, nticks=6)
    figure.update_yaxes(title_text="generalised at step", tickformat=",", range=reach, nticks=6)
    figure.update_xaxes(tickangle=0, showgrid=True, gridcolor=GRID)
    return figure.update_layout(height=400)


def _onset_trace(onset: Onset, halved: int, generalised: int) -> go.Scatter:
    return go.Scatter(
        x=[halved],
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
        hovertemplate=f"<b>{onset.cell.label}</b>, seed {onset.seed}<br>rank halved at %{{x:,}}<br>"
        "generalised at %{y:,}<extra></extra>",
        showlegend=False,
        name=onset.cell.label,
        meta={
            "cell": onset.cell.index,
            "split": "",
            "seed": onset.seed,
            "apart": True,
            "against": ["rank_halved_step", "generalisation_step"],
        },
    )


def _table_of_onsets(found: Sequence[Onset], horizon: int) -> Table:
    rows = [
        (o.cell.label, str(o.seed), step_text(o.halved, horizon), step_text(o.generalised, horizon))
        for o in found
    ]
    return Table(("cell", "seed", "rank halved at", "generalised at"), tuple(rows), "Single seeds.")
