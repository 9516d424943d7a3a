"""Which frequency every neuron computes with, and what the neurons tell the logits."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.model.block import GrokBlock
from mech_grok.probes.fourier_basis import spectrum
from mech_grok.probes.key_frequencies import OPERATIONS, frozen_key_frequencies
from mech_grok.probes.logit_projections import losses_without, sum_tables, waves_of
from mech_grok.probes.neuron_spectrum import (
    CLUSTER_FVE,
    SingleFrequency,
    cluster_sizes,
    neuron_hooks,
    neuron_logit_map,
    single_frequency_neurons,
)
from mech_grok.probes.observation import LOGITS, SPLITS, Observation
from mech_grok.probes.probe import Probe, Quantity

WAVES = ("cos", "sin")

_ROUNDING = 1e-12


def frequency_labels(neurons: SingleFrequency) -> Float[Tensor, "layer neuron"]:
    """The frequency of every neuron, -1 where none explains more than `CLUSTER_FVE`, nan where it is dead."""
    label = neurons.frequency.double().masked_fill(~(neurons.fve > CLUSTER_FVE), -1.0)
    return label.masked_fill(neurons.fve.isnan(), math.nan)


def directions(waves: Float[Tensor, "key 2 p"]) -> Float[Tensor, "direction p"]:
    """Cosines and sines of some frequencies, without the sine that p/2 has not."""
    rows = waves.flatten(0, 1)
    return rows[rows.any(1)]


def residual_share(W_L: Float[Tensor, "neuron p"], waves: Float[Tensor, "key 2 p"]) -> Float[Tensor, ""]:
    """Norm of what W_L holds outside the waves of some frequencies of the answer, over its norm."""
    basis = directions(waves)
    return (W_L - (W_L @ basis.T) @ basis).norm() / W_L.norm()


def top_singular_share(W_L: Float[Tensor, "neuron p"], n: int) -> Float[Tensor, ""]:
    """Share of the squared singular values that the n largest hold."""
    power = torch.linalg.eigvalsh(W_L.T @ W_L).clamp(min=0.0)
    return power[-n:].sum() / power.sum()


def projection_fve(
    neurons: Float[Tensor, "n neuron"],
    by_answer: Float[Tensor, "p neuron"],
    W_L: Float[Tensor, "neuron p"],
    waves: Float[Tensor, "key 2 p"],
) -> Float[Tensor, "key 2"]:
    """How well cos(w_k s) and sin(w_k s) of the answer s explain the neurons' sum that the logits read so.

    The sum is weighted by W_L's column along the same wave of the answer. nan if it is constant.

    Args:
        neurons: of all p^2 pairs, p of them for each answer.
        by_answer: their mean over the pairs of each answer.
        W_L: `neuron_logit_map`.
        waves: of the frequencies asked for.
    """
    readers = W_L @ waves.flatten(0, 1).T
    read = (neurons @ readers.to(neurons.dtype)).double()
    explained = len(by_answer) * ((by_answer @ readers).T * waves.flatten(0, 1)).sum(1).square()
    variance = (read - read.mean(0)).square().sum(0)
    constant = variance <= _ROUNDING * read.square().sum(0)
    return (explained / variance).masked_fill(constant, math.nan).view(-1, 2)


def mean_by_answer(seen: Observation) -> Float[Tensor, "p neuron"]:
    """Mean of the last layer's neurons over the pairs of each answer, in float64; ask with `seen.once`."""
    neurons = _last_neurons(seen)
    sums = neurons.new_zeros(seen.task.p, neurons.shape[1], dtype=torch.float64)
    return sums.index_add_(0, seen.answers, neurons.double()) / seen.task.p


def ablation_losses(seen: Observation) -> Float[Tensor, "split frequency"]:
    """Loss over the p answers with one frequency of the answer removed from every neuron of the last layer.

    Removed is the projection on cos(w_k s) and sin(w_k s) over all p^2 pairs, which leaves the mean. Nanda et
    al. do not say whether they remove this or the mean-centred activations of the frequency's neurons.
    Needs a model whose logits are linear in these neurons: `has_linear_readout`.
    """
    waves = waves_of(seen.task.p).to(seen.tokens.device)
    means = seen.once(mean_by_answer) @ neuron_logit_map(seen.model)
    scale = seen.unembed.loss_scale
    tables = scale * seen.unembed.readout_scale * sum_tables(means, waves)
    logits = scale * seen.logits[:, : seen.task.p].double()
    losses = seen.split_means(losses_without(logits, tables, seen.answers))
    losses[:, 0] = math.nan
    return losses


def has_linear_readout(seen: Observation) -> bool:
    """Whether no norm stands between the last layer's neurons and the logits."""
    norms = cast(GrokBlock, seen.model.blocks[-1]).sites.residual
    return seen.unembed.final_norm is None and not {"norm_mlp_out", "norm_resid_post"} & norms.keys()


def _last_neurons(seen: Observation) -> Float[Tensor, "n neuron"]:
    return seen.at_equals[neuron_hooks(seen.model)[-1]]


