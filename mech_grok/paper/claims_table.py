"""Every claim of the paper with what we find, as a table in Markdown."""

from collections.abc import Sequence

from mech_grok.paper.claims import Claim, Finding
from mech_grok.paper.figures import FIGURES, find_figure
from mech_grok.paper.measures import Measured

PAGES = "reports/paper"
"""Where the pages are, seen from the repository's root."""

HEAD = "| figure | claim | what we find | seeds |\n|---|---|---|---|\n"


def claims_table(measured: Measured, figures: Sequence[str] = ()) -> str:
    """One line a claim, in the order of the figures: its figure's page, what it says, what we find, seeds.

    Args:
        measured: cells and curves may be missing; what they would say is not known then.
        figures: their names; none: all of them.
    """
    lines = [
        _line(figure.name, claim, found)
        for figure in map(find_figure, figures or [figure.name for figure in FIGURES])
        for claim, found in figure.findings(measured)
    ]
    return HEAD + "".join(lines)


def _line(figure: str, claim: Claim, found: Finding) -> str:
    link = f"[{figure}]({PAGES}/{figure}.html)"
    return f"| {link} | {plain(claim.text)} | **{found.verdict}**: {plain(found.text)} | {found.seeds} |\n"


def plain(text: str) -> str:
    """Text as one cell of a Markdown table, in which `M+A*` and `a | b` are shown as they are."""
    for sign in "\\*|<":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
