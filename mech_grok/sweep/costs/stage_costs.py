"""What probing and ablating cost: seconds as measured at p = 113 and scaled, disk by the declared arrays.

Importing the registry of probes imports TransformerLens, which takes seconds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from mech_grok.config import CellConfig, ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.probes import PROBES, Probe, find_probe
from mech_grok.probes.coordinates import labels_of
from mech_grok.probes.measure import needs_of
from mech_grok.sweep.costs.arithmetic import pass_work
from mech_grok.sweep.costs.disk import Array, store_bytes
from mech_grok.task import Task

_SHARED_PASS_S = 0.13
"""The forward pass that probes share, beside `Probe.seconds`: per checkpoint and seed, as those are."""

_SMALLEST_SHARE = 0.04
"""What remains of a probe's time per layer however small p and the width are."""

_MODEL_S, _ARRAY_S = 0.01, 0.0015
"""Seconds to build one seed's model, and to write one array of a checkpoint."""

_MOST_AT_ONCE = 8
_REFERENCE = CellConfig()
_DEEP_REFERENCE = CellConfig(model=ModelConfig(n_layers=3, d_model=64))
_ABLATION_S, _DEEP_ABLATION_S = 3.4, 13.0
"""Per checkpoint and seed on one thread, for these two references."""

_SMALLEST_ABLATION_S = 0.13
"""Per layer, however small the model is."""

_ABLATION_ARRAYS: list[Array] = [(16, 1)] * 6 + [(896, 3)] * 12 + [(784, 3)] * 2 + [(112, 2)] * 3 + [(8, 0)]
"""Of one seed: values, changes and interactions of six measures; two scalings; three temperatures."""


def probe_seconds(config: CellConfig, names: Sequence[str], threads: int) -> float:
    """Seconds to record probes (none named: all) at every checkpoint and seed.

    `Probe.seconds`, which holds at p = 113, one layer and width 128, grows with p^2, the layers and the
    width, down to a share that does not shrink; checkpoints go on as many threads as there are.
    """
    probes = [find_probe(name) for name in names] or list(PROBES.values())
    model, p = config.model, config.task.p
    scale = (p / _REFERENCE.task.p) ** 2 * model.d_model / _REFERENCE.model.d_model + _SMALLEST_SHARE
    declared = _declared(config)
    shared = _SHARED_PASS_S if any(declared[probe.name].reads_pass for probe in probes) else 0.0
    seconds = (shared + sum(probe.seconds for probe in probes)) * scale * model.n_layers
    n_arrays = sum(len(probe.quantities) for probe in probes)
    return _at_every_checkpoint(config, seconds, n_arrays, threads)


def ablation_seconds(config: CellConfig, threads: int) -> float:
    """Seconds to score the ablation grid at every checkpoint and seed.

    3.4 s for the paper's model, 13 s for three layers of width 64, on one thread; for others in proportion
    to the work of a forward pass over all p^2 pairs.
    """
    deep = config.model.n_layers > 1
    reference, seconds = (_DEEP_REFERENCE, _DEEP_ABLATION_S) if deep else (_REFERENCE, _ABLATION_S)
    scale = pass_work(config, config.task.p**2) / pass_work(reference, reference.task.p**2)
    smallest = _SMALLEST_ABLATION_S * config.model.n_layers
    return _at_every_checkpoint(config, seconds * scale + smallest, len(_ABLATION_ARRAYS), threads)


def _at_every_checkpoint(config: CellConfig, seconds: float, n_arrays: int, threads: int) -> float:
    """Of one checkpoint and seed -> of all; models are built and arrays written by one thread."""
    checkpoints, seeds = len(config.checkpoint_steps), len(config.training.seeds)
    at_once = min(threads, _MOST_AT_ONCE, checkpoints)
    return checkpoints * (seeds * seconds / at_once + seeds * _MODEL_S + n_arrays * _ARRAY_S)


def probe_bytes(config: CellConfig, names: Sequence[str]) -> int:
    """Disk of the recorded probes (none named: all)."""
    declared = _declared(config)
    seeds, checkpoints = len(config.training.seeds), len(config.checkpoint_steps)
    return sum(
        store_bytes([(size * seeds, dims) for size, dims in declared[name].arrays], checkpoints)
        for name in names or declared
    )


def ablation_bytes(config: CellConfig) -> int:
    """Disk of the ablation grid."""
    seeds = len(config.training.seeds)
    return store_bytes(
        [(size * seeds, dims) for size, dims in _ABLATION_ARRAYS], len(config.checkpoint_steps)
    )


@dataclass(frozen=True)
class _Declared:
    """What a probe declares for one model: its arrays, of one seed, and whether it reads the shared pass."""

    arrays: tuple[Array, ...]
    reads_pass: bool


def _declared(config: CellConfig) -> Mapping[str, _Declared]:
    """By probe."""
    # Frozen configs have a hash, which the type checker does not see.
    return _declared_for(config.model, config.task.task)  # pyright: ignore[reportArgumentType]


@cache
def _declared_for(config: ModelConfig, task: Task) -> Mapping[str, _Declared]:
    model = GrokTransformer(config, task.p)
    return {name: _declared_by(probe, model, task) for name, probe in PROBES.items()}


def _declared_by(probe: Probe, model: GrokTransformer, task: Task) -> _Declared:
    own, needs = probe.coordinates(model, task), needs_of([probe], model)
    arrays: list[Array] = []
    for quantity in probe.quantities.values():
        sizes = [len(own[dim] if dim in own else labels_of(dim, model, task)) for dim in quantity.dims]
        arrays.append((math.prod(sizes) * int(quantity.dtype[-2:]) // 8, len(sizes)))
    return _Declared(tuple(arrays), any((needs.at_equals, needs.at_all_positions, needs.lengths)))
