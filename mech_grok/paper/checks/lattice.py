"""Which of the sixteen pathway subsets generalise, and whether QK-norm changes that."""

from mech_grok.paper.cells import LATTICE, PaperCell
from mech_grok.paper.checks.evidence import Need, seeds
from mech_grok.paper.checks.marks import GENERALISED
from mech_grok.paper.checks.onsets import happens, onset, steps_text
from mech_grok.paper.claims import Finding
from mech_grok.paper.measures import Measured

PLAIN = tuple(PaperCell(placement) for placement in LATTICE)
QK_NORMED = tuple(PaperCell(placement, (("model.qk_norm", True),)) for placement in LATTICE)


def subsets(measured: Measured) -> Finding:
    """Answered when it is known of all 32 cells whether they generalise."""
    found = {cell: happens(onset(cell, GENERALISED, measured)) for cell in (*PLAIN, *QK_NORMED)}
    needs = [Need((*PLAIN, *QK_NORMED), "test_accuracy")]
    pairs = list(zip(PLAIN, QK_NORMED, strict=True))
    changed = [p.label for p, q in pairs if None not in (found[p], found[q]) and found[p] != found[q]]
    compared = sum(None not in (found[p], found[q]) for p, q in pairs)
    text = [
        _count_text("Without QK-norm", PLAIN, found),
        _count_text("With it", QK_NORMED, found),
        _soonest_text(measured),
        f"QK-norm changes the answer for {', '.join(changed) or 'none'} of {compared}." if compared else "",
        _unknown_text(found),
    ]
    verdict = "not known" if None in found.values() else "answered"
    return Finding(verdict, " ".join(filter(None, text)), seeds(measured, needs))


def _count_text(which: str, cells: tuple[PaperCell, ...], found: dict[PaperCell, bool | None]) -> str:
    known = [cell for cell in cells if found[cell] is not None]
    never = [cell.placement.label for cell in known if not found[cell]]
    if not known:
        return ""
    rest = f", the mean of {', '.join(never)} does not" if never else ""
    return f"{which} {len(known) - len(never)} of {len(known)} generalise{rest}."


def _soonest_text(measured: Measured) -> str:
    times = {cell: onset(cell, GENERALISED, measured) for cell in (*PLAIN, *QK_NORMED)}
    when = {cell: time for cell, time in times.items() if time is not None and happens(time)}
    soonest = min(when, key=lambda cell: when[cell].step, default=None)
    return f"Soonest: {steps_text(soonest, GENERALISED, measured)}." if soonest else ""


def _unknown_text(found: dict[PaperCell, bool | None]) -> str:
    """How many: a list of their names would be longer than the answer."""
    unknown = sum(does is None for does in found.values())
    return f"{unknown} of {len(found)} cells not run, or not for long enough." if unknown else ""
