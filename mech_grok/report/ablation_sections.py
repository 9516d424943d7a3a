"""The sections on interventions without further training: the ablation grid, and what is read from scale."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from mech_grok.report import ablation_tables, definitions
from mech_grok.report.ablation_arrays import (
    SCORES,
    Kind,
    Quantity,
    applies_everywhere,
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
    figures = [_grid("change", quantities, changes), _history("change", quantities, changes)]
    together, interactions = compute_grid(runs, "interaction")
    if interactions:
        figures += [
            _grid("interaction", together, interactions),
            _history("interaction", together, interactions),
        ]
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


_HISTORY_WORDS = {
    "change": (
        "Change in {} through training",
        "One intervention on every set of pathways at every checkpoint.",
    ),
    "interaction": (
        "Change in {} beyond the parts, through training",
        "One intervention on every set of several pathways, minus what it does to each of them alone. "
        "Orange: worse together than the sum of each alone. Blue: less bad than the sum, as where any one of "
        "them breaks the network already.",
    ),
}


def _history(kind: Kind, quantities: Sequence[Quantity], arrays: Sequence[StepArray]) -> Figure:
    """Of the first quantity, through training."""
    quantity, buttons = quantities[0], _buttons(kind, arrays)
    interventions = arrays[0].coords[1]
    limits = [
        max(_limit(arrays, quantity=0, intervention=interventions.index(name)) for name in names)
        for _, names in buttons
    ]
    choices = tuple(
        change_choice(label, quantity, limit) for (label, _), limit in zip(buttons, limits, strict=True)
    )
    span, (title, caption) = time_span(arrays), _HISTORY_WORDS[kind]
    panels = [
        Panel(draw_history(a, [names[i] for _, names in buttons], choices, span), a.cell.label, a.cell)
        for i, a in enumerate(arrays)
    ]
    return Figure(
        slug=f"{kind}-history",
        title=title.format(quantity.name),
        caption=f"{caption} {_COLOURS} The scale is that of all cells, the time axis too.",
        panels=tuple(panels),
        table=ablation_tables.table_of_history(kind, quantity, arrays),
        width="large",
        choices=choices,
    )


def _buttons(kind: Kind, arrays: Sequence[StepArray]) -> list[tuple[str, tuple[str, ...]]]:
    """The label of each choice of a history, and the intervention that it shows of every cell.

    The first one shows what says most: of changes, each cell's usual intervention; of interactions, one that
    applies to all pathways, since pathways without a norm have no part in what only acts on norms.
    """
    each = [(str(name), (str(name),) * len(arrays)) for name in arrays[0].coords[1]]
    if kind == "change":
        return [(USUAL, tuple(usual_intervention(a) for a in arrays)), *each]
    return sorted(each, key=lambda button: not applies_everywhere(arrays, button[0]))


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
