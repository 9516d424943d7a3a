"""What a probe is, and how it labels what it measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.probes.observation import Observation

Unit = Literal["nats", "logits", "1"]
"""What a variable is counted in; `1` where it has no dimension."""

HookNames = Callable[[ModelConfig], tuple[str, ...]]


def _no_hooks(config: ModelConfig) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Probe:
    """A family of quantities of one model at one checkpoint.

    Attributes:
        name: by which it is asked for.
        title: what it shows, for a reader.
        compute: the labelled arrays, from the one forward pass that all probes share.
        at_equals: hook points whose activations at `=` it reads.
        at_all_positions: hook points whose activations at all three positions it reads.
    """

    name: str
    title: str
    compute: Callable[[Observation], xr.Dataset]
    at_equals: HookNames = _no_hooks
    at_all_positions: HookNames = _no_hooks


def variable(
    dims: Sequence[str],
    values: Tensor | np.ndarray | float,
    *,
    long_name: str,
    units: Unit,
    definition: str,
) -> xr.Variable:
    """One labelled array; `definition` says what exactly, over which examples and classes, and the source."""
    data = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return xr.Variable(dims, data, {"long_name": long_name, "units": units, "definition": definition})
