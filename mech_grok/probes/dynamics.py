"""Norms of weights and gradient by part of the model, and how far training has moved each part.

The norms of every step's gradient and update are in a run's `norms`; these are of a checkpoint alone, so
that they can be had of any model.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.model.parameter_groups import parameter_groups
from mech_grok.probes.observation import Observation, equals_only, passes
from mech_grok.probes.probe import Labels, Probe, Quantity
from mech_grok.task import Task
from mech_grok.training.loss import cross_entropy

Named = dict[str, Tensor]


def trained_parameters(model: HookedTransformer) -> Named:
    """Name -> parameter of everything that requires a gradient: in this project's models, what is trained."""
    return {name: x for name, x in model.named_parameters() if x.requires_grad}


def train_gradient(
    model: HookedTransformer,
    tokens: Int[Tensor, "n 3"],
    answers: Int[Tensor, " n"],
    loss_scale: float = 1.0,
) -> Named:
    """Gradient of the mean cross-entropy over all classes at `=`, by trained parameter.

    The loss is that of the model's own logits, in float64; where training subtracts the initial prediction,
    its gradient is another one. Nothing is left in `.grad`.

    Args:
        model: of any depth and placement.
        tokens: the inputs `a b =`; none give a gradient of nan.
        answers: their right classes.
        loss_scale: what the loss multiplies the logits by.
    """
    parameters = trained_parameters(model)
    total = {name: torch.zeros_like(x) for name, x in parameters.items()}
    with torch.enable_grad(), model.hooks(fwd_hooks=list(equals_only(model))):
        for batch, right in zip(passes(tokens), passes(answers), strict=True):
            losses = cross_entropy(model(batch)[:, -1], right, loss_scale)
            gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
            torch._foreach_add_(list(total.values()), list(gradients))
    return {name: gradient / len(tokens) for name, gradient in total.items()}


def norms_by_group(named: Named) -> Float[Tensor, " group"]:
    """L2 norm of the tensors of every part of the model, in float64."""
    groups = parameter_groups(named)
    norms = {name: torch.linalg.vector_norm(x, dtype=torch.float64) for name, x in named.items()}
    return torch.stack([torch.stack([norms[n] for n in names]).norm() for names in groups.values()])


def _initial_parameters(seen: Observation) -> Named:
    return {name: x.detach().clone() for name, x in trained_parameters(seen.model).items()}


def _compute(seen: Observation) -> dict[str, Tensor]:
    weights = {name: x.detach() for name, x in trained_parameters(seen.model).items()}
    train = seen.split["train"]
    gradient = train_gradient(seen.model, seen.tokens[train], seen.answers[train], seen.unembed.loss_scale)
    initial = seen.at_initial(_initial_parameters)
    moved = {
        name: x - initial[name] if initial else torch.full_like(x, torch.nan) for name, x in weights.items()
    }
    norms = {"weight": weights, "gradient": gradient, "moved": moved}
    by_group = {f"{of}_norm_by_group": norms_by_group(named) for of, named in norms.items()}
    totals = {name.removesuffix("_by_group"): norm.norm() for name, norm in by_group.items()}
    inner = sum(torch.sum(weights[name].double() * gradient[name]) for name in weights)
    cosine = -inner / (totals["weight_norm"] * totals["gradient_norm"])
    return {**by_group, **totals, "scaling_cosine": cosine}


def _groups(model: HookedTransformer, task: Task) -> dict[str, Labels]:
    return {"group": list(parameter_groups(trained_parameters(model)))}


_OF = {
    "weight": ("weight norm", "L2 norm of the trained parameters", ""),
    "gradient": (
        "gradient norm",
        "L2 norm of the gradient of the train loss, of the model's own logits over all classes",
        "there is no training pair",
    ),
    "moved": (
        "distance from the start",
        "L2 norm of weights less those of the first checkpoint: the initial ones, or, of a run that began "
        "from a checkpoint of another one, what it began with",
        "no first checkpoint is known",
    ),
}

PROBE = Probe(
    name="dynamics",
    title="Norms of weights, gradient and path by part of the model",
    source="arXiv 2602.06702",
    seconds=0.14,
    quantities={
        **{
            f"{of}_norm_by_group": Quantity(
                ("group",), f"{name} by part", "1", f"{text}, by part of the model.", nan=nan
            )
            for of, (name, text, nan) in _OF.items()
        },
        **{
            f"{of}_norm": Quantity((), name, "1", f"{text}.", nan=nan)
            for of, (name, text, nan) in _OF.items()
        },
        "scaling_cosine": Quantity(
            (),
            "cosine of descent and weights",
            "1",
            "Cosine between the negative gradient of the train loss and the weights: 1 where the loss falls "
            "fastest by scaling all weights up, as in naive loss minimisation.",
            source="Prieto et al., arXiv 2501.04697",
            nan="the gradient is zero, or there is no training pair",
        ),
    },
    compute=_compute,
    coordinates=_groups,
)
