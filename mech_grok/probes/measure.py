"""The measurement of probes at one checkpoint, and the labels on what they find."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.coordinates import labels_of
from mech_grok.probes.fast_products import FastProducts
from mech_grok.probes.observation import Anchors, Needs, Observation, observe
from mech_grok.probes.probe import HookNames, Labels, Probe, Quantity, Value
from mech_grok.probes.registry import find_probe
from mech_grok.task import Split, Task


@torch.no_grad()
def measure(
    model: HookedTransformer,
    task: Task,
    split: Mapping[Split, Int[np.ndarray, " _"]],
    names: Sequence[str],
    anchors: Anchors | None = None,
) -> dict[str, xr.Dataset]:
    """What the named probes find in one model at one checkpoint.

    All share one forward pass over the p^2 pairs, which keeps only the activations that they name. The
    datasets have neither a seed nor a step dimension. Of a diverged model every value is NaN.

    Args:
        model: the checkpoint; it is left as it was. One of this project's, or one that
            `mech_grok.model.adopt` has given its hook points.
        task: with the modulus of the model.
        split: indices into `task.pairs()` of the training and of the test set.
        names: of `PROBES`.
        anchors: of the training that the model comes from.

    Raises:
        UserError: there is no probe of that name.
        ValueError: the model is not one of this task's modulus.
    """
    probes = [find_probe(name) for name in names]
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        # TransformerLens turns the NaN patterns of a diverged model into zeros, which look measured.
        return {probe.name: _label(probe, {}, model, task) for probe in probes}
    with FastProducts():
        seen = observe(model, task, split, needs_of(probes, model), anchors)
        return {probe.name: _label(probe, _computed(probe, seen), model, task) for probe in probes}


def needs_of(probes: Sequence[Probe], model: HookedTransformer) -> Needs:
    """What one forward pass must keep for all of these probes."""

    def union(names: Iterable[HookNames]) -> list[str]:
        return list(dict.fromkeys(name for of_model in names for name in of_model(model)))

    return Needs(
        union(probe.at_equals for probe in probes),
        union(probe.at_all_positions for probe in probes),
        union(probe.lengths for probe in probes),
    )


def _computed(probe: Probe, seen: Observation) -> Mapping[str, Value]:
    values = probe.compute(seen)
    if values.keys() != probe.quantities.keys():
        wrong = sorted(values.keys() ^ probe.quantities.keys())
        raise ValueError(f"probe '{probe.name}' declares and computes different quantities: {wrong}")
    return values


def _label(probe: Probe, values: Mapping[str, Value], model: HookedTransformer, task: Task) -> xr.Dataset:
    """The values as labelled arrays; nan where there is no value."""
    own = probe.coordinates(model, task)
    dims = dict.fromkeys(dim for quantity in probe.quantities.values() for dim in quantity.dims)
    labels = {dim: own[dim] if dim in own else labels_of(dim, model, task) for dim in dims}
    variables = {
        name: _variable(probe, quantity, values.get(name), labels)
        for name, quantity in probe.quantities.items()
    }
    coordinates = {dim: list(of_dim) for dim, of_dim in labels.items()}
    return xr.Dataset(variables, coordinates, {"title": probe.title, "source": probe.source})


def _variable(
    probe: Probe, quantity: Quantity, value: Value | None, labels: Mapping[str, Labels]
) -> xr.Variable:
    shape = tuple(len(labels[dim]) for dim in quantity.dims)
    data = np.full(shape, np.nan) if value is None else _as_array(value)
    if data.shape != shape:
        raise ValueError(
            f"probe '{probe.name}': {quantity.long_name} has shape {data.shape}, expected {shape}"
        )
    attributes = {
        "long_name": quantity.long_name,
        "units": quantity.units,
        "definition": quantity.definition,
        "source": quantity.source or probe.source,
        "nan": quantity.nan,
    }
    return xr.Variable(quantity.dims, data.astype(quantity.dtype), attributes)


def _as_array(value: Value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
