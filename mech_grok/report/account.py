"""What the numbers say of a cell: one sentence on its delay, and measures of what its answers rest on.

Nothing here is an opinion on why a network grokked. The measures are of its last checkpoint: what it loses
when something is taken away from it, and what is left when it has nothing else.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from mech_grok.generalisation import GeneralisationSteps
from mech_grok.report.cells import Run

_AT_ONCE = 1.5  # times as late as memorisation: no delay to speak of


Kind = Literal["loss", "change", "share"]


@dataclass(frozen=True)
class Measure:
    """One measure of a cell's last checkpoint.

    Attributes:
        name: plain text.
        mean: over the seeds that have it, in nats, or as a share of 1.
        kind: a `change` is in need of a sign, a `share` of a per cent sign.
        lacking: how many of the seeds do not have it, in words; empty if all do.
    """

    name: str
    mean: float
    kind: Kind = "loss"
    lacking: str = ""


def delay(steps: GeneralisationSteps) -> str:
    """How much later than it memorised a cell generalised, in a sentence."""
    memorised = {seed: step for seed, step in steps.memorisation.items() if step is not None}
    if not memorised:
        return f"Not memorised by step {steps.last_step:,}."
    reached = [seed for seed, step in steps.accuracy.items() if step is not None and seed in memorised]
    if not reached:
        waited = steps.last_step / _mean(memorised.values())
        all_memorised = len(memorised) == len(steps.memorisation)
        who = (
            "Memorised" if all_memorised else f"{len(memorised)} of {len(steps.memorisation)} seeds memorised"
        )
        return f"{who}, and not generalised {_times(waited)}."
    factor = _mean((steps.accuracy[seed] or 0) / memorised[seed] for seed in reached)
    all_did = len(reached) == len(steps.accuracy)
    who = "Generalised" if all_did else f"{len(reached)} of {len(steps.accuracy)} seeds generalised"
    return f"{who} {'as' if factor < _AT_ONCE else f'{_times(factor)} as'} it memorised."


def _times(factor: float) -> str:
    return f"{factor:.1f} times as late" if factor < 9.95 else f"{factor:,.0f} times as late"


def _mean(values: Iterable[float | int]) -> float:
    return float(np.mean(list(values)))


def measures(run: Run) -> tuple[Measure, ...]:
    """What a run's answers rest on at its last checkpoint, as far as it was measured."""
    found = (*_of_attention(run), *_of_norms(run), *_of_scale(run), *_of_frequencies(run))
    return tuple(measure for measure in found if measure)


def _of_attention(run: Run) -> Iterator[Measure | None]:
    if "attention" in run.probe_names:
        data = run.probe("attention")
        entropy = data["entropy_headavg_allrows"].sel(split="all").mean("layer", skipna=False)
        yield _measure("Attention entropy, of the uniform one", entropy / np.log(data.sizes["key"]), "share")


def _of_norms(run: Run) -> Iterator[Measure | None]:
    """The set with all pathways: of those, a bypass concerns the normalised ones."""
    grid = run.ablations
    if grid is not None and run.config.model.placement.pathways:
        everywhere = max(grid["pathways"].values, key=len)
        change = grid["loss_change"].sel(intervention="bypass", pathways=everywhere, split="test")
        yield _measure("Change in test loss without its norms", change, "change")


def _of_scale(run: Run) -> Iterator[Measure | None]:
    if "shortcut" in run.probe_names:
        loss = run.probe("shortcut")["sr_loss"].sel(split="train")
        yield _measure("Train loss without the MLP input's scale", loss)


def _of_frequencies(run: Run) -> Iterator[Measure | None]:
    if "progress" in run.probe_names:
        data = run.probe("progress")
        yield _measure("Test loss on key frequencies alone", data["restricted_loss"].sel(split="test"))
        yield _measure("Train loss without key frequencies", data["excluded_loss"].sel(split="train"))


def _measure(name: str, of: xr.DataArray, kind: Kind = "loss") -> Measure | None:
    """The last checkpoint of a quantity (seed, step); None where no seed has a value."""
    last = of.transpose("seed", "step").values[:, -1:]
    known = last[np.isfinite(last)]
    if not known.size:
        return None
    lacking = f"{known.size} of {last.size} seeds" if known.size < last.size else ""
    return Measure(name, float(known.mean()), kind, lacking)
