"""From what holds, what does not and what is not known to the verdict on a claim.

A verdict stands as more is measured over the same seeds: `not known` may become any other, and nothing else
changes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import xarray as xr

from mech_grok.paper.cells import PaperCell
from mech_grok.paper.claims import Finding, Verdict
from mech_grok.paper.measures import Measured, last_step
from mech_grok.paper.published import published

MOST_NAMES = 6
"""Of cells in a sentence that says what is missing."""

_SPOKEN = {"c_fourier": "C_Fourier", "sr_train": "train loss without the MLP input's length"}


@dataclass(frozen=True)
class Part:
    """One of the things that a claim says, and what was found about it, in sentences."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Need:
    """A curve of some cells, without which a claim cannot be judged."""

    cells: tuple[PaperCell, ...]
    curve: str


def by_majority(holds: Collection[bool | None]) -> Verdict:
    """Confirmed if something holds everywhere, in part if in more than half of the cases, else not.

    Args:
        holds: case by case; None where it is not known. Without any case nothing is known.
    """
    yes, unknown = sum(x is True for x in holds), sum(x is None for x in holds)
    if not holds:
        return "not known"
    if yes == len(holds):
        return "confirmed"
    if 2 * (yes + unknown) <= len(holds):
        return "not confirmed"
    return "confirmed in part" if yes + unknown < len(holds) and 2 * yes > len(holds) else "not known"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim that says several things: in part as soon as something holds and something does not."""
    found = set(verdicts)
    if "confirmed in part" in found or {"confirmed", "not confirmed"} <= found:
        return "confirmed in part"
    return found.pop() if len(found) == 1 else "not known"


def finding(
    measured: Measured, needs: Sequence[Need], parts: Sequence[Part], notes: Sequence[str] = ()
) -> Finding:
    """What was found of all parts, what was not measured of what they need, and the least number of seeds."""
    verdict = together([part.verdict for part in parts])
    text = [*(part.text for part in parts), *notes, *missing(measured, needs)]
    if verdict == "not known":
        text += too_short(measured, needs)
    return Finding(verdict, " ".join(filter(None, text)), seeds(measured, needs))


def seeds(measured: Measured, needs: Sequence[Need]) -> int:
    """The least number of seeds of any curve that is needed; 0 if one was not measured."""
    curves = [measured.get((cell.name, need.curve)) for need in needs for cell in need.cells]
    return min(0 if curve is None else curve.sizes["seed"] for curve in curves)


def missing(measured: Measured, needs: Sequence[Need]) -> list[str]:
    """Sentences on what was not run, and on what was not measured of what was."""
    run = {cell for cell, _ in measured}
    cells = dict.fromkeys(cell for need in needs for cell in need.cells)
    if not run & {cell.name for cell in cells}:
        return [f"None of its {len(cells)} cells was run."]
    told = [("Not run", [cell for cell in cells if cell.name not in run])]
    for need in needs:
        lacking = [c for c in need.cells if c.name in run and (c.name, need.curve) not in measured]
        told.append((f"{spoken(need.curve)} not measured", lacking))
    sentences = (f"{what}: {_names(which, len(cells))}." for what, which in told if which)
    return [sentence[0].upper() + sentence[1:] for sentence in dict.fromkeys(sentences)]


def _names(cells: Sequence[PaperCell], count: int) -> str:
    """Their names, or how many they are of how many."""
    return (
        "; ".join(cell.label for cell in cells)
        if len(cells) <= MOST_NAMES
        else f"{len(cells)} of {count} cells"
    )


def too_short(measured: Measured, needs: Sequence[Need]) -> list[str]:
    """A sentence on the cells of which a curve ends before the published number of steps."""
    horizon = published().steps
    ends = dict.fromkeys(
        f"{cell.label} until {last_step(curve):,}{_ended_alone(curve)}"
        for need in needs
        for cell in need.cells
        if (curve := measured.get((cell.name, need.curve))) is not None and last_step(curve) < horizon
    )
    return [f"Measured for less than {horizon:,} steps: {'; '.join(ends)}."] if ends else []


def _ended_alone(curve: xr.DataArray) -> str:
    """Which seeds have no values any more where others do, as those that diverge."""
    last = {int(one["seed"]): last_step(one.expand_dims("seed")) for one in curve}
    ended = [seed for seed, step in last.items() if step < max(last.values())]
    return f" (then no values of seed {', '.join(map(str, ended))})" if ended else ""


def number(value: float) -> str:
    """Three digits, thousands separated: `1,498`, `24.0`, `0.0130`."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def listed(what: str, values: Iterable[tuple[str, float | None]]) -> str:
    """A sentence of names with their values, without those that have none: `Highest: M 2.24, A* 0.94.`"""
    told = [f"{name} {number(value)}" for name, value in values if value is not None]
    return f"{what}: {', '.join(told)}." if told else ""


def spoken(curve: str) -> str:
    """A curve's name in a sentence."""
    return _SPOKEN.get(curve, curve.replace("_", " "))
