"""The probes by name, and their measurement at one checkpoint."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int

from mech_grok.errors import UserError
from mech_grok.model import GrokTransformer
from mech_grok.probes import attention, attribution, compressibility, fourier, shortcut
from mech_grok.probes.observation import observe
from mech_grok.probes.probe import Probe
from mech_grok.task import Split, Task

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        attention.PROBE,
        fourier.PROBE,
        attribution.PROBE,
        shortcut.PROBE,
        compressibility.PROBE,
    )
}
"""Every probe by name."""


@torch.no_grad()
def measure(
    model: GrokTransformer,
    task: Task,
    split: Mapping[Split, Int[np.ndarray, " _"]],
    names: Sequence[str],
) -> dict[str, xr.Dataset]:
    """What the named probes find in one model at one checkpoint.

    All share one forward pass over the p^2 pairs, which keeps only the activations that they name. The
    datasets have neither a seed nor a step dimension. Of a diverged model every value is NaN.

    Args:
        model: the checkpoint; it is left as it was.
        task: with the modulus of the model.
        split: indices into `task.pairs()` of the training and of the test set.
        names: of `PROBES`.

    Raises:
        UserError: there is no probe of that name.
    """
    probes = [find_probe(name) for name in names]
    config = model.config
    seen = observe(
        model,
        task,
        split,
        at_equals=_union(probe.at_equals(config) for probe in probes),
        at_all_positions=_union(probe.at_all_positions(config) for probe in probes),
    )
    found = {probe.name: probe.compute(seen).assign_attrs(title=probe.title) for probe in probes}
    # TransformerLens turns the NaN patterns of a diverged model into zeros, which look like a measurement.
    diverged = not all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return {name: xr.full_like(data, np.nan) for name, data in found.items()} if diverged else found


def find_probe(name: str) -> Probe:
    """The probe of this name.

    Raises:
        UserError: there is none; the message gives the nearest one.
    """
    if name not in PROBES:
        (near,) = difflib.get_close_matches(name, PROBES, n=1, cutoff=0.0)
        raise UserError(f"unknown probe '{name}'; did you mean '{near}'? allowed: {', '.join(PROBES)}")
    return PROBES[name]


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))
