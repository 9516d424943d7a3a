"""The ablation grid's dimensions, units and definitions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from mech_grok.interventions.changes import INTERVENTIONS


class Label(NamedTuple):
    """What one array holds."""

    dims: tuple[str, ...]
    long_name: str
    units: str
    definition: str


_MEASURES = {
    "loss": (
        "cross-entropy",
        "nats",
        "Cross-entropy of the model's own logits at '=' (no initial prediction subtracted) over all classes, "
        "in float64, mean over the pairs of the split.",
    ),
    "accuracy": (
        "accuracy",
        "1",
        "Share of the pairs of the split whose largest logit is the right answer's.",
    ),
    "attention_entropy": (
        "attention entropy",
        "nats",
        "Entropy of each head's attention weights from '=', mean over heads, layers and pairs of the split.",
    ),
    "restricted_loss": (
        "restricted loss",
        "nats",
        "`restricted_loss` of the probe `progress`: cross-entropy over the p answers of the logits projected "
        "on the sum directions of the last checkpoint's key frequencies. NaN without any.",
    ),
    "excluded_loss": (
        "excluded loss",
        "nats",
        "`excluded_loss` of the probe `progress`: cross-entropy over the p answers of the logits less that "
        "projection. NaN without key frequencies.",
    ),
    "effective_rank": (
        "effective rank",
        "1",
        "`effective_rank` of the probe `compressibility`, of the features that the unembedding reads at '='.",
    ),
}

_INTERVENTIONS = (
    "On hook points of `norm_{q,k,v,mlp}` in all layers. bypass: hook_out = hook_in where there is a norm. "
    "insert: a norm where there is none. unit: hook_out = hook_in / ||hook_in||. freeze_scale: hook_scale is "
    "its mean over the training pairs, per position. affine_only: hook_out = gain * hook_in + bias. zero, "
    "mean: hook_out is 0, or its mean over the training pairs, per position. resample: hook_out is that of "
    "another pair, by a fixed permutation (seed 0) of the pairs of each split, the same at every checkpoint."
)
_CHANGE = (
    f"Intervened minus untouched. {_INTERVENTIONS} NaN where the intervention applies to no pathway of the "
    "set. Of: "
)
_INTERACTION = (
    "Change of the set minus the sum of the changes of its pathways alone, 0 for one to which the "
    "intervention does not apply. NaN for single pathways and where it applies to none of the set. Of: "
)
_GRID = ("intervention", "pathways", "split")
_SCALE = "Change where `hook_in` of the pathways of the set is multiplied by the factor in all layers. Of: "
_TEMPERATURE = "Change where all attention scores are multiplied by the factor. Of: "


def _labels() -> dict[str, Label]:
    found = {}
    for name, (long_name, units, definition) in _MEASURES.items():
        found |= {
            name: Label(("split",), f"{long_name} of the untouched model", units, definition),
            f"{name}_change": Label(_GRID, f"change in {long_name}", units, _CHANGE + definition),
            f"{name}_interaction": Label(
                _GRID, f"interaction in {long_name}", units, _INTERACTION + definition
            ),
        }
    responses = (
        ("scale", ("pathways", "factor", "split"), "inputs scaled", _SCALE, ("loss", "accuracy")),
        ("temperature", ("factor", "split"), "scores scaled", _TEMPERATURE, ("loss", "accuracy", "entropy")),
    )
    for kind, dims, what, definition, of in responses:
        for name in of:
            long_name, units, text = _MEASURES["attention_entropy" if name == "entropy" else name]
            found[f"{kind}_{name}_change"] = Label(
                dims, f"change in {long_name}, {what}", units, definition + text
            )
    return found


LABELS = _labels()
"""Variable -> what it holds."""


def labelled(values: Mapping[str, np.ndarray], labels: Mapping[str, Sequence]) -> xr.Dataset:
    """The grid with its labels; NaN for arrays that are not given.

    Args:
        values: by variable, with the dimensions of `LABELS`.
        labels: of the dimensions pathways, split and factor.
    """
    coords = {"intervention": list(INTERVENTIONS), **labels}
    return xr.Dataset(
        {
            name: (
                of.dims,
                values.get(name, np.full([len(coords[dim]) for dim in of.dims], np.nan)),
                {"long_name": of.long_name, "units": of.units, "definition": of.definition},
            )
            for name, of in LABELS.items()
        },
        coords=coords,
    )
