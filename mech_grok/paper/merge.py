"""Several runs of one cell as one result."""

from dataclasses import replace

import xarray as xr

from mech_grok.paper.curves import CURVES
from mech_grok.paper.results import Result, Training, in_order
from mech_grok.paper.study import SEED_GROUPS

_SEEDS = [seed for group in SEED_GROUPS for seed in group]


def with_training(result: Result | None, cell: str, training: Training, curves: xr.Dataset) -> Result:
    """A result with what a training adds to it; of what it has already, nothing changes.

    Args:
        result: what there is of the cell; None if this is its first training.
        training: its `curves` are those that are added.
        curves: they themselves, (seed, step).
    """
    if result is None:
        return Result(cell, _in_order(curves), (training,))
    joined = result.curves.combine_first(curves)
    for name in joined.data_vars:
        joined[name].attrs = (result.curves if name in result.curves else curves)[name].attrs
    trainings = _joined(result.trainings, training)
    return Result(cell, _in_order(joined), tuple(sorted(trainings, key=lambda t: _rank(t.seeds[0]))))


def _joined(trainings: tuple[Training, ...], new: Training) -> tuple[Training, ...]:
    """The trainings with another one, which may be one of them of which more has been recorded since."""
    for known in trainings:
        if replace(known, curves=new.curves) == new:
            both = {*known.curves, *new.curves}
            more = replace(known, curves=tuple(name for name in CURVES if name in both))
            return tuple(more if training is known else training for training in trainings)
    return (*trainings, new)


def _in_order(curves: xr.Dataset) -> xr.Dataset:
    """Seeds as they were published, steps ascending, curves as they are listed; float32."""
    seeds = sorted(curves["seed"].values.tolist(), key=_rank)
    return in_order(curves.sel(seed=seeds).sortby("step").astype("float32"))


def _rank(seed: int) -> tuple[int, int]:
    return (_SEEDS.index(seed) if seed in _SEEDS else len(_SEEDS), seed)
