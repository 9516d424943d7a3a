"""When structure appears in a network, against when it generalises: a point for each cell and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import xarray as xr

from mech_grok.generalisation import StepBySeed, generalisation_steps
from mech_grok.report import definitions
from mech_grok.report.cells import Cell, Run, identify
from mech_grok.report.section import Figure, Panel, Section
from mech_grok.report.style import GRID, MUTED, template
from mech_grok.report.tables import Table
from mech_grok.structure import CONCENTRATION, Rule, by_seed, concentrated_step, halved_step


@dataclass(frozen=True)
class Structure:
    """What appears in a network, and in which words.

    Attributes:
        rule: when it has, on the curve of one seed.
        slug: in names of files and elements.
        title: HTML.
        happened: HTML, such as `effective rank halved`.
        definition: HTML, a sentence.
    """

    rule: Rule
    slug: str
    title: str
    happened: str
    definition: str


STRUCTURES: Mapping[str, Structure] = {
    "c_fourier": Structure(
        concentrated_step,
        "fourier",
        "Onset of Fourier structure, against generalisation",
        f"C<sub>Fourier</sub> reached {CONCENTRATION:g}",
        f"Per seed, the first checkpoint of the trained model at which C<sub>Fourier</sub> is at least "
        f"{CONCENTRATION:g}.",
    ),
    "effective_rank": Structure(
        halved_step,
        "rank",
        "Onset of compressibility, against generalisation",
        "effective rank halved",
        "Per seed, the first checkpoint of the trained model at which the effective rank of the final "
        "features over the test pairs is at most half of its highest until then.",
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


def onsets(runs: Sequence[Run]) -> Section | None:
    """Both kinds of structure against generalisation, where there are at least two points to compare."""
    horizon = max(int(run.metrics["step"].values[-1]) for run in runs)
    found = {name: compute_onsets(name, runs) for name in STRUCTURES}
    shown = {STRUCTURES[name]: points for name, points in found.items() if len(points) > 1}
    if not shown:
        return None
    return Section(
        slug="onsets",
        title="What comes first",
        lead="Does structure appear before a network generalises, with it, or after? Steps of structure are "
        "checkpoints, so they may be late by up to one interval between checkpoints.",
        figures=tuple(onset_figure(structure, points, horizon) for structure, points in shown.items()),
        definitions=definitions.ONSETS,
    )


def compute_onsets(name: str, runs: Sequence[Run]) -> list[Onset]:
    """One for each cell and seed that has the curve of a structure.

    Forked runs are left out: what they began with may have had it already.

    Args:
        name: of `STRUCTURES`.
    """
    found = []
    for cell, run in zip(identify(runs), runs, strict=True):
        curve = _curve(name, run)
        if curve is not None and run.config.surgery is None:
            appeared = by_seed(curve, STRUCTURES[name].rule)
            found += paired(cell, appeared, generalisation_steps(run.metrics).accuracy)
    return found


def paired(cell: Cell, appeared: StepBySeed, generalised: StepBySeed) -> list[Onset]:
    """One for each seed that has both."""
    both = [seed for seed in appeared if seed in generalised]
    return [Onset(cell, seed, appeared[seed], generalised[seed]) for seed in both]


def _curve(name: str, run: Run) -> xr.DataArray | None:
    """The curve (seed, step) that shows a structure, if the run has it."""
    if name == "c_fourier":
        return run.probe("fourier")[name] if "fourier" in run.probe_names else None
    return (
        run.probe("compressibility")[name].sel(split="test") if "compressibility" in run.probe_names else None
    )


def onset_figure(structure: Structure, found: Sequence[Onset], horizon: int) -> Figure:
    """When structure appears against when the network generalises.

    Args:
        horizon: the last step of both axes.
    """
    lacking = sum(o.appeared is None or o.generalised is None for o in found)
    seeds = "seed" if lacking == 1 else "seeds"
    never = f" {lacking} {seeds} did not do both within the run." if lacking else ""
    return Figure(
        slug=f"onset-{structure.slug}",
        title=structure.title,
        caption=f"A point for each cell and seed. Across: {structure.definition} Up: the first evaluated "
        "step with a test accuracy of at least 0.995. On the diagonal both happen at once; below it the "
        f"network generalises first.{never}",
        panels=(Panel(draw_onsets(structure, found, horizon)),),
        table=_table(structure, found, horizon),
        width="single",
    )


def draw_onsets(structure: Structure, found: Sequence[Onset], horizon: int) -> go.Figure:
    """A marker for each seed that did both, and the diagonal."""
    figure = go.Figure(layout={"template": template()})
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, y0=0, x1=horizon, y1=horizon, line=line, layer="below")
    for onset in found:
        if onset.appeared is not None and onset.generalised is not None:
            figure.add_trace(_marker(structure, onset, onset.appeared, onset.generalised))
    if not figure.data:
        words = {"text": "no seed did both within the run", "font": {"size": 12, "color": MUTED}}
        figure.add_annotation(words, x=0.5, y=0.9, xref="paper", yref="paper", showarrow=False)
    reach = [-0.02 * horizon, 1.03 * horizon]
    figure.update_xaxes(title_text=f"{structure.happened} at step", tickformat=",", range=reach, nticks=6)
    figure.update_yaxes(title_text="generalised at step", tickformat=",", range=reach, nticks=6)
    figure.update_xaxes(tickangle=0, showgrid=True, gridcolor=GRID)
    return figure.update_layout(height=400)


def _marker(structure: Structure, onset: Onset, appeared: int, generalised: int) -> go.Scatter:
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


def _table(structure: Structure, found: Sequence[Onset], horizon: int) -> Table:
    def words(step: int | None) -> str:
        return f"not by {horizon:,}" if step is None else f"{step:,}"

    rows = [(o.cell.label, str(o.seed), words(o.appeared), words(o.generalised)) for o in found]
    return Table(("cell", "seed", structure.happened, "generalised"), tuple(rows), "Steps of single seeds.")
