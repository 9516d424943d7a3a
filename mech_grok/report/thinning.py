"""Which steps of a long curve are drawn: so few, and so chosen, that no spike and no milestone is lost."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

COLUMNS = 6
"""Steps in the table under a figure; they are always drawn, so that the table has the curves' own values."""

_WIDER = 1.15
"""By how much buckets grow until their extremes are few enough."""

Indices = NDArray[np.int64]


def evenly_spaced(n: int, most: int) -> Indices:
    """Evenly spaced indices below `n`, at most `most` and one, with the first and the last."""
    stride = max(1, -(-n // most))
    return np.unique(np.append(np.arange(0, n, stride), max(n - 1, 0)))[: max(n, 0)]


def in_table(steps: NDArray[np.integer]) -> Indices:
    """Indices of `COLUMNS` steps, or fewer: for each fifth of the last step, the last one up to there."""
    if not len(steps):
        return np.arange(0)
    fifths = int(steps[-1]) * np.arange(COLUMNS) // (COLUMNS - 1)
    return np.unique(np.maximum(np.searchsorted(steps, fifths, side="right") - 1, 0))


def thin(
    steps: NDArray[np.integer], values: NDArray[np.floating], most: int, keep: Collection[int] = ()
) -> Indices:
    """Indices of at most `most` steps that show the same shape as all of them.

    The first and the last, those in `keep` and those of the figure's table; and the lowest and the highest
    value of every row in each of as many buckets of neighbouring steps as `most` allows. A curve of no more
    than `most` steps is left whole.

    Args:
        steps: [step], increasing.
        values: [row, step], such as seeds and their mean; what is not finite is no extreme.
        keep: steps that must stay, if the curve has them. Where they alone are more than `most`, all stay.
    """
    n = len(steps)
    if n <= most:
        return np.arange(n)
    kept = np.flatnonzero(np.isin(steps, list(keep)))
    fixed = np.unique(np.concatenate([[0, n - 1], in_table(steps), kept]))
    width = 2 * n / most  # two points a bucket, if all rows had theirs in the same places
    while width < n:
        found = np.union1d(fixed, extremes(values, round(width)))
        if len(found) <= most:
            return found
        width *= _WIDER
    return fixed


def extremes(values: NDArray[np.floating], width: int) -> Indices:
    """Indices of the lowest and the highest finite value of every row, in buckets of `width` steps.

    The first of a bucket in which a row has no finite value, so that its gap is seen.

    Args:
        values: [row, step].
    """
    n = values.shape[1]
    starts = np.arange(0, n, width)
    padded = np.pad(values, ((0, 0), (0, len(starts) * width - n)), constant_values=np.nan)
    buckets = padded.reshape(len(values), len(starts), width)
    known = np.isfinite(buckets)
    low = np.where(known, buckets, np.inf).argmin(-1)
    high = np.where(known, buckets, -np.inf).argmax(-1)
    return np.unique(np.concatenate([starts + low, starts + high]))
