"""Run directories of the paper's cells with made-up numbers, laid out as a training lays them out."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from mech_grok.array_store import StepStore
from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.paper.curves import CURVES, METRICS
from mech_grok.training.checkpoints import weights_path

ENVIRONMENT = {
    "python": "3.11.7",
    "mech_grok": "0.1.0",
    "torch": "2.8.0",
    "transformer_lens": "3.9.0",
    "numpy": "2.4.6",
    "platform": "Linux x86_64",
    "cpu": "EPYC",
    "threads": 1,
    "device": "cpu",
    "stack_size": 2,
    "command": "mech-grok sweep /home/somebody/secret.yaml",
    "wall_seconds": 12.5,
}


def value(curve: str, seed: int, step: int) -> float:
    """What made-up runs have everywhere: it tells curve, seed and step apart, also as float32."""
    return list(CURVES).index(curve) + 1 + seed / 1024 + step / 65536


def make_run(
    path: Path,
    config: CellConfig,
    probes: Sequence[str] = (),
    *,
    done: int | None = None,
    environment: dict[str, object] | None = None,
) -> Path:
    """A run trained to its end, or to step `done`, with some of the probes that the curves need."""
    done = config.training.steps if done is None else done
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(to_yaml(config))
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT | (environment or {})))
    _metrics(config).to_zarr(path / "metrics.zarr", mode="w", consolidated=False, zarr_format=3)
    (path / "checkpoints").mkdir(exist_ok=True)
    for step in config.checkpoint_steps:
        if step <= done:
            weights_path(path / "checkpoints", step).touch()
    for probe in probes:
        record(path, config, probe, done)
    return path


def record(path: Path, config: CellConfig, probe: str, until: int) -> None:
    """What a probe sees at the checkpoints up to a step."""
    store = StepStore(path / "probes" / f"{probe}.zarr", config.training.seeds, config.checkpoint_steps)
    for step in config.checkpoint_steps:
        if step <= until:
            store.write(step, [_seen(probe, seed, step) for seed in config.training.seeds])


def diverged(path: Path, seed: int, step: int) -> Path:
    """The same run, one seed of which is not finite from a step on."""
    data = xr.load_dataset(path / "metrics.zarr", engine="zarr", consolidated=False)
    gone = (data["seed"] == seed) & (data["step"] >= step)
    data.where(~gone).to_zarr(path / "metrics.zarr", mode="w", consolidated=False, zarr_format=3)
    return path


def _metrics(config: CellConfig) -> xr.Dataset:
    training = config.training
    steps = list(range(1, training.steps + 1))
    evaluated = np.array([training.is_evaluated(step) for step in steps])
    of_all = {name: curve for name, curve in CURVES.items() if curve.source == METRICS}
    columns = {
        curve.variable: [[value(name, seed, step) for step in steps] for seed in training.seeds]
        for name, curve in of_all.items()
    }
    for name in ("test_loss", "test_accuracy"):
        columns[name] = np.where(evaluated, columns[name], np.nan)
    norms = {name: np.ones((len(training.seeds), len(steps))) for name in ("grad_norm", "weight_norm")}
    return xr.Dataset(
        {
            name: (("seed", "step"), np.asarray(v), {"long_name": name})
            for name, v in (columns | norms).items()
        },
        {"seed": list(training.seeds), "step": steps, "evaluated": ("step", evaluated)},
    )


def _seen(probe: str, seed: int, step: int) -> xr.Dataset:
    variables = {}
    for name, curve in CURVES.items():
        if curve.source == probe:
            others = {"split": ["all", "train", "test"], "layer": [0], "ntk_output": ["sum", "single"]}
            coords = {dim: others[dim] for dim in curve.at}
            data = xr.DataArray(np.full([len(c) for c in coords.values()], -1.0), coords, list(coords))
            data.loc[dict(curve.at)] = value(name, seed, step)
            variables[curve.variable] = data.assign_attrs(long_name=name)
    return xr.Dataset(variables)
