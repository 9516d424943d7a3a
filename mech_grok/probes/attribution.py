"""Direct logit attribution: how much each component of the residual stream gives to the right answer."""

import math
from typing import cast

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.model.unembed import GrokUnembed
from mech_grok.probes.fourier_basis import by_frequency, fourier_basis
from mech_grok.probes.observation import LOGITS, SPLITS, Observation
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.probes.residual import (
    Read,
    component_labels,
    decompose_residual,
    mlp_reads,
    residual_hooks,
)


def class_directions(model: HookedTransformer) -> Float[Tensor, "d_model p"]:
    """The direction in the final residual stream that raises each answer over the mean of all p answers.

    `readout_scale * (W_U[:, c] - mean_c W_U[:, c])` over the p answers, without the class of `=`. There is
    no one wrong answer to compare with, and the mean makes the result blind to shifts of all logits. The
    scale is the unembedding's own: 1 where only the loss applies it.
    """
    answers = model.W_U[:, : model.cfg.d_vocab - 1]
    return cast(GrokUnembed, model.unembed).readout_scale * (answers - answers.mean(1, keepdim=True))


def component_logits(
    model: HookedTransformer, stack: Float[Tensor, "component *batch d_model"]
) -> Float[Tensor, "component *batch p"]:
    """What each component of `decompose_residual` adds to each answer's logit, centred over the p answers.

    The sum over components is the model's logits for the p answers less their mean.
    """
    return stack @ class_directions(model)


def right_answer_logits(
    model: HookedTransformer,
    stack: Float[Tensor, "component n d_model"],
    answers: Int[Tensor, " n"],
) -> Float[Tensor, "component n"]:
    """`component_logits` of the right answer only."""
    directions = class_directions(model).T[answers]
    return einsum(stack, directions, "component n d_model, n d_model -> component n")


def bias_logits(model: HookedTransformer) -> Float[Tensor, " p"]:
    """What the unembedding's bias adds to each answer's logit, centred over the p answers."""
    bias = model.b_U[: model.cfg.d_vocab - 1]
    return cast(GrokUnembed, model.unembed).readout_scale * (bias - bias.mean())


def component_attribution(seen: Observation) -> Float[Tensor, "3 component"]:
    """What each of `component_labels` adds to the right answer's centred logit, mean over each split."""
    model = seen.model
    labels, stack = decompose_residual(model, seen.at_equals)
    per_pair = right_answer_logits(model, stack, seen.answers)
    if len(component_labels(model)) > len(labels):
        per_pair = torch.cat([per_pair, bias_logits(model)[seen.answers][None]])
    return seen.split_means(rearrange(per_pair, "component n -> n component"))


def neuron_attribution(seen: Observation) -> Float[Tensor, "3 layer neuron"]:
    """What each neuron's output adds to the right answer's centred logit, mean over each split.

    The sum over a layer's neurons is its `mlp_out` component less what the MLP's own bias gives. A neuron
    adds its activation times a number that depends on the answer alone, so that activations are summed over
    the pairs of an answer first.
    """
    reads = mlp_reads(seen.model, seen.at_equals, class_directions(seen.model))
    of_layers = [_of_neurons(seen, layer, read) for layer, read in enumerate(reads)]
    return torch.stack(of_layers, 1)


def _of_neurons(seen: Observation, layer: int, read: Read) -> Float[Tensor, "3 neuron"]:
    gains = seen.model.blocks[layer].mlp.W_out @ read.directions
    active = seen.at_equals[_neurons(layer)] / read.divisor
    sums = torch.stack([_sum_by_answer(seen, active, split) for split in SPLITS])
    counts = torch.tensor([len(seen.indices(split)) for split in SPLITS], device=sums.device)
    return einsum(sums, gains, "split p neuron, neuron p -> split neuron").double() / counts[:, None]


def _sum_by_answer(seen: Observation, x: Float[Tensor, "n m"], split: str) -> Float[Tensor, "p m"]:
    index = seen.indices(split)
    rows = x if split == "all" else x[index]
    return x.new_zeros(seen.task.p, x.shape[1]).index_add_(0, seen.answers[index], rows)


