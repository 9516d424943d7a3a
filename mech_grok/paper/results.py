"""What was measured of the paper's cells, in small files beside the pages: no weights, no run directories."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from mech_grok.config import CellConfig
from mech_grok.paper.measures import Measured


@dataclass(frozen=True)
class Training:
    """One run of a cell.

    Attributes:
        config: what was trained, over which seeds.
        environment: versions, hardware, threads and wall time, as the run recorded them.
        diverged: seed -> step, of seeds that did.
    """

    config: CellConfig
    environment: Mapping[str, Any]
    diverged: Mapping[int, int]


@dataclass(frozen=True)
class Result:
    """A cell over all of its runs.

    Attributes:
        cell: its name, without seeds.
        curves: (seed, step), one variable for each curve that was measured, by its name in `CURVES`; the
            steps are those at which anything was measured, and a curve is nan at the others.
        trainings: its runs, in the order of the seeds.
    """

    cell: str
    curves: xr.Dataset
    trainings: tuple[Training, ...]


def load_results(folder: Path) -> dict[str, Result]:
    """Cell's name -> what was measured of it; empty if the folder has nothing."""
    raise NotImplementedError


def measured(results: Mapping[str, Result]) -> Measured:
    """All curves, for comparing: (cell, curve) -> (seed, step), nan where not measured."""
    return {
        (name, str(curve)): result.curves[curve]
        for name, result in results.items()
        for curve in result.curves.data_vars
    }
