"""Two-dimensional Fourier structure, over a and b, of attention, neurons and logits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.attention import OVERFLOW, attention_weights
from mech_grok.probes.fourier_basis import power_2d
from mech_grok.probes.key_frequencies import centred_logits
from mech_grok.probes.neuron_spectrum import neuron_hooks, neuron_power, single_frequency
from mech_grok.probes.observation import LOGITS, Observation
from mech_grok.probes.probe import Labels, Probe, Quantity, Unit
from mech_grok.task import Task


def fourier_map(
    activation: Float[Tensor, "pairs ..."], p: int
) -> Float[Tensor, "frequency_a frequency_b ..."]:
    """Norm of any activation along each pair of frequencies 0..p//2 of a and of b, without its mean.

    Cosines and sines are added in quadrature: up to four terms per pair of frequencies. The squares sum to
    the squared deviations from the mean over pairs.

    Args:
        activation: of all p^2 pairs in lexicographic order.
        p: the modulus.
    """
    return _norms(power_2d(activation, p))


def attention_power(
    seen: Observation,
) -> Float[Tensor, "frequency_a frequency_b layer head key"]:
    """`power_2d` of every attention weight from `=`."""
    patterns = [attention_weights(seen.at_equals[name]) for name in _patterns(seen.model)]
    return power_2d(torch.stack(patterns, dim=1), seen.task.p)


def _norms(power: Float[Tensor, "frequency_a frequency_b ..."]) -> Tensor:
    norms = power.sqrt()
    norms[0, 0] = 0.0
    return norms


def _compute(seen: Observation) -> dict[str, Tensor]:
    attention = attention_power(seen)
    heads = single_frequency(attention.sum(-1))
    frequency = heads.frequency.double().masked_fill(heads.fve.isnan(), math.nan)
    neurons = seen.once(neuron_power)
    logits = power_2d(seen.once(centred_logits).varying, seen.task.p)
    return {
        "attention_fourier": _norms(attention).permute(2, 3, 4, 0, 1),
        "attention_one_frequency_fve": heads.fve,
        "attention_frequency": frequency,
        "neuron_fourier": _norms(neurons.sum(-1).permute(1, 2, 0)).permute(2, 0, 1),
        "logit_fourier": _norms(logits.sum(-1)),
    }


def _patterns(model: HookedTransformer) -> tuple[str, ...]:
    return tuple(f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers))


def _hooks(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS, *neuron_hooks(model), *_patterns(model))


def _coordinates(model: HookedTransformer, task: Task) -> dict[str, Labels]:
    return dict.fromkeys(_MAP, range(task.p // 2 + 1))


_MAP = ("frequency_a", "frequency_b")
_ALONG = (
    "along the products of cosine and sine of frequency_a of a with those of frequency_b of b, added in "
    "quadrature, in the orthonormal real Fourier basis over all p^2 pairs; the mean over pairs, at 0, 0, is "
    "set to 0"
)


_CONSTANT = "the attention weights are the same for all pairs"


def _map(dims: tuple[str, ...], long_name: str, units: Unit, what: str, nan: str = "") -> Quantity:
    return Quantity((*dims, *_MAP), long_name, units, f"Norm {_ALONG}: {what}.", nan=nan, dtype="float32")


PROBE = Probe(
    name="fourier2d",
    title="Two-dimensional Fourier structure of attention, neurons and logits",
    source="Nanda et al., arXiv 2301.05217",
    seconds=0.023,
    quantities={
        "attention_fourier": _map(
            ("layer", "head", "key"),
            "attention from '=', by frequencies of a and b",
            "1",
            "of each attention weight from '='",
            nan=OVERFLOW,
        ),
        "attention_one_frequency_fve": Quantity(
            ("layer", "head"),
            "attention's variance of one frequency",
            "1",
            "Largest share over k = 1..p//2 of the variance over all p^2 pairs of a head's attention weights "
            "from '=' (summed over the three keys) that frequency k explains with products of 1, cos(w_k a), "
            "sin(w_k a) and 1, cos(w_k b), sin(w_k b): polynomials of degree two.",
            nan=f"{_CONSTANT}; {OVERFLOW}",
        ),
        "attention_frequency": Quantity(
            ("layer", "head"),
            "frequency of the attention",
            "1",
            "The frequency of `attention_one_frequency_fve`, however little it explains.",
            nan=f"{_CONSTANT}; {OVERFLOW}",
        ),
        "neuron_fourier": _map(
            ("layer",),
            "neurons, by frequencies of a and b",
            "1",
            "of all neurons at '=' after their activation function, norm over neurons",
        ),
        "logit_fourier": _map(
            (),
            "logits, by frequencies of a and b",
            "logits",
            "of the p answers' logits at '=' less their mean over the answers, norm over answers",
        ),
    },
    compute=_compute,
    coordinates=_coordinates,
    at_equals=_hooks,
)
