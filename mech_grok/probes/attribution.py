"""Direct logit attribution: how much each component of the residual stream gives to the right answer."""

from typing import cast

from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.model.unembed import GrokUnembed
from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.probes.residual import decompose_residual, residual_hooks


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


def _compute(seen: Observation) -> dict[str, Tensor]:
    _, stack = decompose_residual(seen.model, seen.at_equals)
    per_pair = right_answer_logits(seen.model, stack, seen.answers)
    return {"logit_attribution": seen.split_means(rearrange(per_pair, "component n -> n component"))}


PROBE = Probe(
    name="attribution",
    title="What each component adds to the right answer's logit",
    source="direct logit attribution, as in TransformerLens",
    seconds=0.0,
    quantities={
        "logit_attribution": Quantity(
            ("split", "component"),
            "logit attribution",
            "logits",
            "What each component of the residual stream at '=' adds to the right answer's logit, less what "
            "it adds to the mean logit of the p answers, with the norms' divisors held; mean over the pairs "
            "of the split.",
        ),
    },
    compute=_compute,
    at_equals=residual_hooks,
)
