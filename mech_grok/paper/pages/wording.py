"""Names, numbers and plain sentences as a reader is shown them, in HTML."""

import re
from collections.abc import Iterable
from html import escape

from mech_grok.paper.cells import PaperCell
from mech_grok.paper.published import Number
from mech_grok.paper.row import Value
from mech_grok.report.tables import number

_CODE = re.compile("`([^`]+)`")
_RAISED = re.compile(r"\^(\w+)")
_LOWERED = re.compile(r"\bC_Fourier\b")
_PART_OF_A_NAME = r"[\w+=.-]"


def typeset(text: str) -> str:
    """Plain text in HTML: `A^qk`, `alpha^2`, `C_Fourier` with raised and lowered letters, and `code`."""
    text = _CODE.sub(r"<code>\1</code>", escape(text, quote=False))
    return _LOWERED.sub("C<sub>Fourier</sub>", _RAISED.sub(r"<sup>\1</sup>", text))


def full_label(cell: PaperCell) -> str:
    """A cell wherever it stands: `A<sup>qk</sup>`, `No LN · lr 0.003 · weight decay 0.3333`."""
    return typeset(cell.label.replace(", ", " · "))


def with_labels(text: str, cells: Iterable[PaperCell]) -> str:
    """Plain text in HTML, the names of cells in it replaced by their labels."""
    labels = {cell.name: full_label(cell) for cell in cells}
    if not labels:
        return typeset(text)
    names = "|".join(re.escape(name) for name in sorted(labels, key=len, reverse=True))
    parts = re.split(f"(?<!{_PART_OF_A_NAME})({names})(?!{_PART_OF_A_NAME})", text)
    return "".join(labels[part] if part in labels else typeset(part) for part in parts)


def value_text(value: Value) -> str:
    """A value of a figure's table; a dash for None, four digits of a number that is not whole."""
    if value is None:
        return "&ndash;"
    if isinstance(value, str):
        return typeset(value)
    if isinstance(value, int) or (abs(value) >= 1000 and value < 1e7):
        return f"{value:,.0f}".replace("-", "&minus;")
    digits = f"{value:.4g}"
    return (
        number(value) if "e" in digits or digits in ("nan", "inf", "-inf") else digits.replace("-", "&minus;")
    )


def step_text(step: Number | None, last: int) -> str:
    """`1,710`, or `not by 10,000`."""
    return f"not by {last:,}" if step is None else f"{step:,.0f}"


def counted(n: int, what: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def listed(words: Iterable[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}" if first else last


def sentence(text: str) -> str:
    """With a capital and a full stop; nothing of nothing."""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def lowered(title: str) -> str:
    """A title within a sentence: `Test loss` is `test loss`, `C<sub>Fourier</sub>` stays."""
    return title if title[1:2] in ("_", "<") else title[0].lower() + title[1:]
