"""What the report takes from the ablation grid: per cell, arrays over all checkpoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mech_grok.report.cells import Cell, Run, identify
from mech_grok.report.checkpoints import StepArray, step_array
from mech_grok.report.thinning import evenly_spaced

Kind = Literal["change", "interaction"]

# One float for each of them in every entry of the grid: what keeps a cell of five seeds below a megabyte, and
# many cells below two.
MOST_SEED_CHECKPOINTS = 256
MOST_OF_A_PAGE = 2 * MOST_SEED_CHECKPOINTS


@dataclass(frozen=True)
class Quantity:
    """Something that an intervention may change.

    Attributes:
        name: what a button says.
        variable: its name in the ablation grid, without `_change`.
        split: the pairs that it is measured on.
        units: as a reader is shown them; empty for a number.
        linear_below: changes below this are coloured on a linear scale, larger ones on a logarithmic one.
    """

    name: str
    variable: str
    split: str
    units: str
    linear_below: float


NATS_LINEAR_BELOW = 0.1

QUANTITIES = (
    Quantity("test loss", "loss", "test", "nats", NATS_LINEAR_BELOW),
    Quantity("train loss", "loss", "train", "nats", NATS_LINEAR_BELOW),
    Quantity("test accuracy", "accuracy", "test", "", 0.02),
    Quantity("attention entropy", "attention_entropy", "test", "nats", 0.02),
    Quantity("restricted loss", "restricted_loss", "test", "nats", NATS_LINEAR_BELOW),
    Quantity("excluded loss", "excluded_loss", "train", "nats", NATS_LINEAR_BELOW),
    Quantity("effective rank", "effective_rank", "test", "", 0.5),
)

SCORES = "attention scores"  # what a temperature scales, beside the pathways


def compute_grid(runs: Sequence[Run], kind: Kind) -> tuple[tuple[Quantity, ...], tuple[StepArray, ...]]:
    """What each intervention on each set of pathways changes: [seed, step, measure, intervention, pathways].

    Of `interaction` only the sets of several pathways are there. Quantities that no run has a value of are
    left out, and so are cells without any; what one cell lacks of another's is NaN. The interventions are
    those of all runs together, in the grid's order.
    """
    grids = _grids(runs)
    quantities = tuple(q for q in QUANTITIES if any(_known(data, q, kind) for _, data in grids))
    interventions = _union(data["intervention"].values for _, data in grids)
    arrays = []
    for cell, data in grids:
        values = [_one(data, q, kind).reindex(intervention=interventions) for q in quantities]
        if values and any(v.notnull().any() for v in values):
            stacked = xr.concat(values, "measure", coords="minimal", compat="override")
            stacked = stacked.assign_coords(measure=[q.name for q in quantities])
            dims = ("seed", "step", "measure", "intervention", "pathways")
            arrays.append(step_array(kind, cell, stacked.transpose(*dims)))
    return quantities, tuple(arrays)


def compute_scales(runs: Sequence[Run]) -> tuple[StepArray, ...]:
    """Change in loss (nats) when an input is multiplied: [seed, step, pathways, split, factor]; one per cell.

    The last of the `pathways` is `SCORES`: the attention scores, times one over a temperature.
    """
    arrays = []
    for cell, data in _grids(runs):
        if not {"scale_loss_change", "temperature_loss_change"} <= set(data):
            continue
        scores = data["temperature_loss_change"].expand_dims(pathways=[SCORES])
        both = xr.concat([data["scale_loss_change"], scores], "pathways")
        dims = ("seed", "step", "pathways", "split", "factor")
        arrays.append(step_array("scale_loss_change", cell, both.transpose(*dims)))
    return tuple(arrays)


def usual_intervention(array: StepArray) -> str:
    """What says most about a cell's own norms: `bypass` where it has any, else `insert`.

    Args:
        array: of `compute_grid`.
    """
    interventions = array.coords[1]
    if "bypass" not in interventions:
        return "insert" if "insert" in interventions else str(interventions[0])
    bypassed = array.values[:, :, :, interventions.index("bypass")]
    return "bypass" if np.isfinite(bypassed).any() or "insert" not in interventions else "insert"


def applies_everywhere(arrays: Sequence[StepArray], intervention: str) -> bool:
    """Whether an intervention has a value of the first quantity on every set of pathways, in all cells.

    Args:
        arrays: of `compute_grid`.
    """
    values = [a.values[:, :, 0, a.coords[1].index(intervention)] for a in arrays]
    return all(np.isfinite(v).any((0, 1)).all() for v in values)


def _grids(runs: Sequence[Run]) -> list[tuple[Cell, xr.Dataset]]:
    """The cells that have an ablation grid, with as many of its checkpoints as the page holds."""
    pairs = zip(identify(runs), runs, strict=True)
    grids = [(cell, run.ablations) for cell, run in pairs if run.ablations is not None]
    most = min(MOST_SEED_CHECKPOINTS, MOST_OF_A_PAGE // max(len(grids), 1))
    return [(cell, _thinned(data, most)) for cell, data in grids]


def _thinned(data: xr.Dataset, most: int) -> xr.Dataset:
    """At most about `most` checkpoints times seeds."""
    return data.isel(step=evenly_spaced(data.sizes["step"], max(2, most // max(data.sizes["seed"], 1))))


def _one(data: xr.Dataset, quantity: Quantity, kind: Kind) -> xr.DataArray:
    """One quantity (seed, step, intervention, pathways), NaN where the grid does not have it."""
    change = data["loss_change"].sel(split=quantity.split, drop=True)
    name = f"{quantity.variable}_{kind}"
    there = data[name].sel(split=quantity.split, drop=True) if name in data else change.where(False)
    if kind == "interaction":
        there = there.sel(pathways=[s for s in there["pathways"].values if "+" in str(s)])
    return there


def _known(data: xr.Dataset, quantity: Quantity, kind: Kind) -> bool:
    return bool(_one(data, quantity, kind).notnull().any())


def _union(lists: Iterable[NDArray[np.str_]]) -> list[str]:
    return list(dict.fromkeys(str(name) for names in lists for name in names))
