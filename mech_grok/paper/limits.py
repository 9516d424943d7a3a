"""When a measured number counts as the published one: True inside the limits, False outside, None unknown.

The steps are those of a run with tests every ten steps; the published runs were tested at every step.
"""

import math

from mech_grok.paper.published import Number, PublishedSeries, SourceKind

STEP_WITHIN = 0.25
"""Of a published step from a data file."""
READ_OFF_WITHIN = 0.10
"""Of a value that was read off a figure."""
ENTROPY_WITHIN = 0.05
"""Nats, of a published attention entropy; of any published curve without a band."""

WITHIN: dict[SourceKind, float] = {"data file": STEP_WITHIN, "read off a figure": READ_OFF_WITHIN}


def same_step(
    ours: int | None, published: Number | None, within: float, last_step: int, horizon: int
) -> bool | None:
    """Whether something happened when it was published to, within a share of the published step.

    Something that did not happen (None) is outside once `last_step` is as late as the limits allow, and not
    known before. What was published not to happen by `horizon` must not.

    Args:
        last_step: until when ours was looked for.
        horizon: until when the published one was.
    """
    if published is None:
        if ours is not None and ours <= horizon:
            return False
        return True if last_step >= horizon else None
    if ours is None:
        return False if last_step >= published * (1 + within) else None
    return close(ours, published, within)


def close(ours: Number, published: Number, within: float) -> bool:
    """Whether two numbers differ by at most a share of the published one; nan is not close to anything."""
    return math.fabs(ours - published) <= within * math.fabs(published) * (1 + 1e-12)


def near(ours: Number, published: Number, distance: float = ENTROPY_WITHIN) -> bool:
    """Whether two numbers are at most a distance apart; nan is not near anything."""
    return math.fabs(ours - published) <= distance * (1 + 1e-12)


def in_band(ours: Number, low: Number, high: Number) -> bool:
    """Whether a mean is between the least and the largest published seed; nan is not."""
    return low <= ours <= high


def are_told_apart(series: PublishedSeries, one: str, other: str, at: int) -> bool:
    """Whether two published curves have an order at a step that our limits can tell.

    Curves with bands have one where the bands are disjoint, others where they are further apart than
    `ENTROPY_WITHIN`.

    Args:
        at: index into `series.steps`.
    """
    a, b = series.cells[one], series.cells[other]
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return not near(a.mean[at], b.mean[at])
    return a.high[at] < b.low[at] or b.high[at] < a.low[at]
