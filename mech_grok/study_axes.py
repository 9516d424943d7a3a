"""What varies in a study, as dimensions with labels, and where among them each cell is."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mech_grok.config import CellConfig
from mech_grok.placement import Placement
from mech_grok.study_config import StudyConfig

_SEEDS = "training.seeds"


@dataclass(frozen=True)
class StudyAxes:
    """The axes of a study.

    Attributes:
        sizes: dimension -> how many values there are, in the order of the grid.
        points: of each cell, in the order of `all_cells`, an index into each axis.
        coordinates: labels of the dimensions, and the names of the placements along theirs.
        splits_seeds: whether an axis over seeds was left out, so that the cells at one point are the same one
            with other seeds.
    """

    sizes: Mapping[str, int]
    points: tuple[tuple[int, ...], ...]
    coordinates: Mapping[str, xr.Variable]
    splits_seeds: bool = False


def study_axes(study: StudyConfig, taken: Collection[str]) -> StudyAxes:
    """The axes of a study: its grid, or the one axis `cell` of a study of named cells, or none.

    An axis is named by the last part of its key (`lr`); by the whole key if another one ends alike, or that
    name is taken. An axis over seeds is left out, unless two of its values have a seed in common.

    Args:
        taken: names of dimensions and variables of the cells.
    """
    return _axis_of_cells(study) if study.cells else _axes_of_grid(study, taken)


def _axis_of_cells(study: StudyConfig) -> StudyAxes:
    cells = study.all_cells()
    placements = [cell.model.placement for cell in cells.values()]
    coordinates = {"cell": xr.Variable("cell", list(cells)), **_placements("placement", "cell", placements)}
    return StudyAxes({"cell": len(cells)}, tuple((i,) for i in range(len(cells))), coordinates)


def _axes_of_grid(study: StudyConfig, taken: Collection[str]) -> StudyAxes:
    splits_seeds = _SEEDS in study.grid and _are_disjoint(study.grid[_SEEDS])
    keys = list(study.grid)
    kept = [i for i, key in enumerate(keys) if not (key == _SEEDS and splits_seeds)]
    names = dict(zip(kept, _names([keys[i] for i in kept], taken), strict=True))
    indices = list(np.ndindex(*map(len, study.grid.values())))  # as the cells: the first axis is the slowest
    coordinates: dict[str, xr.Variable] = {}
    for i, name in names.items():
        cells = {index[i]: cell for index, cell in zip(indices, study.all_cells().values(), strict=True)}
        values = [_value(cells[k], keys[i]) for k in range(len(cells))]
        coordinates |= _coordinates(name, keys[i], values)
    return StudyAxes(
        {name: len(study.grid[keys[i]]) for i, name in names.items()},
        tuple(tuple(index[i] for i in kept) for index in indices),
        coordinates,
        splits_seeds,
    )


def _are_disjoint(seeds: Sequence[Sequence[int]]) -> bool:
    together = [seed for some in seeds for seed in some]
    return len(set(together)) == len(together)


def _names(keys: Sequence[str], taken: Collection[str]) -> list[str]:
    last = [key.rpartition(".")[2] for key in keys]
    return [
        key if name in taken or last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)
    ]


def _value(cell: CellConfig, key: str) -> object:
    value: object = cell
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _coordinates(name: str, key: str, values: Sequence[object]) -> dict[str, xr.Variable]:
    placements = [value for value in values if isinstance(value, Placement)]
    return _placements(name, name, placements) or {
        name: xr.Variable(name, _labels(values), {"long_name": key})
    }


def _placements(name: str, dim: str, placements: Sequence[Placement]) -> dict[str, xr.Variable]:
    """Specifiers, and what a reader is shown."""
    if not placements:
        return {}
    specifiers, shown = [p.specifier for p in placements], [p.label for p in placements]
    return {
        name: xr.Variable(dim, specifiers, {"long_name": "placement"}),
        "placement_name": xr.Variable(dim, shown, {"long_name": "placement"}),
    }


def _labels(values: Sequence[object]) -> np.ndarray:
    """Numbers as numbers and bools as bools if all are; else text, as in the names of the cells."""
    kinds = {type(value) for value in values}
    if kinds <= {bool, int, float}:
        return np.array(values)
    return np.array(["-".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values])
