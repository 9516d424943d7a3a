"""Studies on disk as training leaves them, with random numbers in them."""

import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mech_grok.array_store import StepStore
from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.run import Run
from mech_grok.study_config import StudyConfig, set_dotted

BASE: dict[str, Any] = {
    "study": "s",
    "description": "what it is about",
    "task": {"p": 11},
    "model": {"d_model": 16, "n_heads": 2},
    "training": {"steps": 6, "seeds": [3, 1], "checkpoint_every": 2, "evaluate_every": 3, "threads": 1},
}
CHECKPOINTS = (0, 2, 4, 6)
PLACEMENT_AND_LR = {"model.placement": ["M", "off"], "optimiser.lr": [1e-3, 3e-3]}


def config(**changes: object) -> StudyConfig:
    """`grid`, `cells`, or dotted keys with `__` for the dot."""
    tree = BASE
    for key, value in changes.items():
        tree = set_dotted(tree, key.replace("__", "."), value)
    return StudyConfig.model_validate(tree)


def rng(run: Path, name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{run.name}/{name}".encode()))


ROWS = {"metrics": (("train_loss", "test_loss"), {}), "norms": (("group_norm",), {"group": ["W_E", "W_U"]})}


def write_cell(run: Path, cell: CellConfig, done: int, stores: Collection[str] = ("metrics",)) -> None:
    """A run directory as training leaves it at a checkpoint."""
    (run / "checkpoints").mkdir(parents=True)
    for step in (s for s in cell.checkpoint_steps if s <= done):
        (run / "checkpoints" / f"step_{step:06d}.safetensors").touch()
    (run / "config.yaml").write_text(to_yaml(cell))
    for store in stores:
        write_rows(run, cell, done, store)


def write_rows(run: Path, cell: CellConfig, done: int, store: str) -> None:
    """A row for every step, 99 in those that are not done; two of them are a chunk."""
    names, labels = ROWS[store]
    steps = np.arange(cell.first_step + 1, cell.training.steps + 1)
    shape = (len(cell.training.seeds), len(steps), *map(len, labels.values()))
    rows = xr.Dataset(
        {
            name: (
                ("seed", "step", *labels),
                rng(run, name).normal(size=shape),
                {"long_name": name.replace("_", " "), "units": "nats"},
            )
            for name in names
        },
        {
            "seed": list(cell.training.seeds),
            "step": steps,
            "evaluated": ("step", np.array([cell.training.is_evaluated(int(s)) for s in steps])),
            **{dim: np.array(of_dim, dtype=object) for dim, of_dim in labels.items()},
        },
    )
    rows = rows.where(rows.step <= done, 99.0)
    chunks = {"chunks": (shape[0], 2, *shape[2:])}
    rows.to_zarr(
        run / f"{store}.zarr", encoding=dict.fromkeys(names, chunks), consolidated=False, zarr_format=3
    )


def write_probe(run: Path, steps: Collection[int], name: str = "fourier", **extra: float) -> None:
    """A probe over the frequencies of the task's modulus, recorded at these steps."""
    cell = Run(run).config
    store = StepStore(run / "probes" / f"{name}.zarr", cell.training.seeds, cell.checkpoint_steps)
    draw = rng(run, name)
    n = cell.task.p // 2 + 1
    for step in cell.checkpoint_steps:
        per_seed = [
            xr.Dataset(
                {
                    "power": (("split", "frequency"), draw.normal(size=(2, n)), {"definition": "its power"}),
                    "key": ("frequency", draw.normal(size=n).astype("float32")),
                    **extra,
                },
                {"split": ["train", "test"], "frequency": range(n)},
                {"title": "a probe"},
            )
            for _ in cell.training.seeds
        ]
        if step in steps:
            store.write(step, per_seed)


def write_study(
    root: Path,
    study: StudyConfig,
    done: Callable[[str], int | None] = lambda name: 6,
    stores: Collection[str] = ("metrics",),
) -> Path:
    """A study whose cells have got as far as `done` says by their names; None: not begun."""
    folder = root / study.study
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(to_yaml(study))
    for name, cell in study.all_cells().items():
        steps = done(name)
        if steps is not None:
            write_cell(folder / name, cell, steps, stores)
    return folder


def write_grid(root: Path) -> Path:
    """Two placements by two learning rates; all cells done, with a probe."""
    folder = write_study(root, config(grid=PLACEMENT_AND_LR), stores=("metrics", "norms"))
    for run in folder.iterdir():
        if run.is_dir():
            write_probe(run, CHECKPOINTS)
    return folder
