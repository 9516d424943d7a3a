"""One line of a figure's table."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

Value = float | int | str | None


@dataclass(frozen=True)
class Row:
    """A measured value beside a published one.

    Attributes:
        quantity: its name, as in `Published.rules`, or `order of` one, or `seeds and splits`.
        cell: which cell, by name without seeds; empty for what is about several.
        step: at which published step of a curve; None for what is about all of it.
        ours: what was measured; None if it was not, or it did not happen.
        published: the same; None if it did not happen.
        limit: what it takes to be inside, in words.
        inside: None if that cannot be judged; `note` says why.
        source: how the published value is known.
    """

    quantity: str
    cell: str
    step: int | None
    ours: Value
    published: Value
    limit: str
    inside: bool | None
    note: str = ""
    source: str = ""

    def noted(self, what: str) -> "Row":
        """The row with one more note."""
        return replace(self, note=joined([self.note, what]))


def joined(notes: Iterable[str]) -> str:
    """Notes in one line, the empty ones left out."""
    return "; ".join(filter(None, notes))
