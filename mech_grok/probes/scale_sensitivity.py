"""How much the loss changes with the scale of what a pathway reads."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mech_grok.placement import PATHWAYS
from mech_grok.probes.observation import Observation, equals_only
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.training.loss import cross_entropy

_PAIRS = 1024
"""Training pairs over which the gradient is taken, for time."""

_POINTS = ("hook_out", "hook_in")
"""After and before the norm of a pathway."""


@torch.enable_grad()
def scale_gradients(seen: Observation) -> Float[Tensor, "2 layer pathway"]:
    """d loss / d log s at s = 1, in nats, with s a factor on the output [0] or input [1] of a pathway's norm.

    Each factor is on one pathway of one block, at all positions; the residual stream keeps its scale. The
    loss is over all classes, in float64, of the first 1,024 training pairs. nan without training pairs.
    """
    model, index = seen.model, seen.indices("train")[:_PAIRS]
    scale = model.W_E.new_ones(len(_POINTS), model.cfg.n_layers, len(PATHWAYS)).requires_grad_()
    if not len(index):
        return scale.detach() * math.nan
    hooks: list[tuple[str, Callable[..., Tensor]]] = [
        (f"blocks.{layer}.norm_{pathway}.{point}", partial(_times, factor=scale[i, layer, j]))
        for i, point in enumerate(_POINTS)
        for layer in range(model.cfg.n_layers)
        for j, pathway in enumerate(PATHWAYS)
    ]
    with model.hooks(fwd_hooks=[*equals_only(model), *hooks]):
        logits = model(seen.tokens[index])[:, -1]
    loss = cross_entropy(logits, seen.answers[index], seen.unembed.loss_scale).mean()
    return torch.autograd.grad(loss, scale)[0]


def _times(activation: Tensor, hook: HookPoint, *, factor: Tensor) -> Tensor:
    return activation * factor


def _compute(seen: Observation) -> dict[str, Tensor]:
    of_output, of_input = scale_gradients(seen)
    return {"output_scale_sensitivity": of_output, "input_scale_sensitivity": of_input}


_DEFINITION = (
    "d loss / d log s at s = 1, with s a factor on {}, at all positions, the residual stream keeping its "
    "scale; loss over all classes at '=' in float64, mean over the first 1,024 training pairs or all."
)
_EMPTY = "the training set is empty"

PROBE = Probe(
    name="scale_sensitivity",
    title="How the loss changes with the scale of what a pathway reads",
    source="this project",
    seconds=0.028,
    quantities={
        "output_scale_sensitivity": Quantity(
            ("layer", "pathway"),
            "sensitivity to the scale of what a pathway reads",
            "nats",
            _DEFINITION.format("what the pathway reads, after its norm and affine if it has them"),
            nan=_EMPTY,
        ),
        "input_scale_sensitivity": Quantity(
            ("layer", "pathway"),
            "sensitivity to the scale of a pathway's input",
            "nats",
            _DEFINITION.format("the pathway's input, before its norm")
            + " Zero, up to the norm's epsilon and rounding, where the input is normalised; equal to the "
            "sensitivity to the output's scale where it is not.",
            nan=_EMPTY,
        ),
    },
    compute=_compute,
)
