"""A study as one labelled array: its axes as dimensions, values read from its cells when they are used."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendEntrypoint

from mech_grok.array_store import open_steps, open_store
from mech_grok.config import CellConfig
from mech_grok.config_difference import first_difference
from mech_grok.config_file import read_study
from mech_grok.errors import UserError
from mech_grok.lazy_cells import PlacedStore, join_labels, join_variables
from mech_grok.run import Run
from mech_grok.study_axes import StudyAxes, study_axes
from mech_grok.study_config import StudyConfig
from mech_grok.sweep.places.mirror import fetch
from mech_grok.sweep.places.remote import is_remote

_OF_EVERY_STEP = ("metrics", "norms")


def load_study(path: str | Path, what: str = "metrics") -> xr.Dataset:
    """All cells of a study as one Dataset, with the study's axes as dimensions; `.to_dataframe()` for pandas.

    Opening reads labels only. Values are read when they are used, and only those selected:
    `load_study(path).sel(placement="mlp-pre").train_loss` reads the train loss of one cell.

    Dimensions are the axes of the study's grid, named by the last part of their keys (the whole key where
    that is not unique), then those of the cells: seed, step, ... `placement` has the specifiers as labels,
    and what the paper calls them beside them as `placement_name`. Seeds given as an axis are joined along
    `seed`. A study of named cells has the one dimension `cell`.

    Labels are those that any cell has, and what a cell does not have is nan: steps that only others have
    done, probes that only others have recorded, everything of a cell that has not begun. The coordinate
    `steps_done` says how far each cell is: updates up to its last checkpoint, -1 before the first.
    `evaluated` says after which steps the test set was looked at; it has the axes as dimensions only where
    cells differ in that. What is written after the opening is not seen.

    Args:
        path: the folder that a study was trained into, such as `runs/quickstart`. Of a URL all but the older
            checkpoints is copied here first.
        what: `metrics`, `norms`, `ablations`, or the name of a recorded probe; the arrays are those of
            `Run.metrics`, `Run.norms`, `Run.ablations` and `Run.probe(name)`.

    Raises:
        UserError: the path is no study's folder, nothing of that name is recorded, or a cell's directory
            holds another config; and when values are read, that a store is damaged.
    """
    here = fetch(str(path)) if is_remote(str(path)) else path
    data = xr.open_dataset(here, engine=_StudyBackend, what=what)
    for coordinate in data.coords.values():
        coordinate.load()
    return data


class _StudyBackend(BackendEntrypoint):
    """How xarray opens a study; xarray itself keeps values that have been read, and copies before writing."""

    description = "A study of mech_grok"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "what")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        what: str = "metrics",
    ) -> xr.Dataset:
        folder = Path(filename_or_obj).absolute()  # values are read later, maybe from another directory
        return _open(folder, what).drop_vars(drop_variables or ())


def _open(folder: Path, what: str) -> xr.Dataset:
    study = _study_in(folder)
    cells = study.all_cells()
    runs = [_run(folder / name, cell) for name, cell in cells.items()]
    begun = [run for run in runs if run is not None]
    _check_recorded(folder, begun, what)
    done = {run.path: run.steps_done for run in begun}  # asked once: a run may be going on
    opened = {run.path: data for run in begun if (data := _opened(run, what, done[run.path])) is not None}
    names = {str(name) for data in opened.values() for name in (*data.dims, *data.variables)}
    axes = study_axes(study, names)
    points = dict(zip((folder / name for name in cells), axes.points, strict=True))
    stores = [PlacedStore(_store_path(path, what), points[path], data) for path, data in opened.items()]
    labels = join_labels(stores, _seeds(cells.values()))
    coordinates = {
        **axes.coordinates,
        **{dim: xr.Variable(dim, of_dim) for dim, of_dim in labels.items()},
        "steps_done": _steps_done(
            [done.get(folder / name, -1) for name in cells], list(cells.values()), axes, labels["seed"]
        ),
        **_evaluated(stores, axes, labels["step"]),
    }
    attributes = {**stores[0].data.attrs, "study": study.study, "description": study.description}
    return xr.Dataset(join_variables(stores, axes.sizes, labels), coordinates, attributes)


def _study_in(folder: Path) -> StudyConfig:
    if (folder / "study.yaml").is_file():
        return read_study(folder / "study.yaml")
    if (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: one run, not a study; load_run opens it")
    problem = "has no study.yaml" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    raise UserError(f"{folder}: {problem}; give the folder that a study was trained into, as runs/quickstart")


def _run(path: Path, cell: CellConfig) -> Run | None:
    """The run of a cell; None if it has not begun.

    Raises:
        UserError: the directory holds a run of another config.
    """
    if not (path / "config.yaml").is_file():
        return None
    run = Run(path)
    difference = first_difference(run.config, cell)
    if difference:
        raise UserError(
            f"{path} holds a run of another config than {path.parent / 'study.yaml'} says ({difference}); "
            "move one of the two away"
        )
    return run


def _check_recorded(folder: Path, begun: Sequence[Run], what: str) -> None:
    """Refuse what no cell has.

    Raises:
        UserError: no cell has it; the message lists what is recorded.
    """
    if not begun:
        raise UserError(f"{folder}: none of its cells has begun; mech-grok sweep trains them")
    probes = sorted({name for run in begun for name in run.probe_names})
    ablations = ["ablations"] * any(_store_path(run.path, "ablations").exists() for run in begun)
    recorded = [*_OF_EVERY_STEP, *ablations, *probes]
    if what not in recorded:
        near = difflib.get_close_matches(what, recorded, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"{folder}: no '{what}' in any cell; {hint}recorded: {', '.join(recorded)}")


def _store_path(run: Path, what: str) -> Path:
    return run / f"{what}.zarr" if what in (*_OF_EVERY_STEP, "ablations") else run / "probes" / f"{what}.zarr"


def _opened(run: Run, what: str, done: int) -> xr.Dataset | None:
    """What there is of a run's store after `done` updates, not read yet; None if it has not been recorded."""
    path = _store_path(run.path, what)
    if what in _OF_EVERY_STEP:
        return open_store(path).sel(step=slice(None, done))
    return open_steps(path) if path.exists() else None


