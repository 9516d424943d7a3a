"""What a gallery shows of a report, in two small files beside its page."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import unescape
from pathlib import Path

from mech_grok.errors import UserError
from mech_grok.report.headline import Headline, step_summary
from mech_grok.report.render import write_whole
from mech_grok.report.thumbnail import ThumbLine, draw_thumbnail

FILE, PICTURE = "summary.json", "thumbnail.svg"


@dataclass(frozen=True)
class Entry:
    """A line of a report's summary.

    Attributes:
        label: plain text, such as a placement's name.
        text: plain text, such as when it generalised.
        colour: hex; empty for none.
    """

    label: str
    text: str
    colour: str = ""


@dataclass(frozen=True)
class Summary:
    """A report in short, in plain text.

    Attributes:
        facts: such as `2 cells`, `2 seeds`, `1,500 steps`.
        shows: what its picture shows.
    """

    title: str
    description: str
    facts: tuple[str, ...]
    entries: tuple[Entry, ...]
    shows: str


def study_summary(title: str, description: str, headlines: Sequence[Headline]) -> Summary:
    """The summary of a study: when each of its cells generalised."""
    seeds = {seed for h in headlines for seed in h.steps.accuracy}
    steps = max((h.steps.last_step for h in headlines), default=0)
    facts = (_counted(len(headlines), "cell"), _counted(len(seeds), "seed"), _counted(steps, "step"))
    entries = tuple(Entry(plain(h.cell.label), _generalised(h), h.cell.colour) for h in headlines)
    return Summary(title, description, facts, entries, "test accuracy of each cell, mean over seeds")


def plain(label: str) -> str:
    """A label without its markup: `A<sup>qk</sup>` is `A^qk`."""
    return unescape(re.sub(r"<[^>]*>", "", label.replace("<sup>", "^")))


def _generalised(h: Headline) -> str:
    when = step_summary(h.steps.accuracy, h.steps.last_step, h.before_fork("accuracy"))
    missing = f"{when.missing} {when.censored}" if when.mean else when.censored
    reached = f"generalised at {when.mean}" if when.mean else ""
    return ", ".join(filter(None, [reached, missing.strip(), when.before]))


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def write_summary(directory: Path, summary: Summary, lines: Sequence[ThumbLine]) -> None:
    """Write `summary.json` and `thumbnail.svg` beside a page."""
    write_whole(directory / PICTURE, draw_thumbnail(lines))
    write_whole(directory / FILE, json.dumps(asdict(summary), indent=1, ensure_ascii=False) + "\n")


def read_summary(path: Path) -> Summary:
    """What `write_summary` wrote.

    Raises:
        UserError: the file is none of those.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        entries = tuple(Entry(**entry) for entry in found.pop("entries"))
        return Summary(**found | {"facts": tuple(found["facts"])}, entries=entries)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: not the summary of a report; write the report again") from None