def frequency_attribution(seen: Observation) -> Float[Tensor, "3 frequency"]:
    """What the logits along each frequency's sum directions give to the right answer, mean over each split.

    The centred logits are projected, class by class, on cos(w_k s) and sin(w_k s) over all p^2 pairs, with s
    the right answer and w_k = 2 pi k / p. At frequency 0 is all the rest: what is constant over the pairs,
    and what is on none of the sum directions. nan for operations other than addition and subtraction.
    """
    p, total = seen.task.p, seen.split_means(_right_answers(seen))
    if seen.task.operation not in ("add", "subtract"):
        return total.new_full((len(SPLITS), p // 2 + 1), math.nan)
    means = _sum_by_answer(seen, seen.once(_centred), "all") / p
    basis = fourier_basis(p).to(means.device)
    # Of the projection on a basis function f, f(s) sum_t f(t) L(t, c), the right answer's entry is c = s.
    of_answer = by_frequency(basis * (basis @ means))
    of_split = seen.split_means(of_answer.T[seen.answers])
    of_split[:, 0] = total - of_split[:, 1:].sum(1)
    return of_split


def _centred(seen: Observation) -> Float[Tensor, "n p"]:
    """Logits of the p answers less their mean, in float64."""
    logits = seen.logits[:, : seen.task.p].double()
    return logits - logits.mean(1, keepdim=True)


def _right_answers(seen: Observation) -> Float[Tensor, " n"]:
    return seen.once(_centred).gather(1, seen.answers[:, None])[:, 0]


def _neurons(layer: int) -> str:
    return f"blocks.{layer}.mlp.hook_post"


def _compute(seen: Observation) -> dict[str, Tensor]:
    return {
        "right_answer_logit": seen.split_means(_right_answers(seen)),
        "logit_attribution": component_attribution(seen),
        "neuron_attribution": neuron_attribution(seen),
        "frequency_attribution": frequency_attribution(seen),
    }


def _at_equals(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS, *residual_hooks(model), *(_neurons(layer) for layer in range(model.cfg.n_layers)))


_EMPTY = "the split is empty"

PROBE = Probe(
    name="attribution",
    title="What each component, neuron and frequency adds to the right answer's logit",
    source="direct logit attribution, as in TransformerLens",
    seconds=0.036,
    quantities={
        "right_answer_logit": Quantity(
            ("split",),
            "right answer's logit",
            "logits",
            "The right answer's logit at '=' less the mean logit of the p answers, in float64; mean over the "
            "pairs of the split. It is the sum of the components' attributions and that of the frequencies'.",
            nan=_EMPTY,
        ),
        "logit_attribution": Quantity(
            ("split", "component"),
            "logit attribution",
            "logits",
            "What each component of the residual stream at '=', and the unembedding's bias if it has one, "
            "adds to the right answer's logit, less what it adds to the mean logit of the p answers, the "
            "norms' divisors held; mean over the pairs of the split.",
            nan=_EMPTY,
        ),
        "neuron_attribution": Quantity(
            ("split", "layer", "neuron"),
            "logit attribution of neurons",
            "logits",
            "What each neuron's activation at '=' times its row of W_out adds directly to the right answer's "
            "logit, less what it adds to the mean logit of the p answers, with the norms' divisors held; "
            "mean over the pairs of the split. A layer's neurons and its MLP's bias sum to its component.",
            nan=_EMPTY,
        ),
        "frequency_attribution": Quantity(
            ("split", "frequency"),
            "logit attribution of frequencies",
            "logits",
            "The right answer's entry of the logits of the p answers, less their mean, once projected on "
            "cos(w_k s) and sin(w_k s) over all p^2 pairs, with s the right answer (a + b or a - b mod p) "
            "and w_k = 2 pi k / p; mean over the pairs of the split. At frequency 0 is all the rest, the "
            "constant and what is on no such direction, so that the sum is the right answer's logit.",
            source="the sum directions of Nanda et al., arXiv 2301.05217",
            nan=f"{_EMPTY}, or the operation is neither addition nor subtraction",
        ),
    },
    compute=_compute,
    at_equals=_at_equals,
)
