"""Small runs, and configs of runs that begin from their checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import torch

from mech_grok.config import CellConfig
from mech_grok.placement import Placement
from mech_grok.run import Run
from mech_grok.study_config import set_dotted
from mech_grok.train_stage import train_cell

BASE: dict[str, Any] = {
    "task": {"p": 11},
    "model": {"d_model": 16, "n_heads": 2},
    "training": {
        "steps": 40,
        "seeds": [3, 1],
        "checkpoint_every": 10,
        "optimiser_state_every": 20,
        "dtype": "float64",
        "threads": 1,
    },
}
PARENTS: dict[str, dict[str, object]] = {
    "off": {"training__dtype": "float32"},
    "exact-off": {"model__placement": "off"},
    "exact-M": {"model__placement": "M"},
    "exact-v": {"model__placement": "A^v"},
}
"""Runs to begin from, and in what they differ from the base config, which is in float64."""

STEP = 20  # its optimiser state is on disk; that of step 30 is not


def cell(**dotted: object) -> CellConfig:
    """The base config with changes: `model__placement="M"`."""
    tree = BASE
    for key, value in dotted.items():
        tree = set_dotted(tree, key.replace("__", "."), value)
    return CellConfig.model_validate(tree)


def child_of(parent: Run, placement: str, step: int = STEP, **changes: object) -> CellConfig:
    """A config that goes on from a parent, `surgery__match_scale=True` and the like included."""
    tree = parent.config.model_dump()
    tree["model"]["placement"] = Placement.parse(placement)
    tree["surgery"] = {"parent": parent.name, "step": step}
    for key, value in changes.items():
        tree = set_dotted(tree, key.replace("__", "."), value)
    return CellConfig.model_validate(tree)


def train(path: Path, config: CellConfig, resume: bool = False) -> Run:
    return train_cell(path, config, resume, command="test")


def train_parents(folder: Path, *names: str) -> Path:
    """Train some of `PARENTS` in a folder; returns the folder."""
    for name in names:
        train(folder / name, cell(**PARENTS[name]))
    return folder


def alone(home: Path, name: str, folder: Path) -> Run:
    """A copy of a run, with no other beside it."""
    return Run(shutil.copytree(home / name, folder / name))


def same_future(child: Run, parent: Run) -> None:
    """Every row and every weight after the fork is the parent's, bit for bit."""
    later = slice(child.config.first_step + 1, None)
    assert child.metrics.identical(parent.metrics.sel(step=later))
    assert child.norms.identical(parent.norms.sel(step=later))
    for step in child.config.checkpoint_steps:
        here, there = child.weights(step), parent.weights(step)
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)
