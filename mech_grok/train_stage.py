"""The training stage: from a config to a run directory with metrics and checkpoints. Can be resumed."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mech_grok.config import CellConfig
from mech_grok.config_difference import check_same_config
from mech_grok.errors import UserError
from mech_grok.followed_curve import curve_to_follow
from mech_grok.progress import Progress, say
from mech_grok.run import Run
from mech_grok.run_lock import locked
from mech_grok.run_writer import (
    add_wall_time,
    begin_session,
    load_trainer,
    prepare,
    save_checkpoint,
    write_rows,
)
from mech_grok.signals import Interrupted, Requests, listening
from mech_grok.surgery.fork import fork
from mech_grok.training.checkpoints import latest_resumable_step, saved_steps
from mech_grok.training.entropy_curve import EntropyCurve
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
    check_cell(path, config, resume)
    with locked(path):
        prepare(path, config)
        run = Run(path)
        if run.is_trained:
            say(f"{run.path}: trained already ({run.steps_done:,} steps)")
            return run
        _make_repeatable(config, run)
        trainer = _trainer(run)
        _say_how_it_goes_on(run, trainer.step, begin_session(path, config, trainer.step, command))
        began = time.monotonic()
        try:
            _train(run, trainer)
        finally:
            add_wall_time(path, time.monotonic() - began)
    return run


def check_cell(path: Path, config: CellConfig, resume: bool) -> None:
    """Refuse what cannot be trained, before anything is written.

    Raises:
        UserError: the device is not there, the directory holds another config, or it is unfinished and
            `resume` is false.
    """
    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device: cuda asked for, but torch finds no CUDA device; allowed here: cpu")
    if (path / "config.yaml").exists():
        check_same_config(path, config)
        run = Run(path)
        if run.rows_done and not run.is_trained and not resume:
            raise UserError(f"{path}: unfinished at step {run.steps_done:,}; continue with --resume")
    elif saved_steps(path / "checkpoints"):
        raise UserError(
            f"{path}: checkpoints of an unknown config, config.yaml is gone; choose another --out"
        )


def _make_repeatable(config: CellConfig, run: Run) -> None:
    """The configured thread count, else that of the run's first session: results depend on it bit for bit.

    A run that begins from another one takes that one's.
    """
    recorded = run.environment or (run.parent.environment if run.parent else {})
    threads = config.training.threads or recorded.get("threads")
    if threads:
        torch.set_num_threads(int(threads))
    if config.training.device == "cuda":
        repeatable_on_gpu()


def repeatable_on_gpu() -> None:
    """The same bits from every run on one GPU; to be called before the first operation there."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written; filling it would be a launch for every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def _trainer(run: Run) -> Trainer:
    """The trainer at the last step from which training can continue, else at the run's first."""
    start = latest_resumable_step(run.checkpoint_folder)
    if start is not None:
        return load_trainer(run.path, run.config, start)
    curve = curve_to_follow(run.path, run.config)
    trainer = _forked(run, curve) if run.config.surgery else _begun(run.config, curve)
    save_checkpoint(run.path, trainer)
    return trainer


def _begun(config: CellConfig, curve: EntropyCurve | None) -> Trainer:
    return Trainer(config, ParameterStack.initial(config), curve=curve)


def _forked(run: Run, curve: EntropyCurve | None) -> Trainer:
    begun = fork(run)
    assert run.parent_config is not None
    solved = run.parent_config.training.follow_entropy is not None
    trainer = Trainer(run.config, begun.parameters, run.config.first_step, curve=curve, solved=solved)
    trainer.update.load_state(begun.optimiser_state)
    return trainer


def _say_how_it_goes_on(run: Run, step: int, changed: dict[str, Any]) -> None:
    if run.rows_done:
        lost = "" if step == run.steps_done else f" (no optimiser state at step {run.steps_done:,})"
        say(f"{run.name}: continues from step {step:,}{lost}")
    if changed:
        what = ", ".join(f"{name} is now {value}" for name, value in changed.items())
        say(f"{run.name}: not what it began on ({what}): from here on, last bits may differ")


def _train(run: Run, trainer: Trainer) -> None:
    """Advance from checkpoint to checkpoint, until the last or until a signal says stop."""
    total = run.config.training.steps
    with listening() as requests, Progress(run.name, total, trainer.step) as progress:
        for goal in (s for s in run.config.checkpoint_steps if s > trainer.step):
            while trainer.step < goal:
                _advance(run, trainer, goal, requests, progress)
                if requests.stop_signal is not None:
                    raise Interrupted(requests.stop_signal, f"--resume: {run.path}")


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
        for note in _divergences(run.seeds, rows, first):
            say(f"{run.name}: {note}")
    requests.checkpoint = False


def _summary(rows: Rows) -> str:
    evaluated = rows["test_accuracy"][:, ~np.isnan(rows["test_accuracy"][0])]
    accuracy = f", test accuracy {evaluated[:, -1].mean():.3f}" if evaluated.size else ""
    return f"train loss {rows['train_loss'][:, -1].mean():.2e}{accuracy}"


def _divergences(seeds: tuple[int, ...], rows: Rows, first: int) -> list[str]:
    """A line for every seed that diverges in these rows; one that came with bad weights did so before."""
    columns = ("train_loss", "grad_norm", "update_norm")
    bad = np.logical_or.reduce([~np.isfinite(rows[name]) for name in columns])
    new = bad.any(axis=1) & np.isfinite(rows["weight_norm"][:, 0])
    return [
        f"seed {seed} diverged at step {first + int(row.argmax()):,}; the others go on"
        for seed, row, is_new in zip(seeds, bad, new, strict=True)
        if is_new
    ]
