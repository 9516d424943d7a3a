"""Fewer Fourier modes and fewer directions: what happens to features as networks generalise."""

import math
from statistics import mean

import xarray as xr

from mech_grok.paper.cells import FOUR, PaperCell, placed, weight_decays
from mech_grok.paper.checks.evidence import Need, Part, by_majority, finding, listed
from mech_grok.paper.checks.levels import labelled, levels, of_whole
from mech_grok.paper.checks.marks import (
    COMPRESSED,
    CONCENTRATED,
    GENERALISED,
    LEARNED,
    change_before,
    late,
)
from mech_grok.paper.checks.onsets import (
    happens,
    in_their_order,
    order_part,
    single_seeds,
    steps_sentence,
    with_generalising,
)
from mech_grok.paper.checks.speed import by_decay, published_order
from mech_grok.paper.claims import Finding
from mech_grok.paper.limits import STEP_WITHIN, close, near
from mech_grok.paper.measures import Measured, last_step, peak
from mech_grok.paper.orders import FirstTime
from mech_grok.paper.published import published
from mech_grok.structure import CONCENTRATION

MOVED = 0.05
"""By which share of its highest value a rank has to vary before a network generalises."""
TOGETHER = 400.0
"""Steps, two checkpoints: what is not further apart happens together."""


def concentration(measured: Measured) -> Finding:
    """C_Fourier passes 0.5 at just those placements that generalise, and first where they do so first."""
    cells = placed(FOUR)
    text = steps_sentence(f"C_Fourier reaches {CONCENTRATION}", cells, CONCENTRATED, measured)
    rises = Part(by_majority(with_generalising(cells, CONCENTRATED, measured).values()), text)
    highest = listed("Its highest mean", labelled(levels(cells, "c_fourier", peak, measured)))
    order = Part(by_majority(in_their_order(cells, CONCENTRATED, measured)), highest)
    return finding(measured, [Need(cells, "test_accuracy"), Need(cells, "c_fourier")], [rises, order])


def features_always_change(measured: Measured) -> Finding:
    """The effective rank varies by 5% before half of the time to generalisation, while networks memorise.

    Seed by seed. Those that generalise before there are three checkpoints in that time are left out.
    """
    cells = placed(FOUR)
    changes = {cell: _changes_while_memorising(cell, measured) for cell in cells}
    judged = [None if x is None else x > MOVED for of in changes.values() for x in of if x != math.inf]
    known = {cell: [x for x in of if x is not None and x < math.inf] for cell, of in changes.items()}
    told = [(cell.label, 100 * mean(of)) for cell, of in known.items() if of]
    text = listed(
        "Change of the effective rank in the first half before generalising, in % of its highest, mean of "
        "seeds",
        told,
    )
    early = [cell.label for cell, of in changes.items() if of and set(of) == {math.inf}]
    notes = [f"Too early to say: {', '.join(early)}."] if early else []
    needs = [Need(cells, "test_accuracy"), Need(cells, "effective_rank")]
    return finding(measured, needs, [Part(by_majority(judged), text)], notes)


def _changes_while_memorising(cell: PaperCell, measured: Measured) -> list[float | None]:
    """Of each seed, as a share; None if it is not known; infinity with too few checkpoints by then.

    [None] if the cell was not measured.
    """
    curve, accuracy = (measured.get((cell.name, name)) for name in ("effective_rank", "test_accuracy"))
    if curve is None or accuracy is None:
        return [None]
    when = single_seeds(accuracy, GENERALISED)
    return [_change_while_memorising(one.expand_dims("seed"), when.get(int(one["seed"]))) for one in curve]


def _change_while_memorising(curve: xr.DataArray, when: FirstTime | None) -> float | None:
    if when is None or happens(when) is None:
        return None
    until = min(when.step, published().steps) / 2
    if last_step(curve) < until:
        return None
    change = change_before(curve, until)
    return math.inf if change is None else change


def compressibility(measured: Measured) -> Finding:
    """The effective rank halves at just those placements that generalise, and when the test loss halves.

    That is within a quarter of its step or two checkpoints, in each seed that generalises: where seeds
    differ, their mean falls slowly, and when it has halved says little.
    """
    cells = placed(FOUR)
    halves = with_generalising(cells, COMPRESSED, measured)
    steps = steps_sentence("Effective rank halves", cells, COMPRESSED, measured)
    held = [seed for cell in cells for seed in _with_the_test_loss(cell, measured)]
    known = [x for x in held if x is not None]
    at_once = f"With the test loss, in {sum(known)} of {len(known)} seeds and placements." if known else ""
    parts = [Part(by_majority(halves.values()), steps), Part(by_majority(held), at_once)]
    losses = steps_sentence("Test loss halves", cells, LEARNED, measured)
    ends = listed("Late rank", labelled(levels(cells, "effective_rank", of_whole(late), measured)))
    needs = [Need(cells, name) for name in ("test_accuracy", "test_loss", "effective_rank")]
    return finding(measured, needs, parts, [losses, ends])


def _with_the_test_loss(cell: PaperCell, measured: Measured) -> list[bool | None]:
    """Of each seed that may generalise, whether rank and test loss halve together; [None] if none was run."""
    events = (GENERALISED, COMPRESSED, LEARNED)
    curves = [measured.get((cell.name, event.curve)) for event in events]
    seeds = [
        None if curve is None else single_seeds(curve, event)
        for curve, event in zip(curves, events, strict=True)
    ]
    generalised, rank, loss = seeds
    if generalised is None or rank is None or loss is None:
        return [None]
    able = [seed for seed, when in generalised.items() if happens(when) is not False]
    return [_together(rank.get(seed), loss.get(seed)) for seed in able]


def _together(rank: FirstTime | None, loss: FirstTime | None) -> bool | None:
    if rank is None or loss is None or happens(rank) is None or happens(loss) is None:
        return None
    if not (happens(rank) and happens(loss)):
        return False
    return close(rank.step, loss.step, STEP_WITHIN) or near(rank.step, loss.step, TOGETHER)


def decay_compresses(measured: Measured) -> Finding:
    """The effective rank halves first with the most weight decay, and just where networks generalise."""
    cells = weight_decays()
    order = order_part(published_order("fig4", cells), measured, COMPRESSED, by_decay, "Rank halves")
    stays = Part(by_majority(with_generalising(cells, COMPRESSED, measured).values()), "")
    ends = levels(cells, "effective_rank", of_whole(late), measured)
    notes = [listed("Late rank", labelled(ends, by_decay))]
    needs = [Need(cells, "test_accuracy"), Need(cells, "effective_rank")]
    return finding(measured, needs, [order, stays], notes)
