"""Writing a run directory: one writer at a time, and nothing half-written."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.environment import describe_environment
from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.training.checkpoints import (
    drop_optimiser_states,
    load_tensors,
    optimiser_path,
    save_tensors,
    weights_path,
    write_whole,
)
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import COLUMNS, Rows, Trainer

_LONG_NAMES = {
    "train_loss": ("train loss before the update", "nats"),
    "train_accuracy": ("train accuracy before the update", "share"),
    "grad_norm": ("L2 norm of the gradient", "1"),
    "weight_norm": ("L2 norm of all trained parameters before the update", "1"),
    "update_norm": ("L2 norm of the update, weight decay included", "1"),
    "test_loss": ("test loss after the update", "nats"),
    "test_accuracy": ("test accuracy after the update", "share"),
}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run directory for writing; the lock goes with the process, however that ends.

    Raises:
        UserError: another process is writing there.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: another process is writing this run") from None
        yield


def prepare(path: Path, config: CellConfig) -> None:
    """Make the directory a run of this config, with metrics laid out; does nothing if it is one already.

    Raises:
        UserError: the directory holds a run of another config.
    """
    if (path / "config.yaml").exists():
        check_same_config(path, config)
    else:
        write_whole(path / "config.yaml", to_yaml(config).encode())
    if not (path / "metrics.zarr").exists():
        _lay_out_metrics(path / "metrics.zarr", config)


def check_same_config(path: Path, config: CellConfig) -> None:
    """Refuse to write into the run of another config.

    Raises:
        UserError: the directory's config differs; the message names the first key that does.
    """
    difference = first_difference(Run(path).config, config)
    if difference:
        raise UserError(
            f"{path} holds a run of another config ({difference}); choose another study=NAME or --out"
        )


def first_difference(old: CellConfig, new: CellConfig) -> str | None:
    """The first key whose values differ, as `model.placement: mlp-pre here, off asked for`; None if equal."""
    there, asked = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    for key, value in there.items():
        if asked[key] != value:
            return f"{key}: {value} there, {asked[key]} asked for"
    return None


def _flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _lay_out_metrics(path: Path, config: CellConfig) -> None:
    """Create all rows, empty, under a temporary name, and rename; a chunk holds one checkpoint interval."""
    training = config.training
    steps = np.arange(1, training.steps + 1)
    shape = (len(training.seeds), training.steps)
    empty = xr.Dataset(
        {
            name: (("seed", "step"), np.full(shape, np.nan), {"long_name": text, "units": unit})
            for name, (text, unit) in _LONG_NAMES.items()
        },
        coords={
            "seed": list(training.seeds),
            "step": steps,
            "evaluated": ("step", np.array([training.is_evaluated(int(s)) for s in steps])),
        },
    )
    chunk = {"chunks": (len(training.seeds), min(training.checkpoint_every, training.steps))}
    temporary = path.with_name(f".{path.name}.partial")
    empty.to_zarr(
        temporary, mode="w", encoding=dict.fromkeys(COLUMNS, chunk), consolidated=False, zarr_format=3
    )
    temporary.rename(path)


def write_rows(path: Path, first_step: int, rows: Rows) -> None:
    """Write consecutive metric rows; the first is that of `first_step` (1-based)."""
    group = zarr.open_group(path / "metrics.zarr", mode="r+")
    for name, values in rows.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        array[:, first_step - 1 : first_step - 1 + values.shape[1]] = values


def save_checkpoint(path: Path, trainer: Trainer) -> None:
    """Write optimiser state, then weights; older optimiser states are thinned after that."""
    folder, step = path / "checkpoints", trainer.step
    state = trainer.optimiser_state()
    if state:
        save_tensors(optimiser_path(folder, step), state)
    parameters = trainer.parameters
    save_tensors(weights_path(folder, step), {**parameters.named(), **parameters.frozen})
    drop_optimiser_states(folder, step, trainer.config.training.optimiser_state_every)


def load_trainer(path: Path, config: CellConfig, step: int) -> Trainer:
    """The trainer as it was after `step` updates."""
    folder = path / "checkpoints"
    weights = load_tensors(weights_path(folder, step))
    initial = ParameterStack.initial(config)
    own = {**initial.named(), **initial.frozen}
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    trainer = Trainer(config, initial, step)
    trainer.load_optimiser_state(load_tensors(optimiser_path(folder, step)) if step else {})
    return trainer


def record_environment(path: Path, config: CellConfig, seconds: float, command: str) -> None:
    """Add a training session's wall time to `environment.json`, with versions and hardware."""
    before = Run(path).environment
    content = {
        **describe_environment(config.training.device),
        "command": before.get("command", command),
        "stack_size": len(config.training.seeds),
        "wall_seconds": round(before.get("wall_seconds", 0.0) + seconds, 3),
    }
    write_whole(path / "environment.json", json.dumps(content, indent=2).encode())
