"""Small trainings behind a URL, and what is in a folder."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

from mech_grok.array_store import load_store
from mech_grok.config import CellConfig
from mech_grok.run import Run
from mech_grok.sweep.places import mirror, scratch
from mech_grok.sweep.places.copying import files_in
from mech_grok.train_stage import train_cell

CELL: dict[str, Any] = {
    "task": {"p": 11},
    "model": {"d_model": 16, "n_heads": 2, "attention_factor": 1.0},
    "training": {
        "steps": 20,
        "seeds": [3, 1],
        "checkpoint_every": 5,
        "optimiser_state_every": 10,
        "threads": 1,
        "follow_entropy": {"of": 0.9, "every": 5},
    },
}


"""A training that writes all that one can write: rows, solved factors, optimiser states that are thinned."""


def empty_scratch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder for temporary files; what cannot be written is tried again at once."""
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(mirror, "_PAUSES_S", (0.0,))
    scratch.slot_for_good.cache_clear()
    return folder


def train(path: Path) -> Run:
    return train_cell(path, CellConfig.model_validate(CELL), resume=True, command="test")


def assert_same(run: Run, other: Run) -> None:
    """All that was computed is equal to the last bit."""
    assert run.steps == other.steps
    for name in ("metrics", "norms", "attention_factor"):
        xr.testing.assert_identical(
            load_store(run.path / f"{name}.zarr"), load_store(other.path / f"{name}.zarr")
        )
    for step in run.steps:
        weights, others = run.weights(step), other.weights(step)
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def tree(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def write(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {name: content.decode() for name, content in tree(folder).items()}


def counted(patch: pytest.MonkeyPatch, fs: type, name: str) -> list[str]:
    """The first argument of every call of a file system's method from now on."""
    calls: list[str] = []
    method = getattr(fs, name)

    def called(self: object, path: str, *rest: object, **options: object) -> object:
        calls.append(path)
        return method(self, path, *rest, **options)

    patch.setattr(fs, name, called)
    return calls
