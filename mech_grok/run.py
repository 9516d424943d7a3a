"""A run directory, as a reader sees it.

config.yaml                          the cell's effective config
environment.json                     versions, hardware, threads, command, wall time
metrics.zarr                         one row per training step
norms.zarr                           norms of gradient, weights and update by part of the model, as long
checkpoints/step_000100.safetensors  weights of all seeds; optimiser_*.safetensors beside some
probes/<name>.zarr                   what the probes saw at every checkpoint
ablations.zarr                       the ablation grid at every checkpoint
attention_factor.zarr                of a run that followed entropies: the factors solved for
patching/<name>.zarr                 activations of another run or checkpoint, patched into this run's models
parent.yaml, surgery.json            of a run that began from another one: that one's config, what was done
"""

import difflib
import json
import os
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
from mech_grok.training.checkpoints import check_shapes, check_step, load_tensors, saved_steps, weights_path

if TYPE_CHECKING:
    import plotly.graph_objects  # only figures need it

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
        """Updates done up to the last checkpoint, those of a parent included; -1 before the first."""
        return self.steps[-1] if self.steps else -1

    @property
    def rows_done(self) -> int:
        """Updates that are this run's own: the rows of its metrics."""
        return max(self.steps_done - self.config.first_step, 0)

    @property
    def is_evaluated(self) -> bool:
        """Whether test loss and accuracy have been measured at any step yet."""
        return bool(self.metrics["evaluated"].any())

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
        return self._json("environment.json")

    @property
    def parent(self) -> "Run | None":
        """The run that this one began from; None if it began from fresh weights, or the parent is gone."""
        if self.config.surgery is None:
            return None
        path = beside(self.path, self.config.surgery.parent)
        return Run(path) if (path / "config.yaml").is_file() else None

    @property
    def parent_config(self) -> CellConfig | None:
        """The config of the run that this one began from, kept here; None if it began from fresh weights."""
        path = self.path / "parent.yaml"
        return load_cell(path) if path.is_file() else None

    @property
    def surgery(self) -> dict[str, Any]:
        """What was done to the parent's checkpoint; empty if the run began from fresh weights.

        `parent` (as the config names it: relative to the folder that holds this run) and `step`; `kept`,
        `new`, `dropped`: names of parameters; `gains`: seed, as text -> name -> what `match_scale` chose;
        `optimiser`: where AdamW's state is from.
        """
        return self._json("surgery.json")

    @property
    def metrics(self) -> xr.Dataset:
        """One row per step done, dimensions (seed, step); `.to_dataframe()` for pandas.

        A run that began from another one's checkpoint has the rows after that.
        At step t: `train_loss`, `train_accuracy`, `grad_norm`, `weight_norm` before update t, `update_norm`
        of it, `test_loss`, `test_accuracy` after it (NaN unless the coordinate `evaluated` is true).
        Losses in nats over all p + 1 classes.
        """
        return load_store(self.path / "metrics.zarr").isel(step=slice(0, self.rows_done))

    @property
    def norms(self) -> xr.Dataset:
        """L2 norms of gradient, weights and update by part of the model, dimensions (seed, step, group).

        Rows and meaning are those of `metrics`; parts are those of `parameter_group`.
        """
        return load_store(self.path / "norms.zarr").isel(step=slice(0, self.rows_done))

    @property
    def diverged(self) -> dict[int, int]:
        """Seed -> first step at which its losses or parameters were not finite; empty if none."""
        metrics = self.metrics
        checked = ["train_loss", "grad_norm", "weight_norm", "update_norm"]
        bad = np.logical_or.reduce([~np.isfinite(metrics[name].values) for name in checked])
        bad |= metrics.evaluated.values & ~np.isfinite(metrics.test_loss.values)
        steps = metrics.step.values
        return {s: int(steps[b.argmax()]) for s, b in zip(self.seeds, bad, strict=True) if b.any()}

    def figure(self, name: str) -> "plotly.graph_objects.Figure":
        """A figure of this run's report, such as `attention_entropy` or `learning`, for a notebook.

        What a page's slider would choose is at the last checkpoint; its title says of which seeds.

        Raises:
            UserError: there is no such figure; the message has all names that there are. Or nothing was
                evaluated yet.
        """
        if not self.is_evaluated:
            raise UserError(f"{self.path}: no evaluated training step recorded yet; train it first")
        from mech_grok.report.one_figure import find_figure, plotly_figure, report_figures

        return plotly_figure(find_figure(report_figures([self]), name))

    def model(self, seed: int | None = None, step: int | None = None) -> "mech_grok.model.GrokTransformer":
        """The model of one seed (default: the first) at one checkpoint (default: the last)."""
        from mech_grok.model import GrokTransformer

        seed = self.seeds[0] if seed is None else seed
        step = self.steps_done if step is None else step
        row, weights = self._seed_row(seed), self.weights(step)
        model = GrokTransformer(self.config.model, self.config.task.p, dtype=self._dtype)
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, stacked in weights.items():
                own[name].copy_(stacked[row])
        return model

    def weights(self, step: int) -> dict[str, Tensor]:
        """Every parameter at one checkpoint, under TransformerLens' names, each [seed, ...]; on the CPU.

        Raises:
            UserError: there is no such checkpoint, or it is damaged.
        """
        check_step(self.path, self.steps, step)
        path = weights_path(self.checkpoint_folder, step)
        weights = load_tensors(path)
        check_shapes(path, weights, self._expected_shapes)
        return weights

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
        """The ablation grid, dimensions (seed, step, ...); None if not recorded.

        For each measure x (`loss`, `accuracy`, `attention_entropy`, `restricted_loss`, `excluded_loss`,
        `effective_rank`): `x` (split) of the untouched model, `x_change` and `x_interaction` (intervention,
        pathways, split). `scale_*_change` (pathways, factor, split) under longer inputs and
        `temperature_*_change` (factor, split) under sharper attention. `attrs["definition"]` of each says
        what it is; `final_step` is the checkpoint whose key frequencies were used.
        """
        path = self.path / "ablations.zarr"
        return read_steps(path) if path.exists() else None

    @property
    def patching_names(self) -> tuple[str, ...]:
        """What has been patched into this run: `<clean run>[_clean-step=N][_step=N]`."""
        return tuple(sorted(p.stem for p in (self.path / "patching").glob("[!.]*.zarr")))

    def patching(self, name: str) -> xr.Dataset:
        """What patching gave, dimensions (seed, step, component, split).

        Raises:
            UserError: nothing of that name has been patched into this run.
        """
        if name not in self.patching_names:
            recorded = ", ".join(self.patching_names) or "none"
            raise UserError(
                f"{self.path}: no patching '{name}' here; recorded: {recorded}. "
                f"mech-grok patch CLEAN --into {self.path} records one"
            )
        return read_steps(self.path / "patching" / f"{name}.zarr")

    @property
    def attention_factors(self) -> xr.Dataset | None:
        """What a run that followed entropies solved for, dimensions (seed, step, layer, head); else None.

        `factor` multiplies a head's scores from this step to the next one here; `target` is the entropy that
        was to be followed, `entropy` the one that the factor gives (nats).
        """
        path = self.path / "attention_factor.zarr"
        return read_steps(path).sel(step=slice(None, self.steps_done)) if path.exists() else None

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); delete it to go on without it") from None

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.config.training.dtype)

    @cached_property
    def _expected_shapes(self) -> dict[str, torch.Size]:
        from mech_grok.model import GrokTransformer

        model = GrokTransformer(self.config.model, self.config.task.p)
        named = {**model.trained_parameters(), **model.frozen_parameters()}
        return {n: torch.Size([len(self.seeds), *p.shape]) for n, p in named.items()}

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


def beside(run: Path, other: str) -> Path:
    """Where a run's config says another run or file is: relative to the folder that holds the run."""
    folder = run.parent if run.name not in ("", "..") else run.resolve().parent
    return Path(os.path.normpath(folder / other))
