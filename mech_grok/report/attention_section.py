"""The section on attention: entropies through training, patterns and maps of the selected checkpoint."""

from collections.abc import Sequence

from mech_grok.report import checkpoints, curves, definitions, tables
from mech_grok.report.attention_maps import (
    CHOICES,
    compute_attention_maps,
    draw_attention_maps,
    table_of_attention_maps,
)
from mech_grok.report.byte_arrays import ByteArray, rounding_note
from mech_grok.report.cells import Run, with_probe
from mech_grok.report.checkpoints import StepArray
from mech_grok.report.section import BAND, Figure, Section, colour_key, lines_figure, panels_of
from mech_grok.report.style import SEQUENTIAL


def attention(runs: Sequence[Run]) -> Section | None:
    """How attention spreads through training, and where every head looks at the selected checkpoint."""
    patterns, maps = checkpoints.compute_patterns(runs), compute_attention_maps(runs)
    if not patterns and not maps:
        return None
    of_maps = definitions.recorded([d for _, d in with_probe(runs, "attention_map")], ["attention_map"])
    return Section(
        slug="attention",
        title="Attention",
        lead="Entropy says how widely a query spreads its attention over the three tokens: ln 3 ≈ 1.0986 "
        "nats is uniform, 0 is all on one. A head-averaged pattern can be uniform although every head is "
        "sharp, so both are shown.",
        figures=(
            *((*_entropies(runs), _patterns(patterns)) if patterns else ()),
            *((_maps(maps),) if maps else ()),
        ),
        definitions=(*definitions.ATTENTION, *(of_maps if maps else ())),
        arrays=(*patterns, *maps),
    )


def _entropies(runs: Sequence[Run]) -> tuple[Figure, Figure]:
    averaged = lines_figure(
        "attention-entropy",
        "Entropy of the head-averaged pattern",
        "As in the paper: heads averaged first, then the mean over all three query rows and all pairs. "
        f"{BAND}",
        curves.compute_head_averaged_entropy(runs),
        width="single",
    )
    heads = lines_figure(
        "head-entropy",
        "Entropy per head, at “=”",
        "The row that the answer is read from. Heads are interchangeable: head 0 of one seed need not do "
        f"what head 0 of another does. {BAND}",
        curves.compute_head_entropies(runs),
        width="small",
    )
    return averaged, heads


def _patterns(patterns: Sequence[StepArray]) -> Figure:
    return Figure(
        slug="patterns",
        title="Attention patterns at the selected checkpoint",
        caption="Rows are queries, columns keys; each row sums to 1. Mean over all pairs, and over seeds "
        "unless one is selected.",
        panels=panels_of(patterns, checkpoints.draw_patterns, shows="checkpoint"),
        table=tables.table_of_patterns(patterns),
        width="maps",
        colours=colour_key(SEQUENTIAL, "0", "0.5", "1"),
    )


def _maps(maps: Sequence[ByteArray]) -> Figure:
    return Figure(
        slug="attention-maps",
        title="Attention from “=”, by a and b",
        caption="How much of each head's attention from “=” goes to one token, for every pair (a, b). An "
        "even field is attention that does not read the numbers; regular stripes or a plaid are attention "
        "that varies with a few frequencies of a and b; irregular ones single out certain numbers, as a "
        f"network that memorises does. On its own scale, each map's colours go from its lowest to its "
        f"highest weight. {rounding_note(maps)}",
        panels=panels_of(maps, draw_attention_maps, shows="checkpoint"),
        table=table_of_attention_maps(maps),
        width="large",
        choices=CHOICES,
    )
