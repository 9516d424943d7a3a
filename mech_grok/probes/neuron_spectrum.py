"""How neurons, and what they add to the logits, split into frequencies."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.fourier_basis import power_2d
from mech_grok.probes.observation import Observation

CLUSTER_FVE = 0.85
"""A neuron belongs to a frequency that explains more than this of its variance (Nanda et al.)."""

_CONSTANT = 1e-12
"""A variance below this share of the squared mean is rounding, in float32 as in float64."""


class SingleFrequency(NamedTuple):
    """The one frequency that explains most of a function of (a, b).

    Attributes:
        fve: fraction of the variance that it explains; nan for a constant function.
        frequency: in 1..p//2; 0 for a constant function.
    """

    fve: Float[Tensor, "*column"]
    frequency: Int[Tensor, "*column"]


def fve_by_frequency(
    power: Float[Tensor, "frequency_a frequency_b ..."],
) -> Float[Tensor, "frequency ..."]:
    """Fraction of the variance of functions of (a, b) that each frequency explains, given their `power_2d`.

    Frequency k explains what lies on products of {1, cos w_k a, sin w_k a} with {1, cos w_k b, sin w_k b}:
    at most 8 terms beside the mean. 0 for frequency 0; nan for a constant function.
    """
    k = torch.arange(len(power), device=power.device)
    explained = power[k, 0] + power[0, k] + power[k, k]
    explained[0] = 0.0
    variance = power.flatten(0, 1)[1:].sum(0)
    constant = variance <= _CONSTANT * power[0, 0]
    return (explained / variance).masked_fill(constant, math.nan)


def single_frequency(power: Float[Tensor, "frequency_a frequency_b ..."]) -> SingleFrequency:
    """The best single frequency of functions of (a, b), given their `power_2d`.

    All of 1..p//2 are searched; code released with Nanda et al. stops one short.
    """
    fve, best = fve_by_frequency(power)[1:].max(0)
    return SingleFrequency(fve, (best + 1).masked_fill(fve.isnan(), 0))


def cluster_sizes(neurons: SingleFrequency, p: int) -> Int[Tensor, "layer frequency"]:
    """How many neurons each frequency 0..p//2 explains more than `CLUSTER_FVE` of, per layer."""
    of_one = neurons.frequency.masked_fill(~(neurons.fve > CLUSTER_FVE), 0)
    sizes = torch.stack([of_layer.bincount(minlength=p // 2 + 1) for of_layer in of_one])
    sizes[:, 0] = 0
    return sizes


def neuron_power(seen: Observation) -> Float[Tensor, "layer frequency_a frequency_b neuron"]:
    """`power_2d` of every neuron after its activation function at `=`; ask with `seen.once`."""
    hooks = neuron_hooks(seen.model)
    return torch.stack([power_2d(seen.at_equals[name], seen.task.p) for name in hooks])


def single_frequency_neurons(seen: Observation) -> SingleFrequency:
    """`single_frequency` of every neuron, [layer, neuron]; ask with `seen.once`."""
    layers = [single_frequency(power) for power in seen.once(neuron_power)]
    return SingleFrequency(*(torch.stack(parts) for parts in zip(*layers, strict=True)))


def neuron_hooks(model: HookedTransformer) -> tuple[str, ...]:
    """Hook points of the neurons after their activation function, by layer."""
    return tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers))


def neuron_logit_map(model: HookedTransformer) -> Float[Tensor, "neuron p"]:
    """W_L = W_out W_U of the last layer over the p answers, each neuron less its mean answer, in float64.

    The raw weights: no norm between them is folded in, and the readout scale, which changes no share, is
    left out. The mean over answers changes no probability among them; Nanda et al. keep it.
    """
    W_U = model.W_U[:, : model.cfg.d_vocab - 1].double()
    # Differences come first: an unembedding without answers is then exactly zero, not rounding noise.
    W_U = W_U - W_U[:, :1]
    return model.W_out[-1].double() @ (W_U - W_U.mean(1, keepdim=True))
