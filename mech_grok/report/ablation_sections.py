"""The sections on interventions without further training: the ablation grid, and what is read from scale."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from mech_grok.report import ablation_tables, definitions
from mech_grok.report.ablation_arrays import (
    SCORES,
    Kind,
    Quantity,
    compute_grid,
    compute_scales,
    usual_intervention,
)
from mech_grok.report.ablation_figures import change_choice, draw_grid, draw_history, draw_scale
from mech_grok.report.cells import Run
from mech_grok.report.checkpoints import StepArray, largest, time_span
from mech_grok.report.section import Figure, Panel, Section, panels_of

_COLOURS = (
    "Orange is more, blue is less, on a scale that is logarithmic but for small changes; grey is where an "
    "intervention does not apply."
)
_AT = "Selected checkpoint, mean over seeds unless one is selected."
USUAL = "bypass, else insert"  # the choice that shows each cell what says most about its own norms


def ablations(runs: Sequence[Run]) -> Section | None:
    """What every intervention on every set of pathways changes, at every checkpoint."""
    quantities, changes = compute_grid(runs, "change")
    if not changes:
        return None
    figures = [_grid("change", quantities, changes), _history(quantities, changes)]
    together, interactions = compute_grid(runs, "interaction")
    if interactions:
        figures.append(_grid("interaction", together, interactions))
    return Section(
        slug="ablations",
        title="Pathway ablations",
        lead="At every checkpoint, without further training: change what a set of pathways reads, and "
        "measure again. What breaks the network shows what it relies on, and what helps it shows what is "
        "in its way.",
        figures=tuple(figures),
        definitions=definitions.ablation_terms([run.ablations for run in runs], quantities),
        arrays=(*changes, *interactions),
    )


_GRID_WORDS = {
    "change": (
        "What each intervention changes",
        "Rows are interventions, columns the pathways that they act on together.",
    ),
    "interaction": (
        "What sets of pathways do beyond their parts",
        "The change with all pathways of a set at once, minus the sum of the changes with each alone: 0 if "
        "they add up.",
    ),
}


def _grid(kind: Kind, quantities: Sequence[Quantity], arrays: Sequence[StepArray]) -> Figure:
    choices = tuple(change_choice(q.name, q, _limit(arrays, quantity=i)) for i, q in enumerate(quantities))
    title, caption = _GRID_WORDS[kind]
    return Figure(
        slug=kind,
        title=title,
        caption=f"{caption} {_COLOURS} {_AT}{_measured(quantities)}",
        panels=panels_of(arrays, partial(draw_grid, choices=choices), shows="checkpoint"),
        table=ablation_tables.table_of_grid(quantities, arrays),
        width="large" if kind == "change" else "maps",
        choices=choices,
    )


def _measured(quantities: Sequence[Quantity]) -> str:
    """On which pairs each quantity is measured whose name does not say it."""
    unsaid = [q for q in quantities if not q.name.startswith(q.split)]
    by_split = {
        words: [q.name for q in unsaid if q.split == split]
        for split, words in (("test", "test pairs"), ("train", "training pairs"))
    }
    return "".join(f" Measured on {words}: {', '.join(names)}." for words, names in by_split.items() if names)


def _history(quantities: Sequence[Quantity], arrays: Sequence[StepArray]) -> Figure:
    """Of the first quantity; the first choice shows each cell its usual intervention."""
    quantity, interventions = quantities[0], [str(name) for name in arrays[0].coords[1]]
    limits = [_limit(arrays, quantity=0, intervention=i) for i in range(len(interventions))]
    usual = max(limits[interventions.index(usual_intervention(a))] for a in arrays)
    choices = tuple(
        change_choice(label, quantity, limit)
        for label, limit in zip([USUAL, *interventions], [usual, *limits], strict=True)
    )
    span = time_span(arrays)
    panels = [
        Panel(draw_history(a, [usual_intervention(a), *interventions], choices, span), a.cell.label, a.cell)
        for a in arrays
    ]
    return Figure(
        slug="change-history",
        title=f"Change in {quantity.name} through training",
        caption=f"One intervention on every set of pathways at every checkpoint. {_COLOURS} The scale is "
        "that of all cells, the time axis too.",
        panels=tuple(panels),
        table=ablation_tables.table_of_history(quantity, arrays),
        width="large",
        choices=choices,
    )


def _limit(arrays: Sequence[StepArray], quantity: int, intervention: int | slice = slice(None)) -> float:
    """The largest change of a quantity over all cells: both ends of its colours."""
    return largest([a.values[:, :, quantity, intervention] for a in arrays])


def scale_reliance(runs: Sequence[Run]) -> Section | None:
    """The loss when the input of a pathway, or the attention scores, are multiplied by a factor."""
    arrays = compute_scales(runs)
    if not arrays:
        return None
    finite = np.concatenate([a.mean[np.isfinite(a.mean)] for a in arrays])
    extent = float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
    sets = list(dict.fromkeys(str(name) for a in arrays for name in a.coords[0]))
    panels = [Panel(draw_scale(arrays, s, extent), s, shows="checkpoint") for s in sets]
    figure = Figure(
        slug="scale",
        title="Change in loss when an input is scaled",
        caption="What each pathway reads is multiplied by a factor before any norm; a norm undoes that. The "
        f"last panel multiplies the {SCORES}, which sharpens attention above 1 and flattens it below. The "
        f"vertical axis is logarithmic but for changes below 0.1 nats. {_AT}",
        panels=tuple(panels),
        table=ablation_tables.table_of_scales(arrays),
        width="small",
        key=("test", "train"),
    )
    return Section(
        slug="scale-reliance",
        title="Reliance on scale",
        lead="A network that a norm does not keep from it may store what it knows in the size of its "
        "activations. Where a curve is flat, size does not matter.",
        figures=(figure,),
        definitions=definitions.SCALES,
        arrays=arrays,
    )
