"""When something first happens to a cell's networks, and in which order it happens to several cells."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import xarray as xr

from mech_grok.paper.cells import PaperCell
from mech_grok.paper.checks.evidence import Part, by_majority
from mech_grok.paper.checks.marks import GENERALISED
from mech_grok.paper.measures import Measure, Measured
from mech_grok.paper.orders import FirstTime, first_time, is_known
from mech_grok.paper.published import published

Groups = Sequence[Sequence[PaperCell]]
"""Cells in the claimed order; those of one group are not told apart."""

Naming = Callable[[PaperCell], str]


def full_label(cell: PaperCell) -> str:
    """What a reader is shown."""
    return cell.label


def onset(cell: PaperCell, event: Measure, measured: Measured) -> FirstTime | None:
    """When it first happens to the mean over seeds; None if the curve that shows it was not measured."""
    curve = measured.get((cell.name, event.curve))
    return None if curve is None else first_time(curve, event.of)


def single_seeds(curve: xr.DataArray, event: Measure) -> dict[int, FirstTime]:
    """Of each seed alone, at all the steps at which it was measured."""
    return {int(one["seed"]): first_time(one.expand_dims("seed"), event.of) for one in curve}


def happens(when: FirstTime | None) -> bool | None:
    """Whether it happens within the published number of steps."""
    if when is None:
        return None
    horizon = published().steps
    return when.step <= horizon if when.step < math.inf or when.last >= horizon else None


def is_before(one: FirstTime | None, other: FirstTime | None) -> bool | None:
    """Whether one comes first; None if it may still turn out either way.

    Where neither happens within the published number of steps, one was not seen to come first: False.
    """
    if one is None or other is None:
        return None
    if is_known(one, other):
        return one.step < other.step
    return False if min(one.last, other.last) >= published().steps else None


def order_part(
    groups: Groups,
    measured: Measured,
    event: Measure = GENERALISED,
    label: Naming = full_label,
    what: str = "Generalised",
) -> Part:
    """Whether something happens to cells in a claimed order: by majority of the pairs of different groups.

    The order is that of the means over seeds. Where it happens to neither mean within the published number of
    steps, that of most seeds in which it happens to one of the two; this alone confirms a claim in part only.
    The text has the steps of single seeds, the pairs that are the other way round, and in how many seeds all
    pairs are in order.
    """
    pairs = [pair for one, other in combinations(groups, 2) for pair in _product(one, other)]
    when = {cell: onset(cell, event, measured) for group in groups for cell in group}
    of_means = {(a, b): is_before(when[a], when[b]) for a, b in pairs}
    of_seeds = {
        pair: _in_most_seeds(pair, event, measured)
        for pair, held in of_means.items()
        if held is False and not any(happens(when[cell]) for cell in pair)
    }
    holds = of_means | of_seeds
    swapped = [f"{label(a)} and {label(b)}" for (a, b), held in holds.items() if held is False]
    sentences = [
        steps_sentence(what, list(when), event, measured, label),
        _not_so(swapped),
        _seed_text(pairs, event, measured),
        "Where neither mean does, single seeds decide." if any(of_seeds.values()) else "",
    ]
    verdict = by_majority(holds.values())
    in_part = verdict == "confirmed" and any(of_seeds.values())
    return Part("confirmed in part" if in_part else verdict, " ".join(filter(None, sentences)))


def _in_most_seeds(pair: tuple[PaperCell, PaperCell], event: Measure, measured: Measured) -> bool:
    """Whether one comes first in most of the seeds in which it happens to one of two cells."""
    first, second = (single_seeds(measured[cell.name, event.curve], event) for cell in pair)
    either = [seed for seed in first.keys() & second.keys() if happens(first[seed]) or happens(second[seed])]
    return 2 * sum(is_before(first[seed], second[seed]) is True for seed in either) > len(either)


def never_part(cells: Sequence[PaperCell], measured: Measured, label: Naming = full_label) -> Part:
    """Whether cells do not generalise within the published number of steps, by majority."""
    found = {cell: happens(onset(cell, GENERALISED, measured)) for cell in cells}
    wrong = [label(cell) for cell, does in found.items() if does]
    text = f"Claimed not to generalise, but does: {', '.join(wrong)}." if wrong else ""
    return Part(by_majority([None if does is None else not does for does in found.values()]), text)


def with_generalising(
    cells: Sequence[PaperCell], event: Measure, measured: Measured
) -> dict[PaperCell, bool | None]:
    """Whether something happens, within the published steps, to just those cells that generalise."""
    found = {}
    for cell in cells:
        both = happens(onset(cell, GENERALISED, measured)), happens(onset(cell, event, measured))
        found[cell] = None if None in both else both[0] is both[1]
    return found


def in_their_order(cells: Sequence[PaperCell], event: Measure, measured: Measured) -> list[bool | None]:
    """Whether something happens first to that one of two cells that generalises first, pair by pair.

    Pairs of which neither generalises within the published steps have no order, and are left out.
    """
    holds: list[bool | None] = []
    for pair in combinations(cells, 2):
        one, other = (onset(cell, GENERALISED, measured) for cell in pair)
        a, b = (onset(cell, event, measured) for cell in pair)
        forward, backward = is_before(one, other), is_before(other, one)
        if forward is None or backward is None:
            holds.append(None)
        elif forward or backward:
            holds.append(is_before(a, b) if forward else is_before(b, a))
    return holds


def steps_sentence(
    what: str, cells: Sequence[PaperCell], event: Measure, measured: Measured, label: Naming = full_label
) -> str:
    """`Generalised: M at 670 (550 to 690), M+A* at 2,270.`; empty if no cell was measured."""
    steps = [text for cell in cells if (text := steps_text(cell, event, measured, label))]
    return f"{what}: {', '.join(steps)}." if steps else ""


def steps_text(cell: PaperCell, event: Measure, measured: Measured, label: Naming = full_label) -> str:
    """`M at 670 (550 to 690)`: of the mean, and the range over single seeds; empty if it was not measured."""
    when, curve = onset(cell, event, measured), measured.get((cell.name, event.curve))
    if when is None or curve is None:
        return ""
    return f"{label(cell)} {when.text}{_range_text(single_seeds(curve, event))}"


def published_text(
    figure: str, cells: Sequence[PaperCell], measured: Measured, label: Naming = full_label
) -> str:
    """A sentence with the published generalisation steps of those cells of a figure that were measured."""
    known = published_numbers(figure, "generalisation_step")
    ours = [c for c in cells if c.name in known and (c.name, GENERALISED.curve) in measured]
    told = [f"{label(cell)} {_step_text(known[cell.name])}" for cell in ours]
    return f"Published: {', '.join(told)}." if told else ""


def published_numbers(figure: str, quantity: str) -> dict[str, float | None]:
    """Cell's name -> what was published of a quantity; None: it did not happen."""
    entries = [entry for entry in published().of(figure).numbers if entry.quantity == quantity]
    return {cell: value for entry in entries for cell, value in entry.cells.items()}


