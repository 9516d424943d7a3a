"""What a probe is: the quantities it declares, and the function that measures them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.observation import Observation
from mech_grok.task import Task

Unit = Literal["nats", "logits", "1"]
"""What a quantity is counted in; `1` where it has no dimension."""

Value = Tensor | np.ndarray | float
Labels = Sequence[str] | Sequence[int] | range
HookNames = Callable[[HookedTransformer], tuple[str, ...]]


@dataclass(frozen=True)
class Quantity:
    """What one labelled array holds; the values come from the probe's `compute`.

    Attributes:
        dims: its dimensions; `mech_grok.probes.coordinates` labels them, or the probe's own `coordinates`.
        long_name: its name on an axis.
        units: what it is counted in.
        definition: what exactly, over which examples and which classes.
        source: the paper or repository that defines it; empty where the probe's own source does.
        nan: when it is nan, other than for a diverged model; empty for never.
        dtype: as which it is stored.
    """

    dims: tuple[str, ...]
    long_name: str
    units: Unit
    definition: str
    source: str = ""
    nan: str = ""
    dtype: Literal["float64", "float32"] = "float64"


def _no_hooks(model: HookedTransformer) -> tuple[str, ...]:
    return ()


def _no_coordinates(model: HookedTransformer, task: Task) -> dict[str, Labels]:
    return {}


@dataclass(frozen=True)
class Probe:
    """A family of quantities of one model at one checkpoint.

    Attributes:
        name: by which it is asked for.
        title: what it shows, for a reader.
        source: where the definitions come from.
        seconds: what it adds to the shared forward pass, per checkpoint and seed, at p = 113 on one thread,
            measured by `benchmarks/probes.py`.
        quantities: variable name -> what it holds; names are unique over all probes.
        compute: variable name -> values, from the one forward pass that all probes share.
        coordinates: labels of dimensions that only this probe has.
        at_equals: hook points whose activations at `=` it reads.
        at_all_positions: hook points whose activations at all three positions it reads.
        lengths: hook points of whose activations it reads only the L2 length, at all three positions.
        reads_final: whether it reads something of the last checkpoint, such as its key frequencies.
    """

    name: str
    title: str
    source: str
    seconds: float
    quantities: Mapping[str, Quantity]
    compute: Callable[[Observation], Mapping[str, Value]]
    coordinates: Callable[[HookedTransformer, Task], Mapping[str, Labels]] = _no_coordinates
    at_equals: HookNames = _no_hooks
    at_all_positions: HookNames = _no_hooks
    lengths: HookNames = _no_hooks
    reads_final: bool = False
