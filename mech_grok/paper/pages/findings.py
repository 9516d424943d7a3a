"""What was found about each claim of a figure, as its page and the index show it."""

from dataclasses import dataclass

from mech_grok.paper.claims import Claim, Finding
from mech_grok.paper.figures import Figure
from mech_grok.paper.measures import Measured
from mech_grok.paper.pages.wording import counted, typeset


@dataclass(frozen=True)
class ShownFinding:
    """A claim and what was found; the texts are HTML.

    Attributes:
        verdict: in a word; `kind` the same as the name of a class.
        seeds: over how many, in words; empty if none.
    """

    claim: str
    verdict: str
    kind: str
    text: str
    seeds: str


def findings(figure: Figure, measured: Measured) -> list[ShownFinding]:
    """Every claim of a figure, checked."""
    return [_shown(claim, finding) for claim, finding in figure.findings(measured)]


def _shown(claim: Claim, finding: Finding) -> ShownFinding:
    return ShownFinding(
        claim=typeset(claim.text),
        verdict=finding.verdict,
        kind=finding.verdict.replace(" ", "-"),
        text=typeset(finding.text),
        seeds=f"over {counted(finding.seeds, 'seed')}" if finding.seeds else "",
    )
