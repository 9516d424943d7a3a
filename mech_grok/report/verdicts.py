"""What came of a fork, in words."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mech_grok.futures import Comparison, Futures, Lapses, Retention
from mech_grok.generalisation import TEST_ACCURACY


def verdict(futures: Futures, planned: int) -> str:
    """What came of a fork by the rule on accuracy: `generalises 5,300 steps earlier (mean of 2 seeds)`.

    Seeds that fared differently are told apart and counted. Of a child whose training is unfinished it is
    said up to which step that holds, unless all of its seeds and their parents have generalised.

    Args:
        planned: the step at which the child's training ends.
    """
    fates = _fates(futures)
    last = max((c.child_last for c in futures.accuracy.values()), default=planned)
    so_far = f"so far, to step {last:,} of {planned:,}: " if last < planned and set(fates) != {"both"} else ""
    total = len(futures.accuracy)
    if len(fates) == 1:
        ((fate, those),) = fates.items()
        return so_far + _PHRASES[fate](those, f"mean of {total} seeds" if total > 1 else "")
    return so_far + "; ".join(f"{n} of {total} seeds: {text}" for n, text in _by_fate(fates))


def difference(c: Comparison) -> str:
    """By how much the child of one seed was earlier, or why that cannot be said."""
    if c.earlier is not None:
        return _earlier(c.earlier)
    if c.outcome == "neither":
        return f"neither by {_common_end([c]):,}"
    return "before the fork" if c.before_fork else c.outcome


def retained(r: Retention) -> str:
    """Whether the child of one seed stays generalised."""
    if r.child.first is None:
        return f"stays: {lapsed(r.child)}"
    end = f"{accuracy(r.last)} at the end" if math.isfinite(r.last) else "diverged at the end"
    return f"{lapsed(r.child)}, {end}"


def lapsed(lapses: Lapses) -> str:
    """How often, from when on and how far the test accuracy of one seed was below 0.995."""
    if math.isnan(lapses.share):
        return "not evaluated"
    lowest = f"lowest {accuracy(lapses.lowest)}"
    if lapses.first is None:
        return lowest
    return f"below 0.995 at {_percent(lapses.share)} of evaluations, first at {lapses.first:,}: {lowest}"


def accuracy(value: float) -> str:
    """Three decimals, but what is below 0.995 never reads 0.995."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value if value >= TEST_ACCURACY else min(value, 0.994):.3f}"


def _by_fate(fates: Mapping[str, Sequence[Any]]) -> list[tuple[int, str]]:
    """How many fared in each way, and how, in the order of `_PHRASES`."""
    return [(len(fates[fate]), phrase(fates[fate], "")) for fate, phrase in _PHRASES.items() if fate in fates]


def _fates(futures: Futures) -> dict[str, list[Any]]:
    """Fate -> what is known of each seed that had it."""
    fates: dict[str, list[Any]] = defaultdict(list)
    for seed, comparison in futures.accuracy.items():
        known = futures.retention.get(seed, comparison)
        fates[known.outcome].append(known)
    return fates


# Each of these says what holds of some seeds; `mean` says of how many a number is the mean.


def _stays(those: Sequence[Retention], mean: str) -> str:
    return f"stays generalised: lowest test accuracy {_lowest(those)}"


def _recovers(those: Sequence[Retention], mean: str) -> str:
    return f"falls to a test accuracy of {_lowest(those)} and recovers{_aside(_how_often(those), mean)}"


def _falls_short(those: Sequence[Retention], mean: str) -> str:
    back, end = accuracy(_mean([r.last for r in those])), max(r.child.until for r in those)
    fall = f"test accuracy falls below 0.995 at {_first(those)}, to {_lowest(those)} at the lowest"
    return f"{fall}, and is back at {back} but not at 0.995 by {end:,}{_aside(_how_often(those), mean)}"


def _forgets(those: Sequence[Retention], mean: str) -> str:
    last = [r.last for r in those if math.isfinite(r.last)]
    end = f"test accuracy {_mean(last):.2f} at the end" if last else "diverged at the end"
    return f"forgets: below 0.995 at {_first(those)}, {end}{_aside(_how_often(those), mean)}"


def _lowest(those: Sequence[Retention]) -> str:
    return accuracy(min(r.child.lowest for r in those))


def _first(those: Sequence[Retention]) -> str:
    return f"{min(r.child.first for r in those if r.child.first is not None):,}"


def _how_often(those: Sequence[Retention]) -> str:
    """The share of evaluations below, and that of the parents, who may be known for less long."""
    child = f"below 0.995 at {_percent(_mean([r.child.share for r in those]))} of evaluations"
    theirs = [r.parent for r in those]
    if any(math.isnan(parent.share) for parent in theirs):
        return f"{child}; its parent was not evaluated after the fork"
    until = min(parent.until for parent in theirs)
    known = f" up to {until:,}" if until < max(r.child.until for r in those) else ""
    return f"{child}; its parent at {_percent(_mean([parent.share for parent in theirs]))}{known}"


def _both(those: Sequence[Comparison], mean: str) -> str:
    return f"generalises {_earlier(_mean([c.earlier for c in those]))}{_aside(mean)}"


def _child_only(those: Sequence[Comparison], mean: str) -> str:
    at, end = _mean([c.child for c in those]), those[0].parent_last
    return f"generalises at {at:,.0f}{_aside(mean)}; its parent does not by {end:,}"


def _parent_only(those: Sequence[Comparison], mean: str) -> str:
    at, end = _mean([c.parent for c in those]), those[0].child_last
    return f"does not generalise by {end:,}; its parent does at {at:,.0f}{_aside(mean)}"


def _neither(those: Sequence[Comparison], mean: str) -> str:
    return f"does not generalise by {_common_end(those):,}, and nor does its parent"


def _undecided(those: Sequence[Comparison], mean: str) -> str:
    return "undecided: one of the two ends before the other generalises"


_PHRASES: Mapping[str, Callable[[Sequence[Any], str], str]] = {
    "stays": _stays,
    "recovers": _recovers,
    "falls short": _falls_short,
    "forgets": _forgets,
    "both": _both,
    "child only": _child_only,
    "parent only": _parent_only,
    "neither": _neither,
    "undecided": _undecided,
}


def _aside(*parts: str) -> str:
    """In brackets, without those that are empty."""
    said = "; ".join(part for part in parts if part)
    return f" ({said})" if said else ""


def _percent(share: float) -> str:
    """Whole per cent; 0% and 100% are none and all."""
    if 0 < share < 0.01:
        return "under 1%"
    return "over 99%" if 0.99 < share < 1 else f"{share:.0%}"


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
