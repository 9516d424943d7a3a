"""The curves that the figures draw and compare: where in a run each is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import xarray as xr

METRICS = "metrics"


@dataclass(frozen=True)
class MeasuredCurve:
    """One number for each seed and step.

    Attributes:
        source: the probe that records it, or `METRICS`.
        variable: its name there.
        at: dimension -> label, of the dimensions other than seed and step.
    """

    source: str
    variable: str
    at: Mapping[str, str | int] = field(default_factory=dict)

    def of(self, dataset: xr.Dataset) -> xr.DataArray:
        """The curve (seed, step) from its source's dataset; nan where it was not measured."""
        return dataset[self.variable].sel(self.at).transpose("seed", "step")


CURVES: Mapping[str, MeasuredCurve] = {
    "train_loss": MeasuredCurve(METRICS, "train_loss"),
    "test_loss": MeasuredCurve(METRICS, "test_loss"),
    "test_accuracy": MeasuredCurve(METRICS, "test_accuracy"),
    "update_norm": MeasuredCurve(METRICS, "update_norm"),
    "c_fourier": MeasuredCurve("fourier", "c_fourier"),
    "attention_entropy": MeasuredCurve(
        "attention", "entropy_headavg_allrows", {"split": "train", "layer": 0}
    ),
    "sr_train": MeasuredCurve("shortcut", "sr_loss_reference_switch", {"split": "train"}),
    "effective_rank": MeasuredCurve("compressibility", "effective_rank_reference", {"split": "test"}),
    "power_law_alpha": MeasuredCurve("compressibility", "power_law_alpha_reference", {"split": "test"}),
    "kernel_drift": MeasuredCurve("kernel", "ntk_drift", {"ntk_output": "sum"}),
}
"""Name -> where it is. The published entropy is of unnamed examples; the shortcut loss is of the authors'
switch, which drops the attention norm too; the published kernel is over all training pairs, ours over the
first 256."""