def _step_text(step: float | None) -> str:
    return f"not by {published().steps:,}" if step is None else f"{step:,.0f}"


def _product(one: Sequence[PaperCell], other: Sequence[PaperCell]) -> list[tuple[PaperCell, PaperCell]]:
    return [(a, b) for a in one for b in other]


def _range_text(seeds: dict[int, FirstTime]) -> str:
    """Nothing for a single seed, which is its own mean."""
    steps = sorted(when.step for when in seeds.values())
    if len(steps) == 1:
        return ""
    if steps[0] == math.inf:
        return " (no seed)"
    if steps[-1] == math.inf:
        return f" ({sum(step < math.inf for step in steps)} of {len(steps)} seeds, first at {steps[0]:,})"
    return f" ({steps[0]:,} to {steps[-1]:,})" if steps[0] < steps[-1] else " (every seed)"


def _not_so(swapped: Sequence[str]) -> str:
    return f"Not in this order: {'; '.join(swapped)}." if swapped else ""


def _seed_text(pairs: Sequence[tuple[PaperCell, PaperCell]], event: Measure, measured: Measured) -> str:
    """In how many seeds all pairs are in order, of those in which that is known."""
    curves = {cell: measured.get((cell.name, event.curve)) for pair in pairs for cell in pair}
    single = {cell: {} if c is None else single_seeds(c, event) for cell, c in curves.items()}
    shared = set.intersection(*(set(seeds) for seeds in single.values()))
    if len(shared) < 2:
        return ""
    holds = [[is_before(single[a][seed], single[b][seed]) for a, b in pairs] for seed in shared]
    known = [all(seed) for seed in holds if None not in seed or False in seed]
    return f"Single seeds in this order: {sum(known)} of {len(known)}." if known else ""
