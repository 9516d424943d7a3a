"""Writing a run directory, nothing of it half-written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr
from torch import Tensor

from mech_grok.array_store import undamaged
from mech_grok.config import CellConfig
from mech_grok.config_difference import check_same_config
from mech_grok.config_file import to_yaml
from mech_grok.environment import describe_environment, differences
from mech_grok.factor_record import write_factors
from mech_grok.followed_curve import curve_to_follow
from mech_grok.model import GrokTransformer
from mech_grok.model.parameter_groups import parameter_groups
from mech_grok.run import Run
from mech_grok.signals import held
from mech_grok.training.checkpoints import (
    check_shapes,
    drop_optimiser_states,
    load_tensors,
    optimiser_path,
    save_tensors,
    weights_path,
    write_whole,
)
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import COLUMNS, GROUP_COLUMNS, Rows, Trainer

_LONG_NAMES = {
    "train_loss": ("train loss before the update", "nats"),
    "train_accuracy": ("train accuracy before the update", "share"),
    "grad_norm": ("L2 norm of the gradient", "1"),
    "weight_norm": ("L2 norm of all trained parameters before the update", "1"),
    "update_norm": ("L2 norm of the update, weight decay included", "1"),
    "test_loss": ("test loss after the update", "nats"),
    "test_accuracy": ("test accuracy after the update", "share"),
    "group_grad_norm": ("L2 norm of the gradient, by part of the model", "1"),
    "group_weight_norm": ("L2 norm of the trained parameters before the update, by part", "1"),
    "group_update_norm": ("L2 norm of the update, weight decay included, by part", "1"),
}


def prepare(path: Path, config: CellConfig) -> None:
    """Make the directory a run of this config, with metrics laid out; does nothing if it is one already.

    Raises:
        UserError: the directory holds a run of another config.
    """
    if (path / "config.yaml").exists():
        check_same_config(path, config)
        return
    _lay_out_rows(path / "metrics.zarr", config, COLUMNS)
    _lay_out_rows(path / "norms.zarr", config, GROUP_COLUMNS, group=_groups(config))
    write_whole(path / "config.yaml", to_yaml(config).encode())  # last: it makes the directory a run


def _groups(config: CellConfig) -> list[str]:
    """The parts of a model of this config, as a store's labels."""
    return list(parameter_groups(GrokTransformer(config.model, config.task.p).trained_parameters()))


def _lay_out_rows(path: Path, config: CellConfig, columns: Sequence[str], **labels: list[str]) -> None:
    """Create all rows, empty: one for each step that this run does; a chunk holds one checkpoint interval."""
    training = config.training
    steps = np.arange(config.first_step + 1, training.steps + 1)
    dims = ("seed", "step", *labels)
    sizes = [len(of_dim) for of_dim in labels.values()]
    nothing = np.full((len(training.seeds), len(steps), *sizes), np.nan)
    empty = xr.Dataset(
        {
            name: (dims, nothing, dict(zip(("long_name", "units"), _LONG_NAMES[name], strict=True)))
            for name in columns
        },
        coords={
            "seed": list(training.seeds),
            "step": steps,
            "evaluated": ("step", np.array([training.is_evaluated(int(s)) for s in steps])),
            **{dim: np.array(of_dim, dtype=object) for dim, of_dim in labels.items()},
        },
    )
    chunk = {"chunks": (len(training.seeds), min(training.checkpoint_every, len(steps)), *sizes)}
    with held():
        empty.to_zarr(
            path, mode="w", encoding=dict.fromkeys(columns, chunk), consolidated=False, zarr_format=3
        )


def write_rows(path: Path, first_step: int, rows: Rows) -> None:
    """Write consecutive rows of metrics and norms; the first is that of step `first_step`."""
    for store, columns in (("metrics", COLUMNS), ("norms", GROUP_COLUMNS)):
        with undamaged(path / f"{store}.zarr"):
            group = zarr.open_group(path / f"{store}.zarr", mode="r+")
            start = first_step - int(np.asarray(_array(group, "step")[0]))
            for name in columns:
                _array(group, name)[:, start : start + rows[name].shape[1]] = rows[name]


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def save_checkpoint(path: Path, trainer: Trainer) -> None:
    """Write solved factors, optimiser state, then weights; older optimiser states are thinned after that."""
    folder, step = path / "checkpoints", trainer.step
    write_factors(path, trainer.config, trainer.take_solved())
    state = trainer.update.state()
    if state:
        save_tensors(optimiser_path(folder, step), state)
    parameters = trainer.parameters
    save_tensors(weights_path(folder, step), {**parameters.named(), **parameters.frozen})
    drop_optimiser_states(folder, step, trainer.config.training.optimiser_state_every)


def load_trainer(path: Path, config: CellConfig, step: int) -> Trainer:
    """The trainer as it was after `step` updates.

    Raises:
        UserError: weights or optimiser state are damaged, or not of this config; or the entropies that the
            run follows are gone.
    """
    folder = path / "checkpoints"
    initial = _load_parameters(folder, config, 0) if config.training.subtract_initial_prediction else None
    parameters = _load_parameters(folder, config, step)
    trainer = Trainer(config, parameters, step, initial, curve_to_follow(path, config), solved=True)
    if step:
        moment = parameters.flat
        like = {"exp_avg": moment, "exp_avg_sq": moment, "step": torch.tensor(0.0)}
        trainer.update.load_state(_load_like(optimiser_path(folder, step), like))
    return trainer


def _load_parameters(folder: Path, config: CellConfig, step: int) -> ParameterStack:
    parameters = ParameterStack.initial(config)
    own = {**parameters.named(), **parameters.frozen}
    weights = _load_like(weights_path(folder, step), own)
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    return parameters


def _load_like(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = load_tensors(path)
    check_shapes(path, tensors, {name: tensor.shape for name, tensor in like.items()})
    return tensors


def begin_session(path: Path, config: CellConfig, step: int, command: str) -> dict[str, Any]:
    """Record what a training session runs on in `environment.json`, which keeps what the first ran on.

    Args:
        step: updates done when the session begins.

    Returns:
        What differs from the first session (name -> value now), so that bits may differ from here on.
    """
    now = {**describe_environment(config.training.device), "stack_size": len(config.training.seeds)}
    first = Run(path).environment if step > config.first_step else {}
    content = {**now, "command": command, "wall_seconds": 0.0, **first}
    changed = differences(first, now)
    if changed:
        content["continued"] = [*first.get("continued", []), {"step": step, **changed}]
    _write_environment(path, content)
    return changed


def add_wall_time(path: Path, seconds: float) -> None:
    """Add a training session's wall time to `environment.json`."""
    content = Run(path).environment
    _write_environment(path, {**content, "wall_seconds": round(content["wall_seconds"] + seconds, 3)})


def _write_environment(path: Path, content: dict[str, Any]) -> None:
    write_whole(path / "environment.json", json.dumps(content, indent=2).encode())
