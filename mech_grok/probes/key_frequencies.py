"""The frequencies that the network computes with, by five rules that do not always agree.

Frequencies k and p - k are the same one; 1..p//2 are searched, p/2 included where p is even. Rules that
compare with a low threshold name nothing where more than half of the frequencies pass it: untrained, every
frequency of the embedding reaches a quarter of the largest.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.fourier_basis import spectrum
from mech_grok.probes.logit_projections import (
    Centred,
    answer_means,
    centred,
    cosine_amplitudes,
    cosine_norms,
    losses_without,
    sum_tables,
    waves_of,
)
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
from mech_grok.task import Operation

RULES = ("embedding", "neuron_logit_map", "clusters", "logit_trace", "exclusion")

OPERATIONS: tuple[Operation, ...] = ("add", "subtract")
"""Operations under which the phase of the right answer is that of a plus or minus that of b."""

_PEAK = 0.25
_CLUSTER_SHARE = 0.01
_TRACE = 0.005
_LOSS_RATIO = 2.0
_ROUNDING = 1e-10


def peaks(norms: Float[Tensor, " frequency"]) -> Bool[Tensor, " frequency"]:
    """Frequencies whose norm exceeds a quarter of the largest, the constant aside.

    TransformerLens' demonstration reads the embedding so, cosine and sine apart; here they come added in
    quadrature, so that a phase changes nothing.
    """
    varying = _without_constant(norms)
    largest = varying.max()
    return _if_sparse((varying > _PEAK * largest) & (largest > _ROUNDING * norms.norm()))


def clusters(neurons: SingleFrequency, p: int) -> Bool[Tensor, " frequency"]:
    """Frequencies that explain more than `CLUSTER_FVE` of 1 % of a layer's live neurons, and of one at least.

    The code of Nanda et al. takes every neuron's best frequency, however little it explains, and so can name
    a frequency for the sake of one badly explained neuron.
    """
    live = neurons.fve.isfinite().sum(-1, keepdim=True)
    return (cluster_sizes(neurons, p) >= (_CLUSTER_SHARE * live).clamp(min=1)).any(0)


def traces(similarity: Float[Tensor, " frequency"]) -> Bool[Tensor, " frequency"]:
    """Frequencies whose `logit_similarity` exceeds 0.005.

    Logits that have memorised the training pairs hold a little of every frequency: then none is named.
    """
    return _if_sparse(_without_constant(similarity) > _TRACE)


def needed(excluded: Float[Tensor, " frequency"], loss: Float[Tensor, ""]) -> Bool[Tensor, " frequency"]:
    """Frequencies without which the training loss more than doubles.

    The paper asks for a rise and leaves its size open. A small loss doubles where the margins of the right
    answers shrink by ln 2.
    """
    return _without_constant(excluded) > _LOSS_RATIO * loss


def centred_logits(seen: Observation) -> Centred:
    """The logits of the p answers less their mean over them; ask with `seen.once`."""
    return centred(seen.logits[:, : seen.task.p])


def logit_similarity(seen: Observation) -> Float[Tensor, " frequency"]:
    """Cosine of the logits with cos(w_k (s - c)), s the right answer, over all pairs and the p answers c.

    Of the logits less their mean over the answers; nan if they are constant. Ask with `seen.once`.
    """
    logits = seen.once(centred_logits)
    waves = waves_of(seen.task.p).to(seen.logits.device)
    amplitudes = cosine_amplitudes(answer_means(logits.varying, seen.answers), waves)
    return amplitudes * cosine_norms(waves) / logits.power.sqrt()


def excluded_losses(seen: Observation) -> Float[Tensor, "split frequency"]:
    """Loss of the pairs of each split, over the p answers, without each frequency of the right answer.

    What is taken away is the projection on cos(w_k s) and sin(w_k s) over all p^2 pairs. The first entry
    takes nothing away. nan for an empty split. Ask with `seen.once`.
    """
    logits = seen.unembed.loss_scale * seen.logits[:, : seen.task.p].double()
    tables = sum_tables(answer_means(logits, seen.answers), waves_of(seen.task.p).to(logits.device))
    tables[0] = 0.0
    return seen.split_means(losses_without(logits, tables, seen.answers))


def masks(seen: Observation) -> dict[str, Bool[Tensor, " frequency"]]:
    """The key frequencies by each of `RULES` that can be applied."""
    p = seen.task.p
    found = {
        "embedding": peaks(spectrum(seen.model.W_E[:p])),
        "neuron_logit_map": peaks(spectrum(neuron_logit_map(seen.model).T)),
        "clusters": clusters(seen.once(single_frequency_neurons), p),
    }
    if seen.task.operation in OPERATIONS:
        found["logit_trace"] = traces(seen.once(logit_similarity))
        if len(seen.indices("train")):
            losses = seen.once(excluded_losses)[SPLITS.index("train")]
            found["exclusion"] = needed(losses, losses[0])
    return found


def found_key_frequencies(seen: Observation) -> tuple[int, ...]:
    """The key frequencies of this checkpoint; empty if there is no peak.

    Those of the neuron clusters. Where there are none, as in a network of products whose neurons hold a fifth
    of their variance elsewhere, those of the neuron-logit map, on which Nanda et al. base their progress
    measures. For a whole training, ask with `frozen_key_frequencies`.
    """
    mask = clusters(seen.once(single_frequency_neurons), seen.task.p)
    if not mask.any():
        mask = peaks(spectrum(neuron_logit_map(seen.model).T))
    return tuple(mask.nonzero()[:, 0].tolist())


def frozen_key_frequencies(seen: Observation) -> tuple[int, ...]:
    """The key frequencies of the last checkpoint, or those that the caller has set; empty if not sparse.

    A probe that calls this needs the hook points of `key_frequency_hooks`, and sets `reads_final`.
    """
    given = seen.anchors.key_frequencies
    return seen.at_final(found_key_frequencies) if given is None else given


def key_frequency_hooks(model: HookedTransformer) -> tuple[str, ...]:
    """Hook points whose activations at `=` the key frequencies are found in."""
    return neuron_hooks(model)


def _without_constant(of_frequencies: Float[Tensor, " frequency"]) -> Float[Tensor, " frequency"]:
    without = of_frequencies.clone()
    without[0] = 0.0
    return without


def _if_sparse(mask: Bool[Tensor, " frequency"]) -> Bool[Tensor, " frequency"]:
    """The mask, or nothing where it names more than half of the frequencies 1..p//2."""
    return mask & (2 * mask.sum() < len(mask))


