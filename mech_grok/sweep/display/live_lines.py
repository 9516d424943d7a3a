"""The lines that stay in place on a terminal: a cell each, in columns, and one for the sweep as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from rich.text import Text

from mech_grok.progress import clock
from mech_grok.sweep.display.rows import Row, Total, complete, printable, time_left

_GAP = "  "
_COLUMNS = ("name", "what", "bar", "count", "rate", "left")
_LOST_FIRST = ("rate", "bar", "what", "count", "left")
"""The columns that a narrow terminal goes without, in this order, so that names can be told apart."""
_LEAST_NAME, _LEAST_NOTE = 12, 12
_BAR, _LONG_BAR, _WIDE = 8, 16, 110
"""Characters of a bar, and of one on a terminal that is so wide."""


def live_lines(rows: Sequence[Row], total: Total, width: int, height: int) -> list[Text]:
    """The cells that are worked on, those of this sweep first, then the sweep as a whole.

    Args:
        width, height: what there is room for, in characters; neither is exceeded.
    """
    active = [row for state in ("running", "busy") for row in rows if row.state == state]
    room = height - 1  # the last line is the total
    shown = active if len(active) <= room else active[: max(room - 1, 0)]
    bar = _LONG_BAR if width >= _WIDE else _BAR
    lines = _table([_fields(row) for row in shown], bar, width)
    if room > 0 and len(shown) < len(active):
        lines.append(Text(f"... and {len(active) - len(shown):,} more running", style="dim"))
    lines.append(_total(total, bar, width))
    for line in lines:
        line.truncate(width, overflow="crop")
    return lines


@dataclass(frozen=True)
class _Fields:
    """What one line says: the text of each column, what its bar shows, and a note if there is room."""

    columns: Mapping[str, str]
    share: float
    note: str


def _fields(row: Row) -> _Fields:
    status = row.status
    columns = {**dict.fromkeys(_COLUMNS, ""), "name": printable(row.name), "what": "starting"}
    if status:
        columns["what"] = printable(status.label)
        columns["count"] = f"{status.done:,}/{status.total:,}"
    if status and row.state == "running" and status.rate > 0:
        columns["rate"] = _per_second(status.rate)
        columns["left"] = time_left(status.seconds_left if status.done < status.total else None)
    if row.state == "busy":
        columns["what"] = "busy"
    share = status.done / max(status.total, 1) if status else 0.0
    return _Fields(columns, share, printable(status.note if status and status.note else row.note))


def _table(cells: Sequence[_Fields], bar: int, width: int) -> list[Text]:
    """A line for each cell, with as many columns as fit, each as wide as its widest entry."""
    if not cells:
        return []
    widest = {column: max(len(cell.columns[column]) for cell in cells) for column in _COLUMNS}
    widths = _fitted({column: n for column, n in {**widest, "bar": bar}.items() if n}, width)
    names = _shortened([cell.columns["name"] for cell in cells], widths["name"])
    return [_line(name, cell, widths, width) for name, cell in zip(names, cells, strict=True)]


def _fitted(widths: Mapping[str, int], width: int) -> dict[str, int]:
    """The columns that fit, and their widths: a long name is shortened before another column goes."""
    fitted, room = dict(widths), 0
    for lost in (None, *_LOST_FIRST):
        if lost:
            fitted.pop(lost, None)
        room = width - sum(n + len(_GAP) for column, n in fitted.items() if column != "name")
        if room >= min(fitted["name"], _LEAST_NAME):
            break
    return {**fitted, "name": max(min(fitted["name"], room), 1)}


def _line(name: str, cell: _Fields, widths: Mapping[str, int], width: int) -> Text:
    entries = {
        column: Text(text.ljust(widths[column]) if column in ("name", "what") else text.rjust(widths[column]))
        for column, text in {**cell.columns, "name": name}.items()
        if column in widths
    }
    if "bar" in entries:
        entries["bar"] = _bar(cell.share, widths["bar"])
    line = Text(_GAP).join(entries.values())
    room = width - line.cell_len - len(_GAP)
    if cell.note and room >= _LEAST_NOTE:
        note = Text(cell.note, style="dim")
        note.truncate(room, overflow="ellipsis")
        line = Text(_GAP).join([line, note])
    return line


def _total(total: Total, bar: int, width: int) -> Text:
    """The sweep as a whole, in as many words as fit."""
    fields = {
        "complete": Text(complete(total), style="bold"),
        "bar": _bar(total.work_done, bar),
        "share": Text(f"{total.work_done:.0%}"),
        "elapsed": Text(f"{clock(total.elapsed)} elapsed"),
        "left": Text(time_left(total.seconds_left)),
    }
    line = Text(_GAP).join(filter(None, fields.values()))
    for lost in ("bar", "elapsed", "share"):
        if line.cell_len > width:
            del fields[lost]
            line = Text(_GAP).join(filter(None, fields.values()))
    return line


def _bar(share: float, width: int) -> Text:
    full, half = divmod(int(2 * width * min(max(share, 0.0), 1.0)), 2)
    return Text.assemble(("━" * full + "╸" * half, "cyan"), ("─" * (width - full - half), "dim"))


def _shortened(names: Sequence[str], width: int) -> list[str]:
    """At most `width` characters of each: the middle gives way, or else what all of them have in common."""
    short = [_without_middle(name, width) for name in names]
    if len(set(short)) == len(set(names)):
        return short
    start = _shared(names)
    end = _shared([name[start:][::-1] for name in names])
    beside = max(width - 2 - (max(map(len, names)) - start - end), 0) // 2
    start, end = max(start - beside, 0), max(end - beside, 0)
    cores = [f"{'…' * (start > 0)}{name[start : len(name) - end]}{'…' * (end > 0)}" for name in names]
    return [_without_middle(core, width) for core in cores]


def _shared(names: Sequence[str]) -> int:
    """How many characters all of them begin with."""
    alike = (len(set(letters)) == 1 for letters in zip(*names, strict=False))
    return sum(1 for _ in takewhile(bool, alike))


def _without_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.1f}/s" if rate >= 1 else f"{rate:.2g}/s"
