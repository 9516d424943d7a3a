"""Recordings of the paper's own code (github.com/jaisidhsingh/layernorm-grok), run on a CPU in float32."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mech_grok.config import CellConfig
from mech_grok.model.reference import reference_model_config

DATA = Path(__file__).parent / "data"
NAMES = ("p113_off", "p23_off", "p23_pre", "p23_attn-pre-qk")


@dataclass(frozen=True)
class Recording:
    """One recorded run: its meta data, its per-step log by column, and its probes by step."""

    name: str
    meta: dict[str, Any]
    log: dict[str, list[float]]
    probes: dict[int, dict[str, Any]]

    def weights(self, step: int) -> dict[str, Tensor]:
        return load_file(DATA / self.name / f"step_{step:06d}.safetensors")

    @property
    def config(self) -> CellConfig:
        """The recording's model, optimiser and data, as a cell of ours."""
        optimiser = self.meta["opt"]
        return CellConfig.model_validate(
            {
                "task": {"p": self.meta["P"]},
                "model": reference_model_config(self.meta["model"]),
                "optimiser": {
                    "lr": optimiser["learning_rate"],
                    "weight_decay": optimiser["weight_decay"],
                    "beta1": optimiser["b1"],
                    "beta2": optimiser["b2"],
                    "eps": optimiser["eps"],
                },
                "training": {"seeds": [self.meta["data_seed"]], "steps": 300, "evaluate_every": 1},
            }
        )

    @property
    def is_large(self) -> bool:
        return self.meta["P"] > 100

    @property
    def unread_gains(self) -> int:
        """Squared norm of the gains of ones that the reference builds and never reads, one per layer."""
        model = self.meta["model"]
        has_one = model["ln_type"] in ("attn-pre", "attn-pre-qk", "attn-pre-v", "mlp-pre")
        return model["n_layers"] * model["d_model"] if has_one else 0


@cache
def load(name: str) -> Recording:
    record = json.loads((DATA / name / "record.json").read_text())
    columns = zip(*record["log"], strict=True)
    log = {c: list(v) for c, v in zip(record["columns"], columns, strict=True)}
    return Recording(name, record["meta"], log, {int(k): v for k, v in record["probes"].items()})
