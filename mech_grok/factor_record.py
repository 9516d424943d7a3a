"""The attention factors that a run solved for while it followed entropies, on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from mech_grok.array_store import StepStore
from mech_grok.config import CellConfig
from mech_grok.training.follow_entropy import SolvedFactors, solution_steps

_ATTRIBUTES = {
    "factor": (
        "attention factor",
        "1",
        "What the head's scores are multiplied by from this step to the next one here, in the softmax.",
    ),
    "target": (
        "attention entropy to follow",
        "nats",
        "What the followed curve has at this step, linear between its own steps and constant outside.",
    ),
    "entropy": (
        "attention entropy reached",
        "nats",
        "Entropy of the head's attention weights from '=', mean over the seed's training pairs, with this "
        "factor and the weights of this step, in float64. Not the target where no factor reaches that; then "
        "the factor is the one before.",
    ),
}


def write_factors(run: Path, config: CellConfig, solved: Sequence[SolvedFactors]) -> None:
    """Add solutions to a run directory; one that is there already is written again."""
    store = StepStore(run / "attention_factor.zarr", config.training.seeds, solution_steps(config))
    for solution in solved:
        seeds = range(len(config.training.seeds))
        store.write(solution.step, [_dataset(solution, row) for row in seeds])


def _dataset(solution: SolvedFactors, row: int) -> xr.Dataset:
    """One seed's, dimensions (layer, head)."""
    arrays: dict[str, np.ndarray] = {name: getattr(solution, name)[row] for name in _ATTRIBUTES}
    layers, heads = arrays["factor"].shape
    keys = ("long_name", "units", "definition")
    return xr.Dataset(
        {
            name: (("layer", "head"), array, dict(zip(keys, _ATTRIBUTES[name], strict=True)))
            for name, array in arrays.items()
        },
        coords={"layer": list(range(layers)), "head": list(range(heads))},
    )
