"""From run directories to results: the curves of a complete run, added to what is there of its cell."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from mech_grok.config import CellConfig
from mech_grok.config_file import load_cell
from mech_grok.errors import UserError
from mech_grok.paper.curves import CURVES, METRICS
from mech_grok.paper.merge import with_training
from mech_grok.paper.missing import lacking_curves
from mech_grok.paper.results import (
    Training,
    difference_in_numbers,
    load_result,
    result_path,
    save_result,
)
from mech_grok.run_lock import locked

if TYPE_CHECKING:
    import mech_grok.run  # torch takes seconds to import, and what is gathered already needs none of it

_KEPT = (
    *("mech_grok", "python", "torch", "transformer_lens"),
    *("platform", "cpu", "threads", "device", "wall_seconds"),
)
"""Of what a run records about its training. Its command and its folders are nobody else's business."""


def gather(path: Path, cell: str, asked: CellConfig, folder: Path) -> tuple[str, ...]:
    """Add to a cell's result what a run has of it and the result has not; what is there is kept.

    Only a complete training counts, and of it the probes that are recorded at every checkpoint.

    Args:
        path: the run directory, which need not exist.
        cell: the cell's name, without seeds.
        asked: the run's config, as it is to be.
        folder: where results are.

    Returns:
        Names of the curves that were added.

    Raises:
        UserError: the run or the result is damaged, or the run is of another config.
        RunBusyError: another process is writing the run.
    """
    if not _may_add(path, cell, asked.training.seeds, folder):
        return ()
    check_same_run(path, asked)
    from mech_grok.run import Run

    run = Run(path)
    if not run.is_trained:
        return ()
    with locked(path):
        return _add(run, cell, folder)


def check_same_run(path: Path, asked: CellConfig) -> None:
    """Refuse a run directory whose numbers would not be those of the cell that is asked for.

    One whose config is not there, or is damaged, is of no cell yet.

    Raises:
        UserError: its config differs in more than what it was trained on.
    """
    try:
        there = load_cell(path / "config.yaml")
    except UserError:
        return
    difference = difference_in_numbers(there, asked)
    if difference:
        raise UserError(
            f"{path} holds a run of another config ({difference}); choose another study=NAME or --out"
        )


def _may_add(path: Path, cell: str, seeds: tuple[int, ...], folder: Path) -> bool:
    """Whether there is something in a run directory that its result has not, by a first look."""
    if not (path / "config.yaml").is_file():
        return False
    result = load_result(folder, cell)
    lacking = lacking_curves(result.trainings if result else (), seeds, CURVES)
    sources = {CURVES[name].source for name in lacking}
    return METRICS in sources or any((path / "probes" / f"{source}.zarr").exists() for source in sources)


def _add(run: "mech_grok.run.Run", cell: str, folder: Path) -> tuple[str, ...]:
    with _one_writer(result_path(folder, cell).parent):
        result = load_result(folder, cell)
        new = lacking_curves(result.trainings if result else (), run.seeds, recorded_curves(run))
        if new:
            training = Training(run.config, described(run.environment), run.diverged, new)
            save_result(folder, with_training(result, cell, training, curves_of(run, new)))
    return new


def recorded_curves(run: "mech_grok.run.Run") -> tuple[str, ...]:
    """The curves of a complete training whose sources are recorded to the end."""
    from mech_grok.recorded import lacking_probes

    probes = [source for source in _sources(CURVES) if source in run.probe_names]
    lacking = lacking_probes(run, probes, run.config.training.steps)
    there = {METRICS, *(probe for probe in probes if not lacking[probe])}
    return tuple(name for name, curve in CURVES.items() if curve.source in there)


def curves_of(run: "mech_grok.run.Run", names: tuple[str, ...]) -> xr.Dataset:
    """Curves of a run by name, (seed, step): the metrics at evaluated steps, the others at checkpoints.

    Raises:
        UserError: a probe was recorded before it had one of them.
    """
    sources = _sources({name: CURVES[name] for name in names})
    data = {source: _evaluated(run) if source == METRICS else run.probe(source) for source in sources}
    for name in names:
        if CURVES[name].variable not in data[CURVES[name].source]:
            store = run.path / "probes" / f"{CURVES[name].source}.zarr"
            raise UserError(f"{store}: has no {CURVES[name].variable}; delete it to have it recorded again")
    curves = {name: CURVES[name].of(data[CURVES[name].source]).reset_coords(drop=True) for name in names}
    named = [curve.rename(name) for name, curve in curves.items()]
    return xr.merge(named, join="outer", combine_attrs="override").drop_attrs(deep=False)


def described(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, hardware and wall time of a run, and how they changed where it was interrupted."""
    kept = {name: environment[name] for name in _KEPT if name in environment}
    continued = [
        {name: value for name, value in session.items() if name in ("step", *_KEPT)}
        for session in environment.get("continued", [])
    ]
    return {**kept, "continued": continued} if continued else kept


def _evaluated(run: "mech_grok.run.Run") -> xr.Dataset:
    metrics = run.metrics
    return metrics.sel(step=metrics["evaluated"])


def _sources(curves: Mapping[str, Any]) -> tuple[str, ...]:
    """Where some curves are from, each once; the metrics are one of them."""
    return tuple(dict.fromkeys(curve.source for curve in curves.values()))


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Let one process at a time change what is in a folder; leaves no file behind."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
