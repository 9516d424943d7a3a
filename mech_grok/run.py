"""A run directory, as a reader sees it.

config.yaml                          the cell's effective config
environment.json                     versions, hardware, threads, command, wall time
metrics.zarr                         one row per training step
norms.zarr                           norms of gradient, weights and update by part of the model, as long
checkpoints/step_000100.safetensors  weights of all seeds; optimiser_*.safetensors beside some
probes/<name>.zarr                   what the probes saw at every checkpoint
ablations.zarr                       the ablation grid at every checkpoint
"""

import difflib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mech_grok.array_store import load_store, read_steps
from mech_grok.config import CellConfig
from mech_grok.config_file import load_cell
from mech_grok.errors import UserError
from mech_grok.task import Split
from mech_grok.training.checkpoints import check_shapes, load_tensors, saved_steps, weights_path

if TYPE_CHECKING:
    import mech_grok.model  # TransformerLens takes seconds to import; only models need it


class Run:
    """What a cell wrote: config, metrics, checkpoints, probes, ablations.

    Attributes:
        path: the run directory.
        name: the cell's name, which is the directory's.
        config: the cell's config.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / "config.yaml").is_file():
            raise UserError(f"{self.path}: not a run directory (it has no config.yaml)")
        self.name = self.path.resolve().name
        self.config: CellConfig = load_cell(self.path / "config.yaml")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the replicas, in the order of every seed dimension."""
        return self.config.training.seeds

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps that have a checkpoint, ascending."""
        return saved_steps(self.checkpoint_folder)

    @property
    def steps_done(self) -> int:
        """Updates done up to the last checkpoint; -1 before the first."""
        return self.steps[-1] if self.steps else -1

    @property
    def is_trained(self) -> bool:
        """Whether the last step of the config has its checkpoint."""
        return self.steps_done == self.config.training.steps

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, hardware, threads, wall time and command of the training."""
        path = self.path / "environment.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); delete it to go on without it") from None

    @property
    def metrics(self) -> xr.Dataset:
        """One row per step done, dimensions (seed, step); `.to_dataframe()` for pandas.

        At step t: `train_loss`, `train_accuracy`, `grad_norm`, `weight_norm` before update t, `update_norm`
        of it, `test_loss`, `test_accuracy` after it (NaN unless the coordinate `evaluated` is true).
        Losses in nats over all p + 1 classes.
        """
        data = load_store(self.path / "metrics.zarr")
        return data.isel(step=slice(0, max(self.steps_done, 0)))

    @property
    def norms(self) -> xr.Dataset:
        """L2 norms of gradient, weights and update by part of the model, dimensions (seed, step, group).

        Rows and meaning are those of `metrics`; parts are those of `parameter_group`.
        """
        data = load_store(self.path / "norms.zarr")
        return data.isel(step=slice(0, max(self.steps_done, 0)))

    @property
    def diverged(self) -> dict[int, int]:
        """Seed -> first step at which its losses or parameters were not finite; empty if none."""
        metrics = self.metrics
        checked = ["train_loss", "grad_norm", "weight_norm", "update_norm"]
        bad = np.logical_or.reduce([~np.isfinite(metrics[name].values) for name in checked])
        bad |= metrics.evaluated.values & ~np.isfinite(metrics.test_loss.values)
        steps = metrics.step.values
        return {s: int(steps[b.argmax()]) for s, b in zip(self.seeds, bad, strict=True) if b.any()}

    def model(self, seed: int | None = None, step: int | None = None) -> "mech_grok.model.GrokTransformer":
        """The model of one seed (default: the first) at one checkpoint (default: the last)."""
        from mech_grok.model import GrokTransformer

        seed = self.seeds[0] if seed is None else seed
        step = self.steps_done if step is None else step
        row, weights = self._seed_row(seed), self._weights(step)
        model = GrokTransformer(self.config.model, self.config.task.p, dtype=self._dtype)
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, stacked in weights.items():
                own[name].copy_(stacked[row])
        return model

    def tokens(self, split: Split | None = None, seed: int | None = None) -> Int[Tensor, "n 3"]:
        """The input tokens of one seed's train or test set, or of all p^2 pairs in lexicographic order."""
        task = self.config.task.task
        pairs = task.pairs()
        if split is not None:
            pairs = pairs[self.split(self.seeds[0] if seed is None else seed)[split]]
        return torch.from_numpy(task.tokens(pairs))

    def split(self, seed: int) -> dict[Split, Int[np.ndarray, " n"]]:
        """Indices into the lexicographic pairs of a seed's train and test set."""
        self._seed_row(seed)
        return self.config.task.task.split_indices(self.config.training.split_seed(seed))

    @property
    def probe_names(self) -> tuple[str, ...]:
        """Probes that have been recorded."""
        return tuple(sorted(p.stem for p in (self.path / "probes").glob("[!.]*.zarr")))

    def probe(self, name: str) -> xr.Dataset:
        """What a probe saw, dimensions (seed, step, ...) with the checkpoints as steps.

        Raises:
            UserError: the probe has not been recorded in this run.
        """
        if name not in self.probe_names:
            recorded = ", ".join(self.probe_names) or "none"
            raise UserError(
                f"{self.path}: no probe '{name}' here; recorded: {recorded}. "
                f"mech-grok probe {self.path} --probes {name} records it, without training again"
            )
        return read_steps(self.path / "probes" / f"{name}.zarr")

    @property
    def ablations(self) -> xr.Dataset | None:
        """The ablation grid, dimensions (seed, step, intervention, pathways, split); None if not recorded."""
        path = self.path / "ablations.zarr"
        return read_steps(path) if path.exists() else None

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.config.training.dtype)

    @cached_property
    def _expected_shapes(self) -> dict[str, torch.Size]:
        from mech_grok.model import GrokTransformer

        model = GrokTransformer(self.config.model, self.config.task.p)
        named = {**model.trained_parameters(), **model.frozen_parameters()}
        return {n: torch.Size([len(self.seeds), *p.shape]) for n, p in named.items()}

    def _weights(self, step: int) -> dict[str, Tensor]:
        if step not in self.steps:
            near = min(self.steps, key=lambda s: abs(s - step), default=None)
            raise UserError(f"{self.path}: no checkpoint at step {step}; the nearest is {near}")
        path = weights_path(self.checkpoint_folder, step)
        weights = load_tensors(path)
        check_shapes(path, weights, self._expected_shapes)
        return weights

    def _seed_row(self, seed: int) -> int:
        if seed not in self.seeds:
            near = difflib.get_close_matches(str(seed), map(str, self.seeds), n=1, cutoff=0.0)[0]
            raise UserError(
                f"{self.path}: no seed {seed}; did you mean {near}? seeds: {', '.join(map(str, self.seeds))}"
            )
        return self.seeds.index(seed)


def load_run(path: str | Path) -> Run:
    """A run directory to read from: `.config`, `.metrics`, `.model(seed=, step=)`, `.probe(name)`, ...

    Raises:
        UserError: the path is no run directory.
    """
    return Run(path)


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
