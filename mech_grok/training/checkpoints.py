"""Checkpoints as safetensors files that are whole or not there.

`step_000100.safetensors` holds the weights of all seeds after 100 updates under TransformerLens' names, each
[seed, ...]; `optimiser_000100.safetensors` the AdamW state. The weights are written last: a step counts as
done once its weights are there.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mech_grok.errors import UserError

_WEIGHTS = re.compile(r"step_(\d{6,})\.safetensors")


def weights_path(folder: Path, step: int) -> Path:
    """Where the weights after `step` updates are."""
    return folder / f"step_{step:06d}.safetensors"


def optimiser_path(folder: Path, step: int) -> Path:
    """Where the AdamW state after `step` updates is, if it was kept."""
    return folder / f"optimiser_{step:06d}.safetensors"


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors so that `path` is either the old file, if any, or the whole new one."""
    write_whole(path, save({n: t.detach().cpu().contiguous() for n, t in tensors.items()}))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        UserError: there is no such file, it is truncated, or it is not safetensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); delete it to continue from an earlier one"
        ) from None


def saved_steps(folder: Path) -> tuple[int, ...]:
    """Steps whose weights are on disk, ascending."""
    matches = (_WEIGHTS.fullmatch(p.name) for p in folder.iterdir()) if folder.is_dir() else ()
    return tuple(sorted(int(m[1]) for m in matches if m))


def check_step(path: Path, steps: Sequence[int], step: int) -> None:
    """Refuse a step that is not among the checkpoints of the run at `path`, which are `steps`, ascending.

    Raises:
        UserError: it is not; the message names the nearest below and above.
    """
    if step in steps:
        return
    if not steps:
        raise UserError(f"{path}: no checkpoints yet; train it first")
    below, above = [s for s in steps if s < step][-1:], [s for s in steps if s > step][:1]
    near = " and ".join(f"{s:,}" for s in (*below, *above)) + ("" if above else " (the last)")
    raise UserError(f"{path}: no checkpoint at step {step:,}; nearest: {near}")


def latest_resumable_step(folder: Path) -> int | None:
    """The last step from which training can continue: weights and optimiser state are both there."""
    steps = [s for s in saved_steps(folder) if s == 0 or optimiser_path(folder, s).is_file()]
    return steps[-1] if steps else None


def drop_optimiser_states(folder: Path, newest: int, keep_every: int) -> None:
    """Delete the optimiser states of steps before `newest` that are no multiple of `keep_every`.

    That of the first checkpoint stays: from there on everything can be had again.
    """
    for step in saved_steps(folder)[1:]:
        if step < newest and step % keep_every:
            optimiser_path(folder, step).unlink(missing_ok=True)


def check_shapes(path: Path, tensors: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    """Refuse a checkpoint of another architecture.

    Raises:
        UserError: a tensor is missing, not expected, or of the wrong shape.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(n for n in {*shapes, *expected} if shapes.get(n) != expected.get(n))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: {name} has shape {_show(shapes.get(name))}, "
            f"this run's model has {_show(expected.get(name))}"
        )


def _show(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))
