"""The training stage: from a config to a run directory with metrics and checkpoints. Can be resumed."""

import time
from pathlib import Path

import numpy as np
import torch

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.progress import Progress, say
from mech_grok.run import Run
from mech_grok.run_writer import (
    load_trainer,
    locked,
    prepare,
    record_environment,
    save_checkpoint,
    write_rows,
)
from mech_grok.signals import Interrupted, Requests, listening
from mech_grok.training.checkpoints import latest_resumable_step
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import Rows, Trainer

_LOOK_EVERY = 10
"""Training steps between two looks at progress."""


def train_cell(path: Path, config: CellConfig, resume: bool, command: str) -> Run:
    """Train a cell to its last step, or say that it is finished.

    Raises:
        UserError: another config or another process holds the directory, or it is unfinished and
            `resume` is false.
        Interrupted: a signal stopped it; its checkpoint is written.
    """
    check_device(config)
    with locked(path):
        prepare(path, config)
        run = Run(path)
        if run.is_trained:
            say(f"{run.path}: trained already ({run.steps_done:,} steps)")
            return run
        start = latest_resumable_step(run.checkpoint_folder)
        if start is not None and start > 0 and not resume:
            raise UserError(f"{path}: unfinished at step {start:,}; continue with --resume")
        _set_threads(config, run)
        record_environment(path, config, 0.0, command)
        trainer = _trainer(run, start)
        began = time.monotonic()
        try:
            _train(run, trainer)
        finally:
            record_environment(path, config, time.monotonic() - began, command)
    return run


def check_device(config: CellConfig) -> None:
    """Refuse a device that is not there."""
    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device: cuda asked for, but torch finds no CUDA device; allowed here: cpu")


def _set_threads(config: CellConfig, run: Run) -> None:
    """The configured thread count, else that of the run's first session: results depend on it bit for bit."""
    threads = config.training.threads or run.environment.get("threads")
    if threads:
        torch.set_num_threads(int(threads))
    if config.training.device == "cuda":
        torch.use_deterministic_algorithms(True)


def _trainer(run: Run, start: int | None) -> Trainer:
    if start is not None:
        return load_trainer(run.path, run.config, start)
    trainer = Trainer(run.config, ParameterStack.initial(run.config))
    save_checkpoint(run.path, trainer)
    return trainer


def _train(run: Run, trainer: Trainer) -> None:
    """Advance from checkpoint to checkpoint, until the last or until a signal says stop."""
    total = run.config.training.steps
    with listening() as requests, Progress(run.name, total, trainer.step) as progress:
        for goal in (s for s in run.config.training.checkpoint_steps if s > trainer.step):
            while trainer.step < goal:
                _advance(run, trainer, goal, requests, progress)
                if requests.stop_signal is not None:
                    raise Interrupted(requests.stop_signal, str(run.path))


def _advance(run: Run, trainer: Trainer, goal: int, requests: Requests, progress: Progress) -> None:
    """Train up to `goal`, or to a signal before it, and write what there is."""
    first = trainer.step + 1
    parts: list[Rows] = []
    while trainer.step < goal and not requests.pending():
        steps = min(_LOOK_EVERY - trainer.step % _LOOK_EVERY, goal - trainer.step)
        parts.append(trainer.advance(steps, stop=requests.pending))
        progress.update(trainer.step, _summary(parts[-1]))
    if parts:
        rows = {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}
        write_rows(run.path, first, rows)
        save_checkpoint(run.path, trainer)
        _warn_of_divergence(run, rows, first)
    requests.checkpoint = False


def _summary(rows: Rows) -> str:
    evaluated = rows["test_accuracy"][:, ~np.isnan(rows["test_accuracy"][0])]
    accuracy = f", test accuracy {evaluated[:, -1].mean():.3f}" if evaluated.size else ""
    return f"train loss {rows['train_loss'][:, -1].mean():.2e}{accuracy}"


def _warn_of_divergence(run: Run, rows: Rows, first: int) -> None:
    finite = np.isfinite(rows["train_loss"]) & np.isfinite(rows["weight_norm"])
    for seed, row in zip(run.seeds, finite, strict=True):
        if row.all() or (not row[0] and first > 1):
            continue
        say(f"{run.name}: seed {seed} diverged at step {first + int(row.argmin()):,}; the others go on")
