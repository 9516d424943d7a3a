"""Runs with made-up numbers, of the shapes that a real one has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mech_grok.config import CellConfig

SPLITS = ("all", "train", "test")
TOKENS = ["a", "b", "="]
COMPONENTS = ["L0H0", "L0H1", "L0H2", "L0H3", "0_mlp_out", "embed", "pos_embed"]
SETS = ["q", "k", "v", "mlp", "q+k", "q+k+v", "q+k+v+mlp"]
INTERVENTIONS = ["bypass", "insert", "unit", "freeze_scale", "affine_only", "zero", "mean", "resample"]
NEEDS_A_NORM = {"bypass", "freeze_scale", "affine_only"}
FACTORS = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
SCORED = {  # quantity of the ablation grid -> how large its changes are, in the units of its attributes
    "loss": (2.0, "nats"),
    "accuracy": (-0.2, "1"),
    "attention_entropy": (0.05, "nats"),
    "restricted_loss": (1.0, "nats"),
    "excluded_loss": (0.7, "nats"),
    "effective_rank": (3.0, "1"),
}


@dataclass
class FakeRun:
    """A run with made-up numbers."""

    name: str
    config: CellConfig
    metrics: xr.Dataset
    probes: Mapping[str, xr.Dataset] = field(default_factory=dict)
    ablations: xr.Dataset | None = None
    attention_factors: xr.Dataset | None = None
    parent: "FakeRun | None" = None
    diverged: Mapping[int, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path("runs")

    @property
    def probe_names(self) -> tuple[str, ...]:
        return tuple(self.probes)

    def probe(self, name: str) -> xr.Dataset:
        return self.probes[name]


class Maker:
    """Datasets of the shapes that a run has, for `seeds` and a sigmoid rise at step `late`.

    With `forgets` it falls there instead. `first` is the step at which the run was forked.
    """

    def __init__(
        self,
        pathways: str,
        seeds: tuple[int, ...],
        steps: int,
        every: int,
        late: float,
        p: int = 113,
        first: int = 0,
        forgets: bool = False,
    ):
        self.first, self.forgets = first, forgets
        self.pathways = set(filter(None, pathways.split("+")))
        self.seeds, self.late, self.p, self.last = seeds, late, p, steps
        self.rng = np.random.default_rng(len(pathways))
        self.checkpoints = np.arange(first, steps + 1, every)
        self.shift = 1 + 0.12 * self.rng.standard_normal(len(seeds))

    def rise(self, steps: np.ndarray) -> np.ndarray:
        """[seed, step], from 0 to 1 around each seed's own late step."""
        centre = self.late * self.shift[:, None]
        rise = 1 / (1 + np.exp(-(steps - centre) / (0.08 * centre)))
        return 1 - rise if self.forgets else rise

    def noisy(self, values: np.ndarray, scale: float = 0.02) -> np.ndarray:
        return (values * (1 + scale * self.rng.standard_normal(values.shape))).astype(np.float32)

    def metrics(self, evaluate_every: int) -> xr.Dataset:
        steps = np.arange(self.first + 1, self.last + 1)
        rise = self.rise(steps)
        evaluated = (steps % evaluate_every == 0) | (steps == 1)
        dims = ("seed", "step")
        train_loss = 4.7 * np.exp(-steps / (0.012 * self.last)) + 1e-4 * (1 - rise) + 3e-7
        test_loss = np.where(evaluated, (4.7 + 9 * (1 - np.exp(-steps / 150))) * (1 - rise) + 2e-5, np.nan)
        test_accuracy = np.where(evaluated, np.minimum(1, 0.01 + rise), np.nan)
        data = {
            "train_loss": self.noisy(np.broadcast_to(train_loss, rise.shape)),
            "train_accuracy": np.broadcast_to(1 - np.exp(-steps / (0.006 * self.last)), rise.shape),
            "grad_norm": self.noisy(0.3 * np.exp(-steps / 300) + 1e-3 + 0.01 * rise * (1 - rise), 0.2),
            "weight_norm": self.noisy(60 - 25 * rise, 0.002),
            "update_norm": self.noisy(0.4 * np.exp(-steps / 900) + 0.02 + 0 * rise, 0.1),
            "test_loss": self.noisy(test_loss),
            "test_accuracy": test_accuracy.astype(np.float32),
        }
        variables = {name: (dims, np.asarray(v, np.float32)) for name, v in data.items()}
        return xr.Dataset(
            variables, {"seed": list(self.seeds), "step": steps, "evaluated": ("step", evaluated)}
        )

    def dataset(self, coords: dict[str, Any], **variables: tuple[tuple[str, ...], np.ndarray]) -> xr.Dataset:
        base = {"seed": list(self.seeds), "step": self.checkpoints}
        data = {k: (("seed", "step", *dims), v.astype(np.float32)) for k, (dims, v) in variables.items()}
        return xr.Dataset(data, {**base, **coords})

    def attention(self) -> xr.Dataset:
        rise, n = self.rise(self.checkpoints), len(self.seeds)
        scores = self.rng.standard_normal((n, 1, 1, 4, 3, 3)) * 1.8 * rise[:, :, None, None, None, None]
        pattern = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        entropy = -(pattern * np.log(pattern)).sum(-1)
        averaged = pattern.mean(3)
        paper = -(averaged * np.log(averaged)).sum(-1).mean(-1)
        per_split = np.stack([entropy] * 3, axis=2)
        return self.dataset(
            {"split": list(SPLITS), "layer": [0], "head": range(4), "query": TOKENS, "key": TOKENS},
            pattern=(("layer", "head", "query", "key"), pattern),
            entropy_per_head=(("split", "layer", "head", "query"), per_split),
            entropy_headavg_allrows=(("split", "layer"), np.stack([paper] * 3, axis=2)),
        )

    def fourier(self) -> xr.Dataset:
        rise, half = self.rise(self.checkpoints), (self.p - 1) // 2
        spectrum = 1 + 0.15 * self.rng.standard_normal((len(self.seeds), 1, half + 1)) * np.ones(
            (1, len(self.checkpoints), 1)
        )
        keep = np.zeros((len(self.seeds), 1, half + 1))
        for row in keep:
            row[0, self.rng.choice(half, 5, replace=False) + 1] = self.rng.uniform(3, 6, 5)
        spectrum = spectrum * (1 - 0.85 * rise[:, :, None]) + keep * rise[:, :, None]
        between, within = 0.01 + 2 * rise, 1.0 + 0.1 * rise
        return self.dataset(
            {"frequency": np.arange(half + 1)},
            c_fourier=((), self.noisy(between / within)),
            c_fourier_between=((), between),
            c_fourier_within=((), within),
            embedding_spectrum=(("frequency",), np.abs(spectrum)),
        )

    def attribution(self) -> xr.Dataset:
        rise = self.rise(self.checkpoints)
        train = 1 - np.exp(-self.checkpoints / (0.02 * self.last))
        share = np.array([0.4, 1.2, -0.5, 0.8, 16.0, 0.05, 0.0])
        test = self.noisy(rise[:, :, None] * share, 0.1)
        values = np.stack([test, test + (train - 0 * rise)[:, :, None] * share * 0.4, test], axis=2)
        return self.dataset(
            {"split": list(SPLITS), "component": COMPONENTS},
            logit_attribution=(("split", "component"), values),
        )

    def shortcut(self) -> xr.Dataset:
        rise = self.rise(self.checkpoints)
        loss = np.stack([8 * (1 - rise), 1e-3 + 0 * rise, 12 * (1 - rise)], axis=2) + 1e-4
        sr = np.stack([9 - 6 * rise, 3.3 + 2 * rise * (1 - rise) * 4, 10 - 7 * rise], axis=2)
        each = {"loss": loss, "accuracy": 0 * loss + 0.5, "sr_loss": sr, "sr_accuracy": 0 * loss}
        each["sr_loss_reference_switch"] = 1.3 * sr
        return self.dataset({"split": list(SPLITS)}, **{k: (("split",), v) for k, v in each.items()})

    def compressibility(self) -> xr.Dataset:
        rise = self.rise(self.checkpoints)
        rank = np.stack([36 - 27 * rise, 38 - 27 * rise], axis=2)
        return self.dataset({"split": ["train", "test"]}, effective_rank=(("split",), self.noisy(rank)))

    def ablations(self) -> xr.Dataset:
        dims = ("intervention", "pathways", "split")
        variables = {}
        for name, (size, _) in SCORED.items():
            change = self._changes(size)
            variables[name] = (("split",), self.noisy(np.ones((*self.rise(self.checkpoints).shape, 2))))
            variables[f"{name}_change"] = (dims, change)
            variables[f"{name}_interaction"] = (dims, self._interactions(change))
        slope = self.rng.normal(1, 0.5, (len(SETS), 1, 1)) * np.abs(np.log2(FACTORS))[:, None]
        scale = self.rise(self.checkpoints)[:, :, None, None, None] * slope * np.ones((len(SETS), 7, 2))
        for name, size in (("loss", 1.0), ("accuracy", -0.05)):
            variables[f"scale_{name}_change"] = (("pathways", "factor", "split"), size * scale)
            variables[f"temperature_{name}_change"] = (("factor", "split"), size * scale.mean(2))
        variables["temperature_entropy_change"] = (("factor", "split"), -0.1 * scale.mean(2))
        coords = {"intervention": INTERVENTIONS, "pathways": SETS, "split": ["train", "test"]}
        data = self.dataset({**coords, "factor": FACTORS}, **variables)
        for name, (_, units) in SCORED.items():
            words = name.replace("_", " ")
            data[name].attrs = {"long_name": words, "units": units, "definition": f"the {words} < of a split"}
        return data

    def _changes(self, size: float) -> np.ndarray:
        """[seed, step, intervention, set, split]; NaN where it applies to no pathway of a set."""
        rise = self.rise(self.checkpoints)
        shape = (*rise.shape, len(INTERVENTIONS), len(SETS), 2)
        change = (
            size * rise[:, :, None, None, None] * self.rng.normal(0.7, 1, (1, 1, *shape[2:])) * np.ones(shape)
        )
        for i, intervention in enumerate(INTERVENTIONS):
            for j, chosen in enumerate(set(name.split("+")) for name in SETS):
                if (intervention in NEEDS_A_NORM and not chosen & self.pathways) or (
                    intervention == "insert" and chosen <= self.pathways
                ):
                    change[:, :, i, j] = np.nan
        return change

    @staticmethod
    def _interactions(change: np.ndarray) -> np.ndarray:
        single = np.nan_to_num(change)
        joint = change.copy()
        for j, parts in enumerate(name.split("+") for name in SETS):
            joint[:, :, :, j] -= sum(single[:, :, :, SETS.index(part)] for part in parts)
            if len(parts) == 1:
                joint[:, :, :, j] = np.nan
        return joint

    def attention_factors(self) -> xr.Dataset:
        rise = self.rise(self.checkpoints)[:, :, None, None]
        head = np.arange(4)
        target = np.broadcast_to(np.log(3) - 0.1 * rise * (head + 1), (*rise.shape[:3], 4))
        dims = ("layer", "head")
        return self.dataset(
            {"layer": [0], "head": head},
            factor=(dims, 1 + rise * (head + 1)),
            target=(dims, target),
            entropy=(dims, target + 1e-8),
        )