def _compute(seen: Observation) -> dict[str, Tensor]:
    p = seen.task.p
    neurons = seen.once(single_frequency_neurons)
    live = neurons.fve.isfinite()
    W_L = neuron_logit_map(seen.model)
    nowhere = torch.full((len(SPLITS), p // 2 + 1), math.nan, dtype=torch.float64)
    on_answers = seen.task.operation in OPERATIONS
    return {
        "neuron_fve": neurons.fve,
        "neuron_frequency": frequency_labels(neurons),
        "neurons_live": live.sum(1),
        "neurons_dead": (~live).sum(1),
        "neuron_cluster_size": cluster_sizes(neurons, p),
        "neuron_logit_spectrum": spectrum(W_L.T),
        "neuron_ablation_loss": (
            ablation_losses(seen) if on_answers and has_linear_readout(seen) else nowhere
        ),
        **_at_key_frequencies(seen, W_L),
    }


def _at_key_frequencies(seen: Observation, W_L: Float[Tensor, "neuron p"]) -> dict[str, Tensor]:
    keys = list(frozen_key_frequencies(seen))
    fve = torch.full((seen.task.p // 2 + 1, len(WAVES)), math.nan, dtype=torch.float64)
    undefined = torch.tensor(math.nan)
    found = {
        "neuron_logit_residual": undefined,
        "neuron_logit_svd_share": undefined,
        "neuron_projection_fve": fve,
    }
    if not keys:
        return found
    waves = waves_of(seen.task.p)[keys].to(W_L.device)
    if seen.task.operation in OPERATIONS:
        of_keys = projection_fve(_last_neurons(seen), seen.once(mean_by_answer), W_L, waves)
        fve[keys] = of_keys.to(fve.device)
    return {
        "neuron_logit_residual": residual_share(W_L, waves),
        "neuron_logit_svd_share": top_singular_share(W_L, len(directions(waves))),
        "neuron_projection_fve": fve,
    }


def _hooks(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS, *neuron_hooks(model))


_FVE = (
    "of a neuron's variance over all p^2 pairs, after its activation function at '=', that one frequency k "
    "explains with products of 1, cos(w_k a), sin(w_k a) and 1, cos(w_k b), sin(w_k b)"
)
_W_L = "W_out W_U of the last layer over the p answers, less each neuron's mean over them"
_DEAD = "the neuron is constant over all pairs"
_NO_KEYS = "there are no key frequencies"
_OPERATION = "the operation is neither addition nor subtraction"

PROBE = Probe(
    name="neurons",
    title="Which frequency every neuron computes with",
    source="Nanda et al., arXiv 2301.05217",
    seconds=0.033,
    quantities={
        "neuron_fve": Quantity(
            ("layer", "neuron"),
            "variance of one frequency",
            "1",
            f"Largest share over k = 1..p//2 {_FVE}.",
            nan=_DEAD,
        ),
        "neuron_frequency": Quantity(
            ("layer", "neuron"),
            "frequency of the neuron",
            "1",
            f"The frequency of `neuron_fve` where that exceeds {CLUSTER_FVE}, else -1.",
            nan=_DEAD,
        ),
        "neurons_live": Quantity(
            ("layer",),
            "live neurons",
            "1",
            "Number of neurons that vary over the p^2 pairs, after the activation function at '='.",
        ),
        "neurons_dead": Quantity(
            ("layer",),
            "dead neurons",
            "1",
            "Number of neurons that are constant over the p^2 pairs, after the activation function at '='.",
        ),
        "neuron_cluster_size": Quantity(
            ("layer", "frequency"),
            "neurons of the frequency",
            "1",
            "Number of neurons whose `neuron_frequency` this is; 0 for the constant.",
        ),
        "neuron_logit_spectrum": Quantity(
            ("frequency",),
            "norm of the neuron-logit map",
            "1",
            f"Norm over neurons of {_W_L}, along cosine and sine of each frequency of the answer in the "
            "orthonormal real Fourier basis. Raw weights, without norms and readout scale.",
        ),
        "neuron_logit_residual": Quantity(
            (),
            "neuron-logit map outside the key frequencies",
            "1",
            f"Norm of what {_W_L}, holds outside the cosines and sines of the key frequencies of the last "
            "checkpoint, over its norm.",
            nan=f"{_NO_KEYS}, or the map is zero",
        ),
        "neuron_logit_svd_share": Quantity(
            (),
            "neuron-logit map in as many directions",
            "1",
            f"Share of the squared singular values of {_W_L}, that the largest hold, as many as the key "
            "frequencies of the last checkpoint have cosines and sines.",
            source="not published",
            nan=f"{_NO_KEYS}, or the map is zero",
        ),
        "neuron_projection_fve": Quantity(
            ("frequency", "wave"),
            "variance of the neurons' projection",
            "1",
            "Share of the variance over all p^2 pairs of the last layer's neurons, weighted by the column of "
            "W_out W_U along cosine or sine of a frequency of the answer, that the same wave of the right "
            "answer explains. At the key frequencies of the last checkpoint.",
            nan=f"the frequency is no key frequency, the projection is constant, or {_OPERATION}",
        ),
        "neuron_ablation_loss": Quantity(
            ("split", "frequency"),
            "loss without one frequency of the neurons",
            "nats",
            "Cross-entropy over the p answers with the projection on cos(w_k s) and sin(w_k s), s the right "
            "answer, over all p^2 pairs removed from every neuron of the last layer at '='; mean over the "
            "pairs of the split, in float64.",
            nan=f"k = 0, the split is empty, a norm stands between neurons and logits, or {_OPERATION}",
        ),
    },
    compute=_compute,
    coordinates=lambda model, task: {"wave": WAVES},
    at_equals=_hooks,
    reads_final=True,
)
