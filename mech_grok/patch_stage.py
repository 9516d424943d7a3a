"""Patching of one run into another at their checkpoints; can be repeated and resumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from mech_grok.array_store import StepStore, read_steps
from mech_grok.config import CellConfig
from mech_grok.config_difference import first_difference
from mech_grok.errors import UserError
from mech_grok.interventions import patching
from mech_grok.model import GrokTransformer
from mech_grok.parallel import in_order
from mech_grok.progress import Progress, say
from mech_grok.run import Run
from mech_grok.run_lock import locked
from mech_grok.training.checkpoints import check_step

_COMPARABLE = ("p", "operation", "test_fraction", "n_layers", "d_model", "n_heads", "mlp_ratio", "loss_scale")

_STEP = {"units": "step", "definition": "updates done before the checkpoint was written"}


class Pair(NamedTuple):
    """Checkpoints: the one that activations are taken from, and the one that they are put into."""

    clean: int
    corrupted: int


@dataclass(frozen=True)
class Plan:
    """What is patched into what.

    Attributes:
        clean: the run that activations are taken from.
        corrupted: the run that they are put into.
        seeds: those that both have.
        pairs: step of the result -> checkpoints, for every one that the configs foresee.
    """

    clean: Run
    corrupted: Run
    seeds: Sequence[int]
    pairs: Mapping[int, Pair]

    @property
    def steps_on_disk(self) -> list[int]:
        """Steps of the result whose two checkpoints are there."""
        return [
            step
            for step, (clean, corrupted) in self.pairs.items()
            if clean in self.clean.steps and corrupted in self.corrupted.steps
        ]


Models = dict[int, tuple[GrokTransformer, GrokTransformer]]
"""Seed -> clean and corrupted model."""


def patch_run(clean: Run, corrupted: Run, clean_step: int | None = None, step: int | None = None) -> Path:
    """Patch the clean run's models into the corrupted run's; what is there already is kept.

    Each seed that both have is patched at every checkpoint step that both have; a step that is given fixes
    the checkpoint of that run, and the other run goes through its own checkpoints.

    Args:
        clean: whose activations are taken.
        corrupted: that they are put into.
        clean_step: the one checkpoint of the clean run.
        step: the one checkpoint of the corrupted run.

    Returns:
        Where the results are, below the corrupted run; its `Run.patching` reads them by the file's stem.

    Raises:
        UserError: the runs have other tasks, sizes, splits, no common seed or step, or no such checkpoint.
    """
    plan = _plan(clean, corrupted, clean_step, step)
    fixed = {"clean-step": clean_step, "step": step}
    name = "_".join([clean.name, *(f"{key}={value}" for key, value in fixed.items() if value is not None)])
    store = StepStore(corrupted.path / "patching" / f"{name}.zarr", plan.seeds, list(plan.pairs))
    with locked(corrupted.path):
        _check_same_clean(store, clean)
        lacking = set(store.missing_steps())
        _fill(store, plan, [at for at in plan.steps_on_disk if at in lacking])
    return store.path


def _fill(store: StepStore, plan: Plan, steps: Sequence[int]) -> None:
    """Patch at these steps, several at once, and write each as soon as it is done."""
    if not steps:
        say(f"{store.path}: there already")
        return

    def at_step(item: tuple[int, Models]) -> tuple[int, list[xr.Dataset]]:
        step, models = item
        return step, [_patched(plan, step, seed, *of_seed) for seed, of_seed in models.items()]

    store.path.parent.mkdir(exist_ok=True)
    label = f"{plan.clean.name} into {plan.corrupted.name}"
    with Progress(label, len(steps), unit="checkpoint") as progress:
        found = in_order(((step, _models(plan, step)) for step in steps), at_step)
        for done, (step, per_seed) in enumerate(found, start=1):
            store.write(step, per_seed)
            progress.update(done)


def _models(plan: Plan, step: int) -> Models:
    """The models of a step, its own also where one checkpoint serves all: hooks serve one pass at a time."""
    clean, corrupted = plan.pairs[step]
    return {
        seed: (plan.clean.model(seed, clean), plan.corrupted.model(seed, corrupted)) for seed in plan.seeds
    }


def _patched(
    plan: Plan, step: int, seed: int, clean: GrokTransformer, corrupted: GrokTransformer
) -> xr.Dataset:
    """The components patched, with the checkpoints and the clean run that they are from."""
    found = patching(clean, corrupted, plan.corrupted.config.task.task, plan.corrupted.split(seed))
    checkpoints = {
        f"{which}_step": ((), float(at), {**_STEP, "long_name": f"checkpoint of the {which} run"})
        for which, at in plan.pairs[step]._asdict().items()
    }
    of = {"clean": plan.clean.name, "clean_config": plan.clean.config.model_dump_json()}
    return found.assign(checkpoints).assign_attrs(of)


def _plan(clean: Run, corrupted: Run, clean_step: int | None, step: int | None) -> Plan:
    """What is to be patched, if the two runs fit."""
    for run, fixed in ((clean, clean_step), (corrupted, step)):
        check_step(run.path, run.steps, run.steps_done if fixed is None else fixed)
    seeds = _common_seeds(clean, corrupted)
    _check_comparable(clean, corrupted, seeds)
    if clean_step == step and clean.path.resolve() == corrupted.path.resolve():
        raise UserError(
            f"{clean.path}: patching a checkpoint into itself changes nothing; give --clean-step or --step"
        )
    plan = Plan(clean, corrupted, seeds, _pairs(clean.config, corrupted.config, clean_step, step))
    if not plan.steps_on_disk:
        raise UserError(
            f"{clean.path} and {corrupted.path} have no checkpoint step in common; "
            "give --clean-step, --step or both"
        )
    return plan


def _common_seeds(clean: Run, corrupted: Run) -> list[int]:
    seeds = [seed for seed in corrupted.seeds if seed in clean.seeds]
    if not seeds:
        ours, theirs = (", ".join(map(str, run.seeds)) for run in (corrupted, clean))
        raise UserError(f"no seed in both {clean.path} ({theirs}) and {corrupted.path} ({ours})")
    return seeds


def _check_comparable(clean: Run, corrupted: Run, seeds: Sequence[int]) -> None:
    """Refuse runs whose activations do not fit each other, or that hold out other pairs."""
    for what in _COMPARABLE:
        theirs, ours = (_setting(run.config, what) for run in (clean, corrupted))
        if theirs != ours:
            raise UserError(
                f"{clean.path} has {what} {theirs}, {corrupted.path} has {ours}; patching needs the same "
                f"{', '.join(_COMPARABLE)}"
            )
    for seed in seeds:
        theirs, ours = (run.config.training.split_seed(seed) for run in (clean, corrupted))
        if theirs != ours:
            raise UserError(
                f"seed {seed} is split by data_seed {theirs} in {clean.path}, by {ours} in {corrupted.path}; "
                "patching needs the same training pairs"
            )


def _setting(config: CellConfig, name: str) -> object:
    return getattr(config.task if hasattr(config.task, name) else config.model, name)


def _pairs(
    clean: CellConfig, corrupted: CellConfig, clean_step: int | None, step: int | None
) -> dict[int, Pair]:
    """Step of the result -> checkpoints: of the run that is not fixed, if one is."""
    if clean_step is not None:
        steps = corrupted.checkpoint_steps if step is None else (step,)
        return {s: Pair(clean_step, s) for s in steps}
    if step is not None:
        return {s: Pair(s, step) for s in clean.checkpoint_steps}
    return {s: Pair(s, s) for s in corrupted.checkpoint_steps if s in clean.checkpoint_steps}


def _check_same_clean(store: StepStore, clean: Run) -> None:
    """Refuse to go on with what was taken from another run of the same name."""
    if not store.path.exists():
        return
    recorded = CellConfig.model_validate_json(read_steps(store.path).attrs["clean_config"])
    difference = first_difference(recorded, clean.config)
    if difference:
        raise UserError(f"{store.path}: taken from another run ({difference}); delete it to record it anew")
