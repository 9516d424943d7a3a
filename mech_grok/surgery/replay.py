"""AdamW's state at a checkpoint that was saved without it: trained again from the last one that has it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mech_grok.environment import describe_environment, differences
from mech_grok.errors import UserError
from mech_grok.progress import Progress, say
from mech_grok.run import Run
from mech_grok.run_writer import load_trainer
from mech_grok.training.checkpoints import optimiser_path
from mech_grok.training.trainer import Trainer

_LOOK_EVERY = 10
"""Training steps between two looks at progress."""

_OTHERWISE = "begin with an empty one (surgery.optimiser=reset, --optimiser reset)"


def trainer_at(run: Run, step: int) -> tuple[Trainer, int]:
    """The trainer as it was after `step` updates, AdamW's state included, and the step it was loaded from.

    Where that state is not on disk, the steps from the last one that has it are done again in memory, with
    the thread count of the run.

    Raises:
        UserError: a checkpoint is damaged, or the weights come out otherwise than they were saved.
    """
    start = max((s for s in run.steps if s <= step and (s == 0 or _has_state(run, s))), default=None)
    if start is None:
        raise UserError(f"{run.path}: no optimiser state up to step {step:,}; {_OTHERWISE}")
    with _threads_of(run):
        trainer = load_trainer(run.path, run.config, start)
        if start < step:
            _replay(run, trainer, step)
    return trainer, start


def _has_state(run: Run, step: int) -> bool:
    return optimiser_path(run.checkpoint_folder, step).is_file()


def _replay(run: Run, trainer: Trainer, step: int) -> None:
    say(f"{run.path}: no optimiser state at step {step:,}; replaying from step {trainer.step:,}")
    with Progress(f"{run.name} replayed", step, trainer.step) as progress:
        while trainer.step < step:
            trainer.advance(min(_LOOK_EVERY, step - trainer.step))
            progress.update(trainer.step)
    stored, replayed = run.weights(step), trainer.parameters.named()
    if not all(_same(replayed[name].cpu(), stored[name]) for name in replayed):
        raise UserError(
            f"{run.path}: replayed to step {step:,}, the weights differ from those saved{_why(run)}; use a "
            f"step whose optimiser state was kept, or {_OTHERWISE}"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal to the last bit; what has diverged is equal too."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _why(run: Run) -> str:
    now = {**describe_environment(run.config.training.device), "stack_size": len(run.seeds)}
    changed = differences(run.environment, now)
    listed = ", ".join(f"{name} was {run.environment[name]}, is {value}" for name, value in changed.items())
    return f" ({listed})" if listed else ""


@contextmanager
def _threads_of(run: Run) -> Iterator[None]:
    """As many threads as the run was trained with: its bits depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(run.config.training.threads or run.environment.get("threads", before)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
