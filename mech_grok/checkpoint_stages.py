"""The stages that look at every checkpoint of a run: probe and ablate. Both can be repeated and resumed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from mech_grok.array_store import StepStore
from mech_grok.errors import UserError
from mech_grok.interventions import ablate
from mech_grok.model import GrokTransformer
from mech_grok.probes import PROBES, measure
from mech_grok.progress import Progress, say
from mech_grok.run import Run
from mech_grok.run_writer import locked
from mech_grok.task import Split

Measurement = Callable[[GrokTransformer, dict[Split, np.ndarray]], dict[str, xr.Dataset]]
"""What is measured of one seed's model at one checkpoint: store name -> arrays."""


def probe_run(run: Run, names: Sequence[str] = ()) -> None:
    """Record probes (default: all) at every checkpoint and seed; what is there already is kept."""
    names = tuple(names) or tuple(PROBES)
    task = run.config.task.task

    def at_checkpoint(model: GrokTransformer, split: dict[Split, np.ndarray]) -> dict[str, xr.Dataset]:
        return measure(model, task, split, names)

    stores = {name: run.path / "probes" / f"{name}.zarr" for name in names}
    with _one_thread():
        _at_every_checkpoint(run, stores, at_checkpoint, "probes")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hooked passes go in small batches, over which several threads wait for each other more than they work.

    All probes of one checkpoint at p = 113 on two cores: 0.42 s with one thread and 0.52 s with two; beside
    one busy process 0.43 s and 0.66 s.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ablate_run(run: Run) -> None:
    """Score the ablation grid at every checkpoint and seed; what is there already is kept."""
    task = run.config.task.task

    def at_checkpoint(model: GrokTransformer, split: dict[Split, np.ndarray]) -> dict[str, xr.Dataset]:
        return {"ablations": ablate(model, task, split)}

    _at_every_checkpoint(run, {"ablations": run.path / "ablations.zarr"}, at_checkpoint, "ablations")


def _at_every_checkpoint(run: Run, paths: dict[str, Path], at_checkpoint: Measurement, what: str) -> None:
    """Fill each store with what `at_checkpoint` gives for every seed at every step that it lacks.

    The steps are those of the config: a checkpoint that a signal asked for is there to continue from.
    """
    if not run.steps:
        raise UserError(f"{run.path}: no checkpoints yet; train it first")
    planned = run.config.training.checkpoint_steps
    stores = {name: StepStore(path, run.seeds, planned) for name, path in paths.items()}
    with locked(run.path):
        missing = {s for store in stores.values() for s in store.missing_steps()} & set(run.steps)
        if not missing:
            say(f"{run.path}: {what} are there already")
            return
        with Progress(f"{run.name} {what}", len(missing), unit="checkpoint") as progress:
            for done, step in enumerate(sorted(missing), start=1):
                per_seed = [at_checkpoint(run.model(seed, step), run.split(seed)) for seed in run.seeds]
                for name, store in stores.items():
                    store.write(step, [arrays[name] for arrays in per_seed])
                progress.update(done)
