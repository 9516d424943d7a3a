"""The section on what comes first: structure against generalisation, a point for each cell and seed."""

from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from mech_grok.generalisation import Happened
from mech_grok.report import definitions
from mech_grok.report.cells import Run
from mech_grok.report.onset import STRUCTURES, Onset, Structure, compute_onsets
from mech_grok.report.section import Figure, Panel, Section
from mech_grok.report.style import GRID, MUTED, template
from mech_grok.report.tables import Table

_WHITE = "#ffffff"


def onsets(runs: Sequence[Run]) -> Section | None:
    """Both kinds of structure against generalisation, where there are at least two points to compare."""
    found = {name: compute_onsets(name, runs) for name in STRUCTURES}
    shown = {STRUCTURES[name]: points for name, points in found.items() if len(points) > 1}
    if not shown:
        return None
    answers = " ".join(tally(structure, points) for structure, points in shown.items())
    return Section(
        slug="onsets",
        title="What comes first",
        lead=f"Does structure appear before a network generalises, or after? {answers}",
        figures=tuple(onset_figure(structure, points) for structure, points in shown.items()),
        definitions=definitions.ONSETS,
    )


def tally(structure: Structure, found: Sequence[Onset]) -> str:
    """How many networks had which first, in a sentence (HTML)."""
    count = Counter(one.first for one in found)
    happened = structure.happened[0].upper() + structure.happened[1:]
    others = [f"{count['generalisation'] or 'none'} generalised first"]
    others += [f"{count['undecided']} undecided"] if count["undecided"] else []
    others += [f"{count['neither']} did neither"] if count["neither"] else []
    return (
        f"{happened} first in {count['structure'] or 'none'} of {len(found)} networks; {'; '.join(others)}."
    )


def onset_figure(structure: Structure, found: Sequence[Onset]) -> Figure:
    """When structure appears against when the network generalises; at least one onset."""
    lacking = sum(one.appeared.by is None or one.generalised.by is None for one in found)
    seeds = "seed" if lacking == 1 else "seeds"
    never = f" {lacking} {seeds} did not do both within the run." if lacking else ""
    return Figure(
        slug=f"onset-{structure.slug}",
        title=structure.title,
        caption=f"A point for each cell and seed. Across: {structure.definition} Up: the first evaluated "
        "step with a test accuracy of at least 0.995. A bar goes back to the last step at which it is "
        "known not to have happened. On the diagonal both happen at once; below it the network generalises "
        f"first. A bar that crosses the diagonal cannot decide the order: its point is hollow.{never}",
        panels=(Panel(draw_onsets(structure, found)),),
        table=_table(structure, found),
        width="single",
    )


def draw_onsets(structure: Structure, found: Sequence[Onset]) -> go.Figure:
    """A marker with bars for each seed that did both, and the diagonal; both axes end after the last one."""
    figure = go.Figure(layout={"template": template()})
    both = [one for one in found if one.appeared.by is not None and one.generalised.by is not None]
    last = max(when.by or when.after for one in both or found for when in (one.appeared, one.generalised))
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, y0=0, x1=1.03 * last, y1=1.03 * last, line=line, layer="below")
    figure.add_traces([_marker(structure, one) for one in both])
    if not figure.data:
        words = {"text": "no seed did both within the run", "font": {"size": 12, "color": MUTED}}
        figure.add_annotation(words, x=0.5, y=0.9, xref="paper", yref="paper", showarrow=False)
    reach = [-0.02 * last, 1.06 * last]
    figure.update_xaxes(title_text=f"{structure.happened} at step", tickformat=",", range=reach, nticks=6)
    figure.update_yaxes(title_text="generalised at step", tickformat=",", range=reach, nticks=6)
    figure.update_xaxes(tickangle=0, showgrid=True, gridcolor=GRID)
    return figure.update_layout(height=400)


def _marker(structure: Structure, onset: Onset) -> go.Scatter:
    cell, is_open = onset.cell, onset.first == "undecided"
    return go.Scatter(
        x=[onset.appeared.by],
        y=[onset.generalised.by],
        error_x=_bar(onset.appeared, cell.colour),
        error_y=_bar(onset.generalised, cell.colour),
        customdata=[""],  # the step of the CSV file's rows, which are of no step
        mode="markers",
        marker={
            "color": _WHITE if is_open else cell.colour,
            "size": 7,
            "line": {"width": 1.5 if is_open else 1, "color": cell.colour if is_open else _WHITE},
        },
        cliponaxis=False,
        hovertemplate=f"<b>{cell.label}</b>, seed {onset.seed}<br>{structure.happened} "
        f"{_words(onset.appeared)}<br>generalised {_words(onset.generalised)}"
        f"<br>{_FIRST[onset.first]}<extra></extra>",
        showlegend=False,
        name=cell.label,
        meta={
            "cell": cell.index,
            "split": "",
            "seed": onset.seed,
            "apart": True,
            "against": [f"{structure.slug}_onset_step", "generalisation_step"],
        },
    )


_FIRST = {
    "structure": "structure first",
    "generalisation": "generalisation first",
    "undecided": "order undecided",
}


def _bar(when: Happened, colour: str) -> dict[str, object]:
    """Back to where it had not happened."""
    back = 0 if when.by is None else when.by - when.after
    sides = {"type": "data", "symmetric": False, "array": [0], "arrayminus": [back]}
    return {**sides, "color": colour, "thickness": 1.2, "width": 0}


def _words(when: Happened) -> str:
    if when.by is None:
        return f"not by {when.after:,}"
    return f"between {when.after:,} and {when.by:,}" if when.by - when.after > 1 else f"at {when.by:,}"


def _table(structure: Structure, found: Sequence[Onset]) -> Table:
    rows = [
        (one.cell.label, str(one.seed), _words(one.appeared), _words(one.generalised), one.first)
        for one in found
    ]
    return Table(
        ("cell", "seed", structure.happened, "generalised", "which first"),
        tuple(rows),
        "Single seeds: between the last step at which it is known not to have happened and the first at "
        "which it had.",
    )
