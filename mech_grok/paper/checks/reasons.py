"""Why placements differ: the claims on shortcuts and attention entropy."""

import math

from mech_grok.paper.cells import TRAINING_ORDER, PaperCell, placed
from mech_grok.paper.checks.evidence import Need, Part, by_majority, finding, listed, number
from mech_grok.paper.checks.levels import Levels, is_below, is_whole, labelled, levels, of_whole, ratio
from mech_grok.paper.checks.marks import GENERALISED, late, typical
from mech_grok.paper.checks.onsets import happens, never_part, single_seeds, steps_text
from mech_grok.paper.claims import Finding
from mech_grok.paper.limits import ENTROPY_WITHIN
from mech_grok.paper.measures import Measured, peak
from mech_grok.paper.published import published

FALLEN = 0.75
"""A loss has fallen when it is at most this share of its highest value; published: No LN 0.54, M 0.58."""
FLAT = 0.8
"""A loss has stayed when it is at least this share of its highest value; published of A^v: 1.0."""
NEAR_UNIFORM = 0.85
"""Of ln 3 nats, the entropy of uniform attention; published of A^v: 0.88."""


def shortcut(measured: Measured) -> Finding:
    """Four things about the train loss without the MLP input's length, over training.

    Without a norm there it rises above what guessing costs, ln p; of No LN it falls in just those seeds that
    generalise; of M it falls; of A^v it stays. Late is the median over the last tenth of training.
    """
    without, m, off, values = placed(("No LN", "A*", "A^v", "A^qk")), *placed(("M", "No LN", "A^v"))
    highest = levels((*without, m), "sr_train", peak, measured)
    ends = levels((*without, m), "sr_train", of_whole(late), measured)
    kept = {cell: ratio(ends[cell], highest[cell]) for cell in ends}
    parts = [
        Part(by_majority([_exceeds_chance(cell, measured) for cell in without]), _highest_text(highest)),
        Part(by_majority(_falls_with_generalising(off, measured)), listed("Late", labelled(ends))),
        Part(by_majority([is_below(kept[m], FALLEN)]), ""),
        Part(by_majority([is_below(FLAT, kept[values])]), ""),
    ]
    notes = [_published_text()] if any(ends.values()) else []
    return finding(measured, [Need((*without, m), "sr_train"), Need((off,), "test_accuracy")], parts, notes)


def _falls_with_generalising(cell: PaperCell, measured: Measured) -> list[bool | None]:
    """Of each seed, whether its loss falls if and only if it generalises; [None] if that was not measured."""
    curve, accuracy = (measured.get((cell.name, name)) for name in ("sr_train", "test_accuracy"))
    if curve is None or accuracy is None:
        return [None]
    when = single_seeds(accuracy, GENERALISED)
    held: list[bool | None] = []
    for one in curve:
        alone, seed = one.expand_dims("seed"), int(one["seed"])
        fell = is_below(ratio(of_whole(late)(alone), of_whole(peak)(alone)), FALLEN)
        does = happens(when.get(seed))
        held.append(None if fell is None or does is None else fell is does)
    return held


def _exceeds_chance(cell: PaperCell, measured: Measured) -> bool | None:
    curve = measured.get((cell.name, "sr_train"))
    highest = None if curve is None else peak(curve)
    if curve is None or highest is None:
        return None
    return True if highest > math.log(published().p) else False if is_whole(curve) else None


def _highest_text(highest: Levels) -> str:
    chance = number(math.log(published().p))
    return listed(f"Highest mean SR-train (guessing costs {chance})", labelled(highest))


def _published_text() -> str:
    """At the end of training, of the placements of which it was published."""
    series = [entry for entry in published().of("fig3").series if entry.quantity == "sr_train"]
    last = {cell: curve.mean[-1] for entry in series for cell, curve in entry.cells.items()}
    return listed(
        "Published, at the end", [(cell.label, last.get(cell.name)) for cell in placed(TRAINING_ORDER)]
    )


def attention_entropy(measured: Measured) -> Finding:
    """With queries and keys normalised entropy is lower than without, all else equal.

    By more than a published entropy is known to, at the median over training. With a norm on the values' or
    the MLP's input alone it is near ln 3. And A^qk does not generalise.
    """
    compared = [placed(pair) for pair in (("A^qk", "No LN"), ("A*", "A^v"), ("M+A*", "M+A^v"))]
    cells = tuple(cell for pair in compared for cell in pair) + placed(("M",))
    medians = levels(cells, "attention_entropy", of_whole(typical), measured)
    lower = [is_below(medians[one], _less(medians[other], ENTROPY_WITHIN)) for one, other in compared]
    uniform = NEAR_UNIFORM * math.log(3)
    near_it = [is_below(uniform, medians[cell]) for cell in placed(("A^v", "M", "M+A^v"))]
    parts = [
        Part(by_majority(lower), listed("Median entropy over training (ln 3 = 1.10)", labelled(medians))),
        Part(by_majority(near_it), ""),
        never_part(compared[0][:1], measured),
    ]
    stuck = steps_text(compared[0][0], GENERALISED, measured)
    notes = [f"Generalised: {stuck}."] if stuck else []
    needs = [Need(cells, "attention_entropy"), Need(compared[0][:1], "test_accuracy")]
    return finding(measured, needs, parts, notes)


def _less(level: float | None, margin: float) -> float | None:
    return None if level is None else level - margin
