"""The table of a figure as its page shows it: by quantity, with a verdict in a word and counts of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mech_grok.paper.cells import PaperCell
from mech_grok.paper.pages.quantities import QUANTITIES
from mech_grok.paper.pages.shown import ShownCell, ShownGroup, by_name
from mech_grok.paper.pages.wording import full_label, lowered, sentence, typeset, value_text, with_labels
from mech_grok.paper.row import Row, Value

MOST_OPEN = 14
"""Rows; a longer block is folded at first."""

WORDS: dict[bool | None, str] = {True: "inside", False: "outside", None: "not judged"}


@dataclass(frozen=True)
class Counts:
    """How many rows are inside the limits, outside, and not judged."""

    inside: int
    outside: int
    not_judged: int

    @property
    def text(self) -> str:
        """`29 inside, 4 outside, 3 not judged`; what there is none of is left out."""
        numbers = ((self.inside, "inside"), (self.outside, "outside"), (self.not_judged, "not judged"))
        return ", ".join(f"{n} {word}" for n, word in numbers if n) or "none"


@dataclass(frozen=True)
class ShownRow:
    """A row in HTML; `colour` is that of its cell, empty for a row about several."""

    label: str
    colour: str
    step: str
    ours: str
    published: str
    limit: str
    verdict: str
    note: str


@dataclass(frozen=True)
class Block:
    """The rows of one quantity.

    Attributes:
        title, rule, sources: HTML: what it is, how it is measured, how the published values are known.
        is_open: whether it is unfolded at first.
    """

    title: str
    rule: str
    sources: tuple[str, ...]
    rows: tuple[ShownRow, ...]
    counts: Counts
    is_open: bool


def count(rows: Sequence[Row]) -> Counts:
    """Over all rows."""
    verdicts = [row.inside for row in rows]
    return Counts(verdicts.count(True), verdicts.count(False), verdicts.count(None))


def blocks(rows: Sequence[Row], groups: Sequence[ShownGroup], rules: Mapping[str, str]) -> list[Block]:
    """The rows of a figure by quantity, in their order.

    Args:
        rules: quantity -> how it is measured, plain text.
    """
    quantities = dict.fromkeys(row.quantity for row in rows)
    return [_block([row for row in rows if row.quantity == q], groups, rules) for q in quantities]


def csv_rows(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows in full, one mapping each, the verdict in a word; numbers that are not finite as text."""
    full = ({**asdict(row), "inside": WORDS[row.inside]} for row in rows)
    return [{key: _plain(value) for key, value in row.items()} for row in full]


def quantity_title(quantity: str) -> str:
    """HTML: `Generalisation step`, `Order of generalisation step`, `C<sub>Fourier</sub>`."""
    if quantity.startswith("order of "):
        return f"Order of {lowered(quantity_title(quantity.removeprefix('order of ')))}"
    if quantity in QUANTITIES:
        return QUANTITIES[quantity].title
    words = quantity.replace("_", " ").replace("sr train", "SR-train")
    return typeset(words[0].upper() + words[1:])


def _block(rows: Sequence[Row], groups: Sequence[ShownGroup], rules: Mapping[str, str]) -> Block:
    quantity = rows[0].quantity
    cells = by_name(groups)
    return Block(
        title=quantity_title(quantity),
        rule=typeset(sentence(rules.get(quantity.removeprefix("order of "), ""))),
        sources=tuple(dict.fromkeys(typeset(row.source) for row in rows if row.source)),
        rows=tuple(_shown(row, cells) for row in rows),
        counts=count(rows),
        is_open=len(rows) <= MOST_OPEN,
    )


def _shown(row: Row, cells: Mapping[str, ShownCell]) -> ShownRow:
    papers = [shown.cell for shown in cells.values()]
    found = cells.get(row.cell)
    return ShownRow(
        label=full_label(found.cell) if found else typeset(row.cell),
        colour=found.drawn.colour if found else "",
        step="" if row.step is None else value_text(row.step),
        ours=_value(row.ours, papers),
        published="never" if row.published is None else _value(row.published, papers),
        limit=typeset(row.limit),
        verdict=WORDS[row.inside],
        note=with_labels(row.note, papers),
    )


def _value(value: Value, cells: Sequence[PaperCell]) -> str:
    return with_labels(value, cells) if isinstance(value, str) else value_text(value)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
