"""How each published number is taken from our curves, by the rules of `Published.rules`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from mech_grok.generalisation import TEST_ACCURACY, first_met
from mech_grok.paper.published import Number

Measured = Mapping[tuple[str, str], xr.DataArray]
"""(cell's name without seeds, curve's name) -> (seed, step), over all of its runs; nan where not measured."""

FIRST_STEP = 1
"""The first step of every published curve, which the authors' code measures after its first update."""


def of_common_seeds(measured: Measured, cells: Collection[str]) -> Measured:
    """The curves of some cells over the seeds that all of them have that were measured.

    So that cells are compared over the same seeds while some of them have fewer. Where they share none, each
    keeps its own.
    """
    ours = {key: curve for key, curve in measured.items() if key[0] in cells}
    held: dict[str, set[int]] = {}
    for (cell, _), curve in ours.items():
        held.setdefault(cell, set()).update(curve["seed"].values.tolist())
    common = set.intersection(*held.values()) if held else set()
    if not common:
        return ours
    return {
        key: curve.sel(seed=[seed for seed in curve["seed"].values.tolist() if seed in common])
        for key, curve in ours.items()
    }


def whole(curve: xr.DataArray) -> xr.DataArray:
    """The steps at which every seed has a value."""
    return curve.dropna("step", how="any")


def last_step(curve: xr.DataArray) -> int:
    """Until when every seed was measured; 0 if never."""
    steps = whole(curve)["step"].values
    return int(steps[-1]) if steps.size else 0


def means(curve: xr.DataArray) -> dict[int, float]:
    """Step -> mean over seeds, at the steps at which every seed has a value."""
    mean = whole(curve).mean("seed")
    return dict(zip(mean["step"].values.tolist(), mean.values.tolist(), strict=True))


def matching_step(step: int, steps: Sequence[int]) -> int | None:
    """Which of our steps a published one is compared with; None if none is.

    The same step; for `FIRST_STEP`, if there is no checkpoint at 1, the untrained model. At the paper's seven
    placements the first update moved C_Fourier by at most 0.0002 and attention entropy by at most 0.003 nats.
    """
    if step in steps:
        return step
    return 0 if step == FIRST_STEP and 0 in steps else None


def generalisation_step(accuracy: xr.DataArray) -> int | None:
    """First step at which test accuracy (seed, step), averaged over seeds, is at least 0.995."""
    return first_met(whole(accuracy).mean("seed") >= TEST_ACCURACY)


def first_perfect_step(accuracy: xr.DataArray) -> int | None:
    """First step at which the best seed's test accuracy (seed, step) is 1."""
    return first_met((whole(accuracy) == 1).any("seed"))


def peak(curve: xr.DataArray) -> float | None:
    """The largest mean over seeds, of a trained model."""
    return max(trained(curve).values(), default=None)


def peak_step(curve: xr.DataArray) -> int | None:
    """The step of that mean."""
    means_of_trained = trained(curve)
    return max(means_of_trained, key=means_of_trained.__getitem__, default=None)


def lowest(curve: xr.DataArray) -> float | None:
    """The smallest mean over seeds, of a trained model."""
    return min(trained(curve).values(), default=None)


def trained(curve: xr.DataArray) -> dict[int, float]:
    """The means over seeds without the untrained model's."""
    return {step: mean for step, mean in means(curve).items() if step > 0}


@dataclass(frozen=True)
class Measure:
    """How one quantity is taken.

    Attributes:
        curve: the name of the curve that it is taken from (`curves.CURVES`).
        of: from that curve (seed, step); None without a value.
        is_first_time: whether it is the step at which something first happens, and so is known as soon as it
            has; anything else takes the whole training.
    """

    curve: str
    of: Callable[[xr.DataArray], Number | None]
    is_first_time: bool = False


MEASURES: Mapping[str, Measure] = {
    "generalisation_step": Measure("test_accuracy", generalisation_step, is_first_time=True),
    "first_perfect_step": Measure("test_accuracy", first_perfect_step, is_first_time=True),
    "sr_train_peak": Measure("sr_train", peak),
    "sr_train_peak_step": Measure("sr_train", peak_step),
    "sr_train_lowest": Measure("sr_train", lowest),
}
