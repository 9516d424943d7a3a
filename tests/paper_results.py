"""Made-up results of the paper's cells, whose answers are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mech_grok.config import CellConfig
from mech_grok.paper.cells import PaperCell
from mech_grok.paper.curves import CURVES, METRICS
from mech_grok.paper.results import Result, Training
from mech_grok.study_config import set_dotted

EVALUATED = np.array([1, *range(50, 10_001, 50)])
CHECKPOINTS = np.arange(0, 10_001, 200)
STEPS = np.union1d(EVALUATED, CHECKPOINTS)
ENVIRONMENT = {"torch": "2.15.0", "cpu": "<AMD> & co", "threads": 1, "wall_seconds": 754.0}


def result(
    cell: PaperCell,
    generalised: Mapping[int, int],
    curves: Sequence[str] = tuple(CURVES),
    values: Mapping[str, np.ndarray] | None = None,
    diverged: Mapping[int, int] | None = None,
) -> Result:
    """A cell whose seeds answer half of the test pairs, then from a step of their own on all of them.

    The test loss falls and C_Fourier rises at that step, and the effective rank is halved there; every other
    curve is 1, as far as it is not given.

    Args:
        generalised: seed -> that step, one of `CHECKPOINTS`; later than 10,000 for never.
        values: curve -> (seed, step) at `STEPS`.
    """
    seeds = list(generalised)
    when = np.array(list(generalised.values()))[:, None]
    known = {
        "test_accuracy": np.where(when <= STEPS, 1.0, 0.5),
        "test_loss": np.where(when <= STEPS, 1e-3, 9.0),
        "c_fourier": np.where(when <= STEPS, 0.6, 0.1),
        "effective_rank": np.where(STEPS == 0, 2.0, np.where(when <= STEPS, 10.0, 40.0)),
        **(values or {}),
    }
    ones = np.ones((len(seeds), len(STEPS)))
    data = {name: _where_measured(name, known.get(name, ones)) for name in CURVES if name in curves}
    arrays = {name: (("seed", "step"), array.astype(np.float32)) for name, array in data.items()}
    training = Training(_config(cell, seeds), ENVIRONMENT, diverged or {}, tuple(data))
    return Result(cell.name, xr.Dataset(arrays, {"seed": seeds, "step": STEPS}), (training,))


def _where_measured(curve: str, values: np.ndarray) -> np.ndarray:
    """nan at the steps at which a run has no value of the curve."""
    measured = EVALUATED if CURVES[curve].source == METRICS else CHECKPOINTS
    return np.where(np.isin(STEPS, measured), values, np.nan)


def _config(cell: PaperCell, seeds: Sequence[int]) -> CellConfig:
    tree: dict[str, Any] = {"model": {"activation": "gelu"}}
    for key, value in cell.dotted(seeds).items():
        tree = set_dotted(tree, key, value)
    return CellConfig.model_validate(tree)
