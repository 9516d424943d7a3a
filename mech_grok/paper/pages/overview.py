"""All figures at a glance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from mech_grok.paper.claims import Verdict
from mech_grok.paper.pages.comparison import Counts
from mech_grok.paper.pages.view import FigureView


@dataclass(frozen=True)
class Overview:
    """Totals over all figures.

    Attributes:
        verdicts: verdict -> how many claims; those that no claim has are left out.
        claims: how many claims there are.
        counts: of the published values.
        networks: how many were trained, one for each seed of each cell; `wanted`: how many it takes.
    """

    verdicts: dict[Verdict, int]
    claims: int
    counts: Counts
    networks: int
    wanted: int


def overview(views: Sequence[FigureView]) -> Overview:
    """The totals; a cell of several figures counts once."""
    found = Counter(finding.verdict for view in views for finding in view.findings)
    counts = [view.counts for view in views]
    seeds = {cell: seeds for view in views for cell, seeds in view.coverage.seeds.items()}
    return Overview(
        verdicts={verdict: found[verdict] for verdict in get_args(Verdict) if found[verdict]},
        claims=found.total(),
        counts=Counts(
            sum(c.inside for c in counts), sum(c.outside for c in counts), sum(c.not_judged for c in counts)
        ),
        networks=sum(map(len, seeds.values())),
        wanted=sum(len(view.coverage.wanted) for view in views[:1]) * len(seeds),
    )