def _compute(seen: Observation) -> dict[str, Tensor | float]:
    found = masks(seen)
    own = _mask(found_key_frequencies(seen), seen)
    undefined = torch.full_like(own, math.nan)
    rules = torch.stack([found[rule].double() if rule in found else undefined for rule in RULES])
    embedding, logit_map, by_clusters = rules[:3]
    agree = embedding.any() and embedding.equal(logit_map) and embedding.equal(by_clusters)
    return {
        "key_frequency_by_rule": rules,
        "key_frequency_count_by_rule": rules.sum(1),
        "key_frequency": own,
        "key_frequency_sparse": float(own.any()),
        "key_frequency_frozen": _mask(frozen_key_frequencies(seen), seen),
        "key_frequency_agreement": float(agree),
    }


def _mask(keys: tuple[int, ...], seen: Observation) -> Float[Tensor, " frequency"]:
    mask = torch.zeros(seen.task.p // 2 + 1, dtype=torch.float64, device=seen.tokens.device)
    mask[list(keys)] = 1.0
    return mask


def _hooks(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS, *key_frequency_hooks(model))


_RULES_IN_WORDS = (
    "embedding: norm of W_E over a quarter of the largest. neuron_logit_map: the same for W_out W_U of the "
    f"last layer. clusters: more than {CLUSTER_FVE} of the variance of 1 % of a layer's live neurons, of one "
    "at least. logit_trace: cosine of the logits with cos(w_k (s - c)) over 0.005, with s the right answer "
    "and c the class, over the p answers. exclusion: the training loss over the p answers more than doubles "
    "without the frequency (the factor is ours). All but clusters and exclusion name none where they would "
    "name more than half of 1..p//2."
)
_NOT_APPLICABLE = (
    "the rule is logit_trace or exclusion and the operation neither addition nor subtraction, or it is "
    "exclusion and there are no training pairs"
)
_RULE_SOURCES = "arXiv 2301.05217 and its released code; logit_trace: arXiv 2302.03025"

PROBE = Probe(
    name="key_frequencies",
    title="The frequencies that the network computes with",
    source="Nanda et al., arXiv 2301.05217",
    seconds=0.1,
    quantities={
        "key_frequency_by_rule": Quantity(
            ("key_frequency_rule", "frequency"),
            "key frequency, by rule",
            "1",
            f"1 where the rule names the frequency, else 0. {_RULES_IN_WORDS}",
            source=_RULE_SOURCES,
            nan=_NOT_APPLICABLE,
        ),
        "key_frequency_count_by_rule": Quantity(
            ("key_frequency_rule",),
            "number of key frequencies, by rule",
            "1",
            "How many frequencies each rule of `key_frequency_by_rule` names; 0 where there is no peak.",
            source=_RULE_SOURCES,
            nan=_NOT_APPLICABLE,
        ),
        "key_frequency": Quantity(
            ("frequency",),
            "key frequency of this checkpoint",
            "1",
            "1 for the frequencies of the rule clusters, or of neuron_logit_map where that names none; 0 for "
            "others.",
        ),
        "key_frequency_sparse": Quantity(
            (), "has key frequencies", "1", "1 if `key_frequency` names any, 0 if there is no peak."
        ),
        "key_frequency_frozen": Quantity(
            ("frequency",),
            "key frequency of the training",
            "1",
            "1 for the frequencies of `key_frequency` at the last checkpoint, or for those that the caller "
            "has set; else 0. Probes that need key frequencies use these at every checkpoint.",
        ),
        "key_frequency_agreement": Quantity(
            (),
            "rules agree",
            "1",
            "1 if embedding, neuron_logit_map and clusters name the same frequencies, at least one; else 0.",
        ),
    },
    compute=_compute,
    coordinates=lambda model, task: {"key_frequency_rule": RULES},
    at_equals=_hooks,
    reads_final=True,
)
