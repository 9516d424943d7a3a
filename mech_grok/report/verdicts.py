"""What came of a fork, in words."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mech_grok.futures import Comparison, Futures, Retention


def verdict(futures: Futures) -> str:
    """What came of a fork by the rule on accuracy: `generalises 5,300 steps earlier (mean of 2 seeds)`.

    Seeds that fared differently are told apart and counted.
    """
    fates: dict[str, list[Any]] = defaultdict(list)
    for seed, comparison in futures.accuracy.items():
        if seed in futures.retention:
            fates[_fate(futures.retention[seed])].append(futures.retention[seed])
        else:
            fates[comparison.outcome].append(comparison)
    total = len(futures.accuracy)
    if len(fates) == 1:
        ((fate, those),) = fates.items()
        return _PHRASES[fate](those, f" (mean of {total} seeds)" if total > 1 else "")
    apart = [f"{n} of {total} seeds: {text}" for n, text in _by_fate(fates)]
    return "; ".join(apart)


def difference(c: Comparison) -> str:
    """By how much the child of one seed was earlier, or why that cannot be said."""
    if c.earlier is not None:
        return _earlier(c.earlier)
    if c.outcome == "neither":
        return f"neither by {_common_end([c]):,}"
    return "before the fork" if c.before_fork else c.outcome


def retained(r: Retention) -> str:
    """Whether the child of one seed stays generalised."""
    if r.fell is None:
        return f"stays: lowest {r.lowest:.3f}"
    last = f"{r.last:.3f} at the end" if math.isfinite(r.last) else "diverged at the end"
    return f"below 0.995 at {r.fell:,}: lowest {r.lowest:.3f}, {last}"


def _by_fate(fates: Mapping[str, Sequence[Any]]) -> list[tuple[int, str]]:
    """How many fared in each way, and how, in the order of `_PHRASES`."""
    return [(len(fates[fate]), phrase(fates[fate], "")) for fate, phrase in _PHRASES.items() if fate in fates]


def _fate(r: Retention) -> str:
    return "stays" if r.fell is None else "recovers" if r.recovered else "forgets"


# Each of these says what holds of some seeds; `mean` says of how many a number is the mean.


def _stays(those: Sequence[Retention], mean: str) -> str:
    return f"stays generalised: lowest test accuracy {min(r.lowest for r in those):.3f}"


def _recovers(those: Sequence[Retention], mean: str) -> str:
    return f"falls to a test accuracy of {min(r.lowest for r in those):.3f} and recovers"


def _forgets(those: Sequence[Retention], mean: str) -> str:
    fell, last = _mean([r.fell for r in those]), [r.last for r in those if math.isfinite(r.last)]
    end = f"test accuracy {_mean(last):.2f} at the end" if last else "diverged at the end"
    return f"forgets: below 0.995 at {fell:,.0f}, {end}{mean}"


def _both(those: Sequence[Comparison], mean: str) -> str:
    return f"generalises {_earlier(_mean([c.earlier for c in those]))}{mean}"


def _child_only(those: Sequence[Comparison], mean: str) -> str:
    at, end = _mean([c.child for c in those]), those[0].parent_last
    return f"generalises at {at:,.0f}{mean}; its parent does not by {end:,}"


def _parent_only(those: Sequence[Comparison], mean: str) -> str:
    at, end = _mean([c.parent for c in those]), those[0].child_last
    return f"does not generalise by {end:,}; its parent does at {at:,.0f}{mean}"


def _neither(those: Sequence[Comparison], mean: str) -> str:
    return f"does not generalise by {_common_end(those):,}, and nor does its parent"


def _undecided(those: Sequence[Comparison], mean: str) -> str:
    return "undecided: one of the two ends before the other generalises"


_PHRASES: Mapping[str, Callable[[Sequence[Any], str], str]] = {
    "stays": _stays,
    "recovers": _recovers,
    "forgets": _forgets,
    "both": _both,
    "child only": _child_only,
    "parent only": _parent_only,
    "neither": _neither,
    "undecided": _undecided,
}


def _earlier(steps: float | int) -> str:
    n = abs(round(steps))
    if not n:
        return "at the same step"
    return f"{n:,} {'step' if n == 1 else 'steps'} {'earlier' if steps > 0 else 'later'}"


def _common_end(those: Sequence[Comparison]) -> int:
    """Up to where both are known."""
    return min(min(c.parent_last, c.child_last) for c in those)


def _mean(values: Sequence[float | int | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known)
