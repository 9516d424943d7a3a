"""Direct logit attribution: how much each component of the residual stream gives to the right answer."""

import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.model import GrokTransformer
from mech_grok.probes.observation import SPLITS, Observation
from mech_grok.probes.probe import Probe, variable
from mech_grok.probes.residual import decompose_residual, residual_hooks


def class_directions(model: GrokTransformer) -> Float[Tensor, "d_model p"]:
    """The direction in the final residual stream that raises each answer over the mean of all p answers.

    `readout_scale * (W_U[:, c] - mean_c W_U[:, c])` over the p answers, without the class of `=`. There is
    no one wrong answer to compare with, and the mean makes the result blind to shifts of all logits. The
    scale is the unembedding's own: 1 where only the loss applies it.
    """
    answers = model.W_U[:, :-1]
    return model.unembed.readout_scale * (answers - answers.mean(1, keepdim=True))


def component_logits(
    model: GrokTransformer, stack: Float[Tensor, "component *batch d_model"]
) -> Float[Tensor, "component *batch p"]:
    """What each component of `decompose_residual` adds to each answer's logit, centred over the p answers.

    The sum over components is the model's logits for the p answers less their mean.
    """
    return stack @ class_directions(model)


def right_answer_logits(
    model: GrokTransformer,
    stack: Float[Tensor, "component n d_model"],
    answers: Int[Tensor, " n"],
) -> Float[Tensor, "component n"]:
    """`component_logits` of the right answer only."""
    directions = class_directions(model).T[answers]
    return einsum(stack, directions, "component n d_model, n d_model -> component n")


def _compute(seen: Observation) -> xr.Dataset:
    labels, stack = decompose_residual(seen.model, seen.at_equals)
    per_pair = right_answer_logits(seen.model, stack, seen.answers)
    attribution = variable(
        ("split", "component"),
        seen.split_means(rearrange(per_pair, "component n -> n component")),
        long_name="logit attribution",
        units="logits",
        definition="What each component of the residual stream at '=' adds to the right answer's logit, less "
        "what it adds to the mean logit of the p answers, with the norms' divisors held; mean over the pairs "
        "of the split.",
    )
    return xr.Dataset({"logit_attribution": attribution}, coords={"split": list(SPLITS), "component": labels})


PROBE = Probe(
    name="attribution",
    title="What each component adds to the right answer's logit",
    compute=_compute,
    at_equals=residual_hooks,
)
