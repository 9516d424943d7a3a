"""The weights of one placement in a model of another, and AdamW's moments with them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mech_grok.config import CellConfig, ModelConfig
from mech_grok.model.norm_sites import block_sites
from mech_grok.training.parameters import ParameterStack

_IDENTITY = {"w": 1.0, "b": 0.0}

State = Mapping[str, Tensor]
"""AdamW's `exp_avg` and `exp_avg_sq` [seed, n_parameters], and its count `step`."""


@dataclass(frozen=True)
class Transplant:
    """The parameters of a run's first checkpoint, and which of them are the parent's.

    Attributes:
        parameters: of all seeds.
        kept: names whose values are the parent's.
        new: names that begin anew: gain 1 and bias 0 of a norm; an attention factor as the config has it.
        dropped: the parent's names that this model has no use for.
    """

    parameters: ParameterStack
    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


@torch.no_grad()
def transplant(weights: Mapping[str, Tensor], parent: ModelConfig, child: CellConfig) -> Transplant:
    """The parent's weights in the child's model, bit for bit where both have a parameter.

    A pathway that joins the others of a shared norm reads their gain and bias from then on.

    Args:
        weights: the parent's, name -> [seed, ...].
        parent: what they are the weights of.
        child: the config of the run that goes on with them.
    """
    stack = ParameterStack.initial(child)
    own = {**stack.named(), **stack.frozen}
    begun_anew = {
        f"blocks.{layer}.{key}.{leaf}"
        for layer in range(child.model.n_layers)
        for key in new_affines(parent, child.model)
        for leaf in _IDENTITY
    }
    kept = tuple(name for name in own if name in weights and name not in begun_anew)
    for name, tensor in own.items():
        if name in kept:
            tensor.copy_(weights[name])
        elif name in begun_anew:
            tensor.fill_(_IDENTITY[name.rpartition(".")[2]])
    new = tuple(name for name in own if name not in kept)
    return Transplant(stack, kept, new, tuple(name for name in weights if name not in kept))


def new_affines(parent: ModelConfig, child: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The gains and biases that a block of the child has and the parent's has not.

    `ln1` and `ln2` are on pathways in one arrangement and on the residual stream in another (`post`): those
    are two places, and the second begins anew.

    Returns:
        Key under the block -> the norms that read it (`q`, `k`, `v`, `mlp`, `norm_attn_out`, ...), both in
        the order in which the block reads them.
    """
    before, after = _readers(parent), _readers(child)
    return {key: names for key, names in after.items() if _place(before.get(key)) != _place(names)}


_READING_ORDER = ("q", "k", "v", "norm_attn_out", "norm_resid_mid", "mlp", "norm_mlp_out", "norm_resid_post")


def _readers(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    sites = block_sites(config)
    named = {**sites.pathways, **sites.residual}
    readers: dict[str, tuple[str, ...]] = {}
    for name in _READING_ORDER:
        key = named[name].affine if name in named else None
        if key is not None:
            readers[key] = (*readers.get(key, ()), name)
    return readers


def _place(readers: tuple[str, ...] | None) -> str | None:
    """Whether norms are on pathways or on the residual stream; None where there are none."""
    return None if readers is None else "residual" if readers[0].startswith("norm_") else "pathway"


def carry_over(state: State, parent: ParameterStack, child: Transplant) -> dict[str, Tensor]:
    """AdamW's state for the child: the parent's moments of kept parameters, zero for the others.

    The count of updates is the parent's for all of them, so a new parameter's moments are not corrected for
    having begun at zero: its first step is 0.7 times as long as AdamW's usual one at betas of 0.9 and 0.98,
    its steps are up to 1.55 times as long some 14 updates later, and as usual after about 200.
    """
    moments = {
        name: _moved(state[name], parent, child.parameters, child.kept) for name in ("exp_avg", "exp_avg_sq")
    }
    return {**moments, "step": state["step"].clone()}


def _moved(
    moment: Float[Tensor, "seed n_parent"],
    parent: ParameterStack,
    child: ParameterStack,
    kept: Collection[str],
) -> Float[Tensor, "seed n_child"]:
    sizes = {name: tensor[0].numel() for name, tensor in parent.named().items()}
    there = dict(zip(sizes, moment.cpu().split(list(sizes.values()), dim=1), strict=True))
    pieces = [
        there[name] if name in kept and name in there else moment.new_zeros(tensor.flatten(1).shape)
        for name, tensor in child.named().items()
    ]
    return torch.cat([piece.cpu() for piece in pieces], dim=1)


def empty_state(stack: ParameterStack) -> dict[str, Tensor]:
    """AdamW's state before its first update."""
    nothing = torch.zeros_like(stack.flat)
    return {"exp_avg": nothing, "exp_avg_sq": nothing.clone(), "step": torch.tensor(0.0)}