ENVIRONMENT = {
    "mech_grok": "0.1.0",
    "python": "3.12.4",
    "torch": "2.8.0",
    "transformer_lens": "3.9.0",
    "platform": "Linux",
    "cpu": "Xeon",
    "threads": 2,
    "device": "cpu",
    "wall_seconds": 754.2,
    "command": "mech-grok run configs/placements.yaml",
}


def fake_run(
    specifier: str,
    pathways: str,
    *,
    late: float,
    seeds: tuple[int, ...] = (456, 789),
    steps: int = 1500,
    every: int = 100,
    evaluate_every: int = 10,
    name: str | None = None,
    parent: FakeRun | None = None,
    at: int = 0,
    forgets: bool = False,
    follows: str | None = None,
) -> FakeRun:
    """A run; with `parent`, one forked from it `at` a step; with `follows`, one with that run's entropies."""
    maker = Maker(pathways, seeds, steps, every, late, first=at, forgets=forgets)
    config = CellConfig.model_validate(
        {
            "model": {"placement": specifier, "attention_factor": 1.0 if follows else None},
            "training": {
                "steps": steps,
                "seeds": seeds,
                "evaluate_every": evaluate_every,
                "follow_entropy": {"of": follows} if follows else None,
            },
            "surgery": {"parent": parent.name, "step": at} if parent else None,
        }
    )
    return FakeRun(
        name=name or specifier,
        config=config,
        metrics=maker.metrics(evaluate_every),
        probes={
            "attention": maker.attention(),
            "fourier": maker.fourier(),
            "attribution": maker.attribution(),
            "shortcut": maker.shortcut(),
            "compressibility": maker.compressibility(),
        },
        ablations=maker.ablations(),
        attention_factors=maker.attention_factors() if follows else None,
        parent=parent,
        environment=ENVIRONMENT,
        path=Path("runs") / (name or specifier),
    )
