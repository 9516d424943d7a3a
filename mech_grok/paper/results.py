"""What was measured of the paper's cells, in small files beside the pages: no weights, no run directories."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from mech_grok.config import CellConfig
from mech_grok.config_difference import first_difference
from mech_grok.errors import UserError
from mech_grok.paper.curves import CURVES
from mech_grok.paper.measures import Measured
from mech_grok.paper.study import figure_cells
from mech_grok.paper.zipped_dataset import read_attributes, read_zipped, undamaged, write_zipped

_SUFFIX = ".zarr.zip"
_TRAININGS = "trainings"


@dataclass(frozen=True)
class Training:
    """One run of a cell.

    Attributes:
        config: what was trained, over which seeds.
        environment: versions, hardware, threads and wall time, as the run recorded them; `continued`, if it
            was interrupted and went on on something else: from which step, and what was new.
        diverged: seed -> step, of seeds that did.
        curves: names of those that are from it.
    """

    config: CellConfig
    environment: Mapping[str, Any]
    diverged: Mapping[int, int]
    curves: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that it trained."""
        return self.config.training.seeds


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


def result_path(folder: Path, cell: str) -> Path:
    """Where the result of a cell is: a zip file with a Zarr group in it.

    `xr.open_zarr(zarr.storage.ZipStore(path))` reads it without this package. Curves are float32; what was
    trained and on what is in `.attrs["trainings"]`.
    """
    return folder / "cells" / f"{cell}{_SUFFIX}"


def load_results(folder: Path) -> dict[str, Result]:
    """Cell's name -> what was measured of it; empty if the folder has nothing.

    Raises:
        UserError: a file is damaged.
    """
    return {path.name.removesuffix(_SUFFIX): _read(path) for path in _paths(folder)}


def load_result(folder: Path, cell: str) -> Result | None:
    """What was measured of one cell, if anything was.

    Raises:
        UserError: its file is damaged.
    """
    path = result_path(folder, cell)
    return _read(path) if path.exists() else None


def load_trainings(folder: Path) -> dict[str, tuple[Training, ...]]:
    """Cell's name -> its runs, without what was measured, which is quick.

    Raises:
        UserError: a file is damaged.
    """
    return {p.name.removesuffix(_SUFFIX): _trainings(p, read_attributes(p)) for p in _paths(folder)}


def save_result(folder: Path, result: Result) -> Path:
    """Write the file of a cell; equal results give equal files."""
    attributes = {"cell": result.cell, _TRAININGS: [_as_json(training) for training in result.trainings]}
    path = result_path(folder, result.cell)
    write_zipped(path, result.curves.assign_attrs(attributes))
    return path


def measured(results: Mapping[str, Result]) -> Measured:
    """All curves, for comparing: (cell, curve) -> (seed, step), nan where not measured."""
    return {
        (name, str(curve)): result.curves[curve]
        for name, result in results.items()
        for curve in result.curves.data_vars
    }


def in_order(curves: xr.Dataset) -> xr.Dataset:
    """The same curves, those of `CURVES` first and as there, dimensions (seed, step)."""
    known = [name for name in CURVES if name in curves]
    others = sorted(str(name) for name in curves.data_vars if name not in CURVES)
    return curves[[*known, *others]].transpose("seed", "step")


def check_same_cell(path: Path, trainings: Sequence[Training], asked: CellConfig) -> None:
    """Refuse a result whose numbers would not be those of the cell that is asked for.

    Raises:
        UserError: its config differs in more than what it was trained on.
    """
    for training in trainings:
        difference = difference_in_numbers(training.config, asked)
        if difference:
            raise UserError(f"{path} holds another config ({difference}); give another --results")


def check_is_cell(path: Path, name: str, trainings: Sequence[Training]) -> None:
    """Refuse a result that is called after another cell than it is of.

    Raises:
        UserError: its placement or a setting that its name says is another one, or no figure has such a cell.
    """
    cells = {cell.name: cell for cell in figure_cells()}
    if name not in cells:
        raise UserError(f"{path}: no figure has a cell of this name; remove the file")
    for training in trainings:
        told = cells[name].dotted(training.seeds)
        wrong = [key for key, value in told.items() if _at(training.config, key) != value]
        if wrong:
            raise UserError(f"{path}: is of another cell than its name says ({wrong[0]}); remove the file")


def _at(config: CellConfig, key: str) -> object:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def difference_in_numbers(there: CellConfig, asked: CellConfig) -> str | None:
    """The first key in which two configs differ, but for seeds, device, threads and what is kept on disk."""
    same = ("seeds", "device", "threads", "optimiser_state_every")
    training = there.training.model_copy(update={key: getattr(asked.training, key) for key in same})
    return first_difference(there.model_copy(update={"training": training}), asked)


def _paths(folder: Path) -> list[Path]:
    return sorted((folder / "cells").glob(f"[!.]*{_SUFFIX}"))


def _read(path: Path) -> Result:
    data = read_zipped(path)
    trainings = _trainings(path, data.attrs)
    with undamaged(path):
        curves = in_order(data.drop_attrs(deep=False))
    return Result(path.name.removesuffix(_SUFFIX), curves, trainings)


def _trainings(path: Path, attributes: Mapping[str, Any]) -> tuple[Training, ...]:
    with undamaged(path):
        return tuple(_from_json(found) for found in attributes[_TRAININGS])


def _as_json(training: Training) -> dict[str, Any]:
    return {**asdict(training), "config": training.config.model_dump(mode="json")}


def _from_json(found: Mapping[str, Any]) -> Training:
    return Training(
        config=CellConfig.model_validate(found["config"]),
        environment=found["environment"],
        diverged={int(seed): step for seed, step in found["diverged"].items()},
        curves=tuple(found["curves"]),
    )