def _seeds(cells: Iterable[CellConfig]) -> np.ndarray:
    return np.array(list(dict.fromkeys(seed for cell in cells for seed in cell.training.seeds)))


def _steps_done(
    done: Sequence[int], cells: Sequence[CellConfig], axes: StudyAxes, seeds: np.ndarray
) -> xr.Variable:
    """How far each cell is; where seeds were an axis, how far each seed of it is."""
    of_seeds = np.full((*axes.sizes.values(), len(seeds)), -1)
    for steps, cell, point in zip(done, cells, axes.points, strict=True):
        of_seeds[(*point, np.isin(seeds, cell.training.seeds))] = steps
    attributes = {"long_name": "updates done up to the last checkpoint; -1 before the first", "units": "step"}
    if axes.splits_seeds:
        return xr.Variable((*axes.sizes, "seed"), of_seeds, attributes)
    return xr.Variable(tuple(axes.sizes), of_seeds.max(axis=-1), attributes)


def _evaluated(stores: Sequence[PlacedStore], axes: StudyAxes, steps: np.ndarray) -> dict[str, xr.Variable]:
    """Whether the test set was looked at after a step; along the axes too if cells differ where both have it.

    A cell that has not done a step counts as one that did not look.
    """
    marked = [store for store in stores if "evaluated" in store.data]
    if not marked:
        return {}
    looked, did = np.zeros((2, *axes.sizes.values(), len(steps)), dtype=bool)
    for store in marked:
        rows = np.searchsorted(steps, store.data.step.values)
        looked[store.point][rows] = store.data.evaluated.values
        did[store.point][rows] = True
    anywhere = looked.any(axis=tuple(range(len(axes.sizes))))
    if np.array_equal(looked, anywhere & did):
        return {"evaluated": xr.Variable("step", anywhere)}
    return {"evaluated": xr.Variable((*axes.sizes, "step"), looked)}
