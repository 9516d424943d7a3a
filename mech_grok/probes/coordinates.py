"""The dimensions that probes share, and their labels."""

from collections.abc import Callable

from transformer_lens import HookedTransformer

from mech_grok.placement import PATHWAYS
from mech_grok.probes.observation import POSITIONS, SPLITS
from mech_grok.probes.probe import Labels
from mech_grok.probes.residual import component_labels
from mech_grok.task import Task

SHARED: dict[str, Callable[[HookedTransformer, Task], Labels]] = {
    "split": lambda model, task: SPLITS,
    "layer": lambda model, task: range(model.cfg.n_layers),
    "head": lambda model, task: range(model.cfg.n_heads),
    "query": lambda model, task: POSITIONS,
    "key": lambda model, task: POSITIONS,
    "position": lambda model, task: POSITIONS,
    "pathway": lambda model, task: PATHWAYS,
    "component": lambda model, task: component_labels(model),
    "neuron": lambda model, task: range(int(model.cfg.d_mlp or 0)),
    "frequency": lambda model, task: range(task.p // 2 + 1),
    "a": lambda model, task: range(task.p),
    "b": lambda model, task: range(task.p),
}
"""Dimension -> its labels for a model and a task. `frequency` 0 is the constant."""


def labels_of(dimension: str, model: HookedTransformer, task: Task) -> Labels:
    """The labels of a dimension that probes share."""
    return SHARED[dimension](model, task)
