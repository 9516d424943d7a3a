"""Progress measures: what the key frequencies of the logits achieve alone, and what is left without them.

All are over the p answers and fitted to all p^2 pairs, so that what is averaged over the training pairs has
seen the held-out ones too. The key frequencies are those of the last checkpoint, all along a training.

"Restricted" is published with the sum directions in code, with 2x2 blocks in prose and with 3x3 blocks as an
ablation, and over all, training or held-out pairs; excluded loss is over the training pairs. All are here.
Variants of the losses that project neurons and not logits are left out: in the demonstration of
TransformerLens the restricted one drops the skip path and the excluded one keeps it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.key_frequencies import (
    OPERATIONS,
    centred_logits,
    excluded_losses,
    frozen_key_frequencies,
    key_frequency_hooks,
    logit_similarity,
)
from mech_grok.probes.logit_projections import (
    Centred,
    answer_means,
    block_projections,
    class_share,
    cosine_amplitudes,
    cosine_norms,
    cosine_table,
    losses_without,
    restricted_losses,
    split_amplitudes,
    sum_share,
    sum_tables,
    waves_of,
)
from mech_grok.probes.observation import LOGITS, SPLITS, Observation
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.training.loss import correct, cross_entropy


def _compute(seen: Observation) -> dict[str, Tensor]:
    found = _undefined(seen)
    if seen.task.operation not in OPERATIONS:
        return found
    logits = seen.once(centred_logits)
    means = answer_means(logits.varying, seen.answers)
    waves = waves_of(seen.task.p).to(means.device)
    found |= _of_each_frequency(seen, logits, waves)
    keys = list(frozen_key_frequencies(seen))
    if keys:
        found |= _with_and_without(seen, logits, means, waves[keys])
        found |= _restricted_to_blocks(seen, logits, waves[keys])
        found |= _trig_ratios(seen, waves[keys])
        found["logit_class_fve"] = class_share(logits, waves[keys])
        found["logit_cosine_fve"] = seen.once(logit_similarity)[keys].square().sum()
    return found


def _undefined(seen: Observation) -> dict[str, Tensor]:
    """nan for every quantity."""
    sizes = {"split": len(SPLITS), "frequency": seen.task.p // 2 + 1, "layer": seen.model.cfg.n_layers}
    shapes = {name: [sizes[dim] for dim in quantity.dims] for name, quantity in _QUANTITIES.items()}
    return {name: torch.full(shape, math.nan, dtype=torch.float64) for name, shape in shapes.items()}


def _of_each_frequency(
    seen: Observation, logits: Centred, waves: Float[Tensor, "frequency 2 p"]
) -> dict[str, Tensor]:
    losses = cross_entropy(seen.logits[:, : seen.task.p], seen.answers, seen.unembed.loss_scale)
    of_split = [logits.varying[seen.indices(split)] + logits.mean for split in SPLITS]
    amplitudes = torch.stack(
        [
            split_amplitudes(x, seen.answers[seen.indices(split)], waves)
            for x, split in zip(of_split, SPLITS, strict=True)
        ]
    )
    root_mean_square = torch.stack([x.square().sum().div(len(x)).sqrt() for x in of_split])
    of_cosine = cosine_norms(waves) / seen.task.p
    return {
        "loss_over_answers": seen.split_means(losses),
        "excluded_loss_per_frequency": _but_constant(seen.once(excluded_losses)),
        "logit_cosine_amplitude": _but_constant(amplitudes),
        "logit_cosine_similarity": _but_constant(amplitudes * of_cosine / root_mean_square[:, None]),
    }


def _but_constant(of_frequencies: Float[Tensor, "split frequency"]) -> Float[Tensor, "split frequency"]:
    """nan for frequency 0, which no measure is about."""
    constant = of_frequencies.new_full((len(of_frequencies), 1), math.nan)
    return torch.cat([constant, of_frequencies[:, 1:]], dim=1)


def _with_and_without(
    seen: Observation, logits: Centred, means: Float[Tensor, "p p"], waves: Float[Tensor, "key 2 p"]
) -> dict[str, Tensor]:
    """Of the logits on the sum directions and on the cosines of the key frequencies, and without them."""
    sums = sum_tables(means, waves).sum(0)
    cosines = cosine_table(cosine_amplitudes(means, waves), waves)
    restricted, answers = sums + logits.mean, torch.arange(len(sums), device=sums.device)
    scale = seen.unembed.loss_scale
    losses = restricted_losses(sums, logits.mean, seen.answers, scale)
    tables = scale * torch.stack([sums, cosines])
    excluded = losses_without(scale * (logits.varying + logits.mean), tables, seen.answers)
    return {
        "restricted_loss": seen.split_means(losses),
        "restricted_accuracy": seen.split_means(correct(restricted, answers)[seen.answers]),
        "restricted_variance": sum_share(logits.varying, seen.answers, waves),
        "trig_loss": cross_entropy(cosines, answers, scale).mean(),
        "excluded_loss": seen.split_means(excluded[:, 0]),
        "excluded_loss_3d": seen.split_means(excluded[:, 1]),
    }


def _restricted_to_blocks(
    seen: Observation, logits: Centred, waves: Float[Tensor, "key 2 p"]
) -> dict[str, Tensor]:
    found = {}
    for name, kept in zip(("2x2", "3x3"), block_projections(logits.varying, waves), strict=True):
        losses = cross_entropy(kept + logits.mean, seen.answers, seen.unembed.loss_scale)
        found[f"restricted_loss_{name}"] = seen.split_means(losses)
        found[f"restricted_variance_{name}"] = kept.square().sum() / logits.varying.square().sum()
    return found


def _trig_ratios(seen: Observation, waves: Float[Tensor, "key 2 p"]) -> dict[str, Tensor]:
    ratios = {}
    for name in ("pre", "post"):
        layers = [seen.at_equals[hook] for hook in _neurons(seen.model, name)]
        ratios[f"trig_ratio_{name}"] = torch.stack([sum_share(x, seen.answers, waves).sqrt() for x in layers])
    return ratios


_OPERATION = "the operation is neither addition nor subtraction"
_NO_KEYS = f"there are no key frequencies, or {_OPERATION}"
_NO_PAIRS = f"the split is empty, {_NO_KEYS}"
_CONSTANT = "a pair's logits are the same for all classes"
_LEVEL = ", in float64. Projected class by class on all p^2 pairs; mean over those of the split."
_S = "s = a + b (a - b for subtraction)"
_SUMS = f"cos(w_k s) and sin(w_k s) of the key frequencies k, {_S}"
_TWO = "the products of cos or sin w_k a with cos or sin w_k b (for each key frequency k)"
_THREE = f"{_TWO} and on cos and sin of w_k a and of w_k b alone"


def _restricted(name: str, directions: str) -> Quantity:
    return Quantity(
        ("split",),
        f"restricted loss{name}",
        "nats",
        "Cross-entropy over the p answers of the logits projected, in the space of pairs, on "
        f"{directions}, with the mean logit of each class over all pairs added back{_LEVEL}",
        nan=_NO_PAIRS,
    )


def _variance(name: str, directions: str) -> Quantity:
    return Quantity(
        (),
        f"share of the logits' variance{name}",
        "1",
        f"Share of the sum of squares of the logits that is left by the projection on {directions}. Logits "
        "of the p answers less their mean over classes, and less the mean over all pairs of each class.",
        nan=f"{_NO_KEYS}, or the logits do not depend on the pair",
    )


def _trig_ratio(when: str) -> Quantity:
    return Quantity(
        ("layer",),
        f"trig ratio of neurons {when} the activation function",
        "1",
        f"||projection of all neurons' values at '=' on {_SUMS}|| / ||values less each neuron's mean||, over "
        "all p^2 pairs. Of the logits it is the square root of `restricted_variance`.",
        nan=f"{_NO_KEYS}, or the neurons do not depend on the pair",
    )


def _excluded(dims: tuple[str, ...], name: str, what: str, average: str, nan: str) -> Quantity:
    return Quantity(
        dims,
        f"excluded loss{name}",
        "nats",
        f"Cross-entropy over the p answers of the logits less {what}, in float64. Fitted to all p^2 pairs; "
        f"mean over {average}. May exceed log p.",
        nan=nan,
    )


_QUANTITIES = {
    "loss_over_answers": Quantity(
        ("split",),
        "loss over the p answers",
        "nats",
        "Cross-entropy over the p answers of the logits at '=' as they are, in float64, mean over the pairs "
        "of the split: what the restricted and excluded losses compare with.",
        nan=f"the split is empty, or {_OPERATION}",
    ),
    "restricted_loss": _restricted("", _SUMS),
    "restricted_loss_2x2": _restricted(", 2x2 blocks", _TWO),
    "restricted_loss_3x3": _restricted(", 3x3 blocks", _THREE),
    "restricted_accuracy": Quantity(
        ("split",),
        "accuracy of the restricted logits",
        "1",
        "Share of the pairs of the split whose largest of the p logits of `restricted_loss` is the right "
        "answer's.",
        nan=_NO_PAIRS,
    ),
    "restricted_variance": _variance(", key frequencies", _SUMS),
    "restricted_variance_2x2": _variance(", 2x2 blocks", _TWO),
    "restricted_variance_3x3": _variance(", 3x3 blocks", _THREE),
    "trig_ratio_pre": _trig_ratio("before"),
    "trig_ratio_post": _trig_ratio("after"),
    "excluded_loss": _excluded(
        ("split",), "", f"their projection on {_SUMS}", "the pairs of the split (published: train)", _NO_PAIRS
    ),
    "excluded_loss_3d": _excluded(
        ("split",),
        ", cosines only",
        f"sum over key frequencies k of alpha_k cos(w_k (s - c)), {_S}, c the class",
        "the pairs of the split",
        _NO_PAIRS,
    ),
    "excluded_loss_per_frequency": _excluded(
        ("split", "frequency"),
        " by frequency",
        f"their projection on cos(w_k s) and sin(w_k s) of one frequency k, {_S}",
        "the pairs of the split (published: train)",
        f"k = 0, the split is empty, or {_OPERATION}",
    ),
    "trig_loss": Quantity(
        (),
        "trig loss",
        "nats",
        "Cross-entropy over the p answers, the same for every pair, of sum over key frequencies k of "
        f"alpha_k cos(w_k (s - c)), {_S}, c the class.",
        nan=_NO_KEYS,
    ),
    "logit_cosine_amplitude": Quantity(
        ("split", "frequency"),
        "amplitude of cos(w_k (s - c))",
        "logits",
        "Regression amplitude alpha_k of the logits on cos(w_k (s - c)) over the pairs of the split and the "
        f"p answers c, {_S}. The released code prints <L, cos> / ||cos|| over all pairs, which is "
        "alpha_k sqrt(p^3 / 2) for odd p.",
        nan=f"k = 0, the split is empty, or {_OPERATION}",
    ),
    "logit_cosine_similarity": Quantity(
        ("split", "frequency"),
        "cosine similarity with cos(w_k (s - c))",
        "1",
        "Cosine similarity, over the pairs of the split and the p answers c, of the logits less their mean "
        f"over classes with cos(w_k (s - c)), {_S}.",
        source="Chughtai et al., arXiv 2302.03025",
        nan=f"k = 0, the split is empty, {_CONSTANT}, or {_OPERATION}",
    ),
    "logit_cosine_fve": Quantity(
        (),
        "share of the logits explained by cosines",
        "1",
        "Sum over the key frequencies of the squared `logit_cosine_similarity` over all pairs.",
        nan=f"{_CONSTANT}, {_NO_KEYS}",
    ),
    "logit_class_fve": Quantity(
        (),
        "share of the logits at key frequencies of the class",
        "1",
        "Share of the sum of squares of the logits over the p answers c, less their mean over classes, on "
        "cos(w_k c) and sin(w_k c) of the key frequencies, whatever multiplies them.",
        nan=f"{_CONSTANT}, {_NO_KEYS}",
    ),
}


def _hooks(model: HookedTransformer) -> tuple[str, ...]:
    neurons = (*_neurons(model, "pre"), *_neurons(model, "post"))
    return (LOGITS, *neurons, *key_frequency_hooks(model))


def _neurons(model: HookedTransformer, name: str) -> list[str]:
    return [f"blocks.{layer}.mlp.hook_{name}" for layer in range(model.cfg.n_layers)]


PROBE = Probe(
    name="progress",
    title="Progress measures: restricted, excluded and trigonometric loss",
    source="Nanda et al., arXiv 2301.05217",
    seconds=0.06,
    quantities=_QUANTITIES,
    compute=_compute,
    at_equals=_hooks,
    reads_final=True,
)
