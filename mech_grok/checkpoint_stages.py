"""The stages that look at every checkpoint of a run: probe and ablate. Both can be repeated and resumed."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import xarray as xr

from mech_grok.array_store import StepStore
from mech_grok.errors import UserError
from mech_grok.interventions import ablate
from mech_grok.model import GrokTransformer
from mech_grok.parallel import in_order
from mech_grok.probes import PROBES, Anchor, Anchors, find_probe, measure
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import observe
from mech_grok.progress import Progress, say
from mech_grok.recorded import ablation_store, lacking_ablations, lacking_probes, probe_store
from mech_grok.run import Run
from mech_grok.run_lock import locked

Models = dict[int, GrokTransformer]
"""Seed -> its model at one checkpoint."""

Measurement = Callable[[int, GrokTransformer, Sequence[str]], Mapping[str, xr.Dataset]]
"""What is measured of one seed's model at one checkpoint: (seed, model, stores) -> store name -> arrays."""


def probe_run(run: Run, names: Sequence[str] = ()) -> None:
    """Record probes (default: all) at every checkpoint and seed; what is there already is kept.

    What a probe reads of the last checkpoint is read of the last one on disk; where a run has gone on since,
    such probes are measured again.
    """
    final = _checkpoints(run)[-1]
    chosen = [find_probe(name).name for name in dict.fromkeys(names)] or list(PROBES)
    lacking = lacking_probes(run, chosen, final)
    stores = {name: probe_store(run, name) for name in lacking}
    anchors = {seed: _anchors(run, seed, final, chosen) for seed in run.seeds}

    def at_checkpoint(seed: int, model: GrokTransformer, asked: Sequence[str]) -> Mapping[str, xr.Dataset]:
        found = measure(model, run.config.task.task, run.split(seed), asked, anchors[seed])
        return {
            name: _with_final_step(data, final) if PROBES[name].reads_final else data
            for name, data in found.items()
        }

    _at_every_checkpoint(run, stores, lacking, at_checkpoint, "probes")


def ablate_run(run: Run) -> None:
    """Score the ablation grid at every checkpoint and seed; what is there already is kept.

    Key frequencies are those of the last checkpoint on disk; where a run has gone on since, every checkpoint
    is scored again.
    """
    final = _checkpoints(run)[-1]
    anchors = {seed: _anchors(run, seed, final, ["key_frequencies"]) for seed in run.seeds}

    def at_checkpoint(seed: int, model: GrokTransformer, asked: Sequence[str]) -> Mapping[str, xr.Dataset]:
        found = ablate(model, run.config.task.task, run.split(seed), anchors[seed])
        return {"ablations": _with_final_step(found, final)}

    lacking, stores = {"ablations": lacking_ablations(run, final)}, {"ablations": ablation_store(run)}
    _at_every_checkpoint(run, stores, lacking, at_checkpoint, "ablations")


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

    return Anchors(initial=at(run.config.first_step), final=at(final))


def _with_final_step(data: xr.Dataset, final: int) -> xr.Dataset:
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

        def at_step(item: tuple[int, Models]) -> tuple[int, dict[str, list[xr.Dataset]]]:
            step, models = item
            asked = [name for name, missing in lacking.items() if step in missing]
            per_seed = [at_checkpoint(seed, model, asked) for seed, model in models.items()]
            return step, {name: [arrays[name] for arrays in per_seed] for name in asked}

        with_models = ((step, {seed: run.model(seed, step) for seed in run.seeds}) for step in steps)

        with Progress(f"{run.name} {what}", len(steps), unit="checkpoint") as progress:
            for done, (step, found) in enumerate(in_order(with_models, at_step), start=1):
                for name, per_seed in found.items():
                    stores[name].write(step, per_seed)
                progress.update(done)
