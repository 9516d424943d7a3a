"""The stages that look at every checkpoint of a run: probe and ablate. Both can be repeated and resumed."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
import xarray as xr

from mech_grok.array_store import StepStore
from mech_grok.errors import UserError
from mech_grok.interventions import ablate
from mech_grok.model import GrokTransformer
from mech_grok.probes import PROBES, Anchor, Anchors, find_probe, measure
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import observe
from mech_grok.progress import Progress, say
from mech_grok.run import Run
from mech_grok.run_writer import locked

T = TypeVar("T")

_MOST_AT_ONCE = 8  # a checkpoint in work at p = 113 takes about 0.6 GiB

Models = dict[int, GrokTransformer]
"""Seed -> its model at one checkpoint."""

Measurement = Callable[[int, GrokTransformer, Sequence[str]], Mapping[str, xr.Dataset]]
"""What is measured of one seed's model at one checkpoint: (seed, model, stores) -> store name -> arrays."""


def probe_run(run: Run, names: Sequence[str] = ()) -> None:
    """Record probes (default: all) at every checkpoint and seed; what is there already is kept.

    What a probe reads of the last checkpoint is read of the last one on disk; where a run has gone on since,
    such probes are measured again.
    """
    names = tuple(dict.fromkeys(names)) or tuple(PROBES)
    stores = {name: _store(run, f"probes/{name}.zarr") for name in map(_known, names)}
    final = _checkpoints(run)[-1]
    lacking = {
        name: store.missing_steps(**({"final_step": final} if PROBES[name].reads_final else {}))
        for name, store in stores.items()
    }
    anchors = {seed: _anchors(run, seed, final, names) for seed in run.seeds}

    def at_checkpoint(seed: int, model: GrokTransformer, asked: Sequence[str]) -> Mapping[str, xr.Dataset]:
        found = measure(model, run.config.task.task, run.split(seed), asked, anchors[seed])
        return {name: _with_final_step(data, name, final) for name, data in found.items()}

    _at_every_checkpoint(run, stores, lacking, at_checkpoint, "probes")


def ablate_run(run: Run) -> None:
    """Score the ablation grid at every checkpoint and seed; what is there already is kept."""
    store = _store(run, "ablations.zarr")

    def at_checkpoint(seed: int, model: GrokTransformer, asked: Sequence[str]) -> Mapping[str, xr.Dataset]:
        return {"ablations": ablate(model, run.config.task.task, run.split(seed))}

    _at_every_checkpoint(
        run, {"ablations": store}, {"ablations": store.missing_steps()}, at_checkpoint, "ablations"
    )


def _store(run: Run, name: str) -> StepStore:
    """The steps are those of the config: a checkpoint that a signal asked for is there to continue from."""
    return StepStore(run.path / name, run.seeds, run.config.checkpoint_steps)


def _known(name: str) -> str:
    return find_probe(name).name


def _checkpoints(run: Run) -> list[int]:
    """The scheduled checkpoints on disk.

    Raises:
        UserError: there is none.
    """
    if not run.steps:
        raise UserError(f"{run.path}: no checkpoints yet; train it first")
    return sorted(set(run.config.checkpoint_steps) & set(run.steps))


def _anchors(run: Run, seed: int, final: int, names: Sequence[str]) -> Anchors:
    probes = [find_probe(name) for name in names]

    def at(step: int) -> Anchor:
        model = run.model(seed, step)
        needs = needs_of(probes, model)
        return Anchor(partial(observe, model, run.config.task.task, run.split(seed), needs))

    return Anchors(initial=at(0), final=at(final))


def _with_final_step(data: xr.Dataset, name: str, final: int) -> xr.Dataset:
    if not PROBES[name].reads_final:
        return data
    what = {"long_name": "last checkpoint", "units": "step", "definition": "Where key frequencies are from."}
    return data.assign(final_step=((), float(final), what))


def _at_every_checkpoint(
    run: Run,
    stores: Mapping[str, StepStore],
    lacking: Mapping[str, Sequence[int]],
    at_checkpoint: Measurement,
    what: str,
) -> None:
    """Fill each store at the steps that it lacks, with what `at_checkpoint` gives for every seed there."""
    with locked(run.path):
        steps = sorted({step for missing in lacking.values() for step in missing} & set(_checkpoints(run)))
        if not steps:
            say(f"{run.path}: {what} are there already")
            return

        def at_step(step: int, models: Models) -> dict[str, list[xr.Dataset]]:
            asked = [name for name, missing in lacking.items() if step in missing]
            per_seed = [at_checkpoint(seed, model, asked) for seed, model in models.items()]
            return {name: [arrays[name] for arrays in per_seed] for name in asked}

        with Progress(f"{run.name} {what}", len(steps), unit="checkpoint") as progress:
            for done, (step, found) in enumerate(_in_parallel(run, steps, at_step), start=1):
                for name, per_seed in found.items():
                    stores[name].write(step, per_seed)
                progress.update(done)


def _in_parallel(
    run: Run, steps: Sequence[int], at_step: Callable[[int, Models], T]
) -> Iterator[tuple[int, T]]:
    """What `at_step` gives at each step, in order; as many at once as there are threads.

    Hooked passes go in small batches, over which the threads of one pass wait for each other more than they
    work, so each checkpoint gets one thread. Models are built here: TransformerLens' warnings are silenced
    for the whole process while one is.
    """
    with _one_thread() as threads, ThreadPoolExecutor(min(threads, _MOST_AT_ONCE)) as pool:
        waiting: deque[tuple[int, Future[T]]] = deque()
        try:
            for step in steps:
                models = {seed: run.model(seed, step) for seed in run.seeds}
                waiting.append((step, pool.submit(at_step, step, models)))
                if len(waiting) > min(threads, _MOST_AT_ONCE):  # one more, so that nobody idles meanwhile
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _result(done: "tuple[int, Future[T]]") -> tuple[int, T]:
    step, future = done
    return step, future.result()


@contextmanager
def _one_thread() -> Iterator[int]:
    """One thread per torch operation inside; gives the number that there was before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
