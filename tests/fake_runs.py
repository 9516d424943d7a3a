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


@dataclass
class FakeRun:
    """A run with made-up numbers."""

    name: str
    config: CellConfig
    metrics: xr.Dataset
    probes: Mapping[str, xr.Dataset] = field(default_factory=dict)
    ablations: xr.Dataset | None = None
    diverged: Mapping[int, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path("runs")

    @property
    def probe_names(self) -> tuple[str, ...]:
        return tuple(self.probes)

    def probe(self, name: str) -> xr.Dataset:
        return self.probes[name]


class Maker:
    """Datasets of the shapes that a run has, for `seeds` and a sigmoid rise at step `late`."""

    def __init__(
        self, pathways: str, seeds: tuple[int, ...], steps: int, every: int, late: float, p: int = 113
    ):
        self.pathways = set(filter(None, pathways.split("+")))
        self.seeds, self.late, self.p, self.last = seeds, late, p, steps
        self.rng = np.random.default_rng(len(pathways))
        self.checkpoints = np.arange(0, steps + 1, every)
        self.shift = 1 + 0.12 * self.rng.standard_normal(len(seeds))

    def rise(self, steps: np.ndarray) -> np.ndarray:
        """[seed, step], from 0 to 1 around each seed's own late step."""
        centre = self.late * self.shift[:, None]
        return 1 / (1 + np.exp(-(steps - centre) / (0.08 * centre)))

    def noisy(self, values: np.ndarray, scale: float = 0.02) -> np.ndarray:
        return (values * (1 + scale * self.rng.standard_normal(values.shape))).astype(np.float32)

    def metrics(self, evaluate_every: int) -> xr.Dataset:
        steps = np.arange(1, self.last + 1)
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
        rise = self.rise(self.checkpoints)
        shape = (*rise.shape, 2, len(SETS), 2)
        change = rise[:, :, None, None, None] * self.rng.normal(1.5, 2, (1, 1, *shape[2:])) * np.ones(shape)
        for i, name in enumerate(SETS):
            normed = set(name.split("+")) & self.pathways
            change[:, :, 0, i] = change[:, :, 0, i] if normed else np.nan
            change[:, :, 1, i] = np.nan if set(name.split("+")) <= self.pathways else change[:, :, 1, i]
        dims = ("intervention", "pathways", "split")
        coords = {"intervention": ["bypass", "insert"], "pathways": SETS, "split": ["train", "test"]}
        return self.dataset(coords, loss_change=(dims, change), accuracy_change=(dims, -change / 10))


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
) -> FakeRun:
    maker = Maker(pathways, seeds, steps, every, late)
    config = CellConfig.model_validate(
        {
            "model": {"placement": specifier},
            "training": {"steps": steps, "seeds": seeds, "evaluate_every": evaluate_every},
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
        environment=ENVIRONMENT,
    )
