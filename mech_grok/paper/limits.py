"""When a measured number counts as the published one: True inside the limits, False outside, None unknown.

The steps are those of a run with tests every ten steps; the published runs were tested at every step.
"""

import math

from mech_grok.generalisation import TEST_ACCURACY, TEST_LOSS
from mech_grok.paper.published import Number, PublishedSeries, SourceKind

STEP_WITHIN = 0.25
"""Of the published step at which something first happens, from a data file."""
VALUE_WITHIN = 0.10
"""Of any other published number, and of a step that was read off a figure. (On a loss drawn from 0 to 40 a
network seems to generalise up to a tenth earlier than by its accuracy, so this is a strict limit.)"""
ENTROPY_WITHIN = 0.05
"""Nats, of a published attention entropy; of any published curve without a band."""


def step_within(kind: SourceKind) -> float:
    """Within which share of a published step ours is the same."""
    return STEP_WITHIN if kind == "data file" else VALUE_WITHIN


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


def as_compared(quantity: str, value: float) -> float:
    """What a value of a curve counts as: every test loss that is low enough, and every test accuracy that is
    high enough, for a network to have generalised counts as one that is just so.

    From there on slingshots move the loss by orders of magnitude from one step to the next.
    """
    if quantity == "test_loss":
        return max(value, TEST_LOSS)
    return min(value, TEST_ACCURACY) if quantity == "test_accuracy" else value


def in_band(quantity: str, ours: Number, low: Number, high: Number) -> bool:
    """Whether a mean is between the least and the largest published seed; nan is not."""
    if math.isnan(ours):
        return False
    return as_compared(quantity, low) <= as_compared(quantity, ours) <= as_compared(quantity, high)


def band_text(quantity: str, low: float, high: float) -> str:
    """What it takes to be in a band, in words: `mean in [0.28, 0.52]`, `mean at most 0.01`."""
    least, most = as_compared(quantity, low), as_compared(quantity, high)
    if quantity == "test_loss" and least == TEST_LOSS:
        return f"mean at most {most:.4g}"
    if quantity == "test_accuracy" and most == TEST_ACCURACY:
        return f"mean at least {least:.4g}"
    return f"mean in [{least:.4g}, {most:.4g}]"


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
    a_low, a_high, b_low, b_high = (
        as_compared(series.quantity, ends[at]) for ends in (a.low, a.high, b.low, b.high)
    )
    return a_high < b_low or b_high < a_low
