"""Hooks that put the activations of one model into another, on the same pairs."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.interventions.patching_components import Component
from mech_grok.interventions.places import check_range
from mech_grok.model.norm_hooks import Hook
from mech_grok.probes.observation import Hooks, passes

_POSITIONS = 3
_SAME_SIZES = {"p": "d_vocab", "n_layers": "n_layers", "d_model": "d_model", "n_heads": "n_heads"}


def patch(
    model: HookedTransformer,
    donor: HookedTransformer,
    names: Sequence[str],
    tokens: Int[Tensor, "n 3"],
    *,
    heads: Collection[int] | None = None,
    positions: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks on `model` that replace activations by those that `donor` has on the same tokens.

    `with model.hooks(fwd_hooks=patch(model, donor, ["blocks.0.hook_attn_out"], tokens)): model(tokens)`.
    The donor runs once, here, without gradient. The hooks fit a forward pass over exactly these tokens: they
    refuse another number of pairs, and cannot tell other pairs of the same number. What comes after a patched
    activation is computed by `model` from it.

    Args:
        model: the model to attach them to.
        donor: whose activations are taken; of the same p, width, depth and number of heads.
        names: hook points, such as `blocks.0.norm_mlp.hook_scale` or `blocks.0.attn.hook_z`.
        tokens: inputs `a b =`.
        heads: only these heads, at hook points that have heads; None for all.
        positions: only these of 0 (a), 1 (b), 2 (`=`); of a pattern or scores, queries; None for all.

    Raises:
        ValueError: a hook point, head or position that there is not, a donor of another size, or activations
            of different shapes; and from a hook, another number of pairs than `tokens` has.
    """
    component = Component(
        _names(names), *(None if x is None else tuple(sorted(x)) for x in (heads, positions))
    )
    check_patchable(model, donor, [component], tokens)
    return replacing(component, donated(donor, component.names, tokens))


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"hook points are given as a list: [{names!r}]")
    return tuple(names)


@torch.no_grad()
def donated(
    donor: HookedTransformer, names: Collection[str], tokens: Int[Tensor, "n 3"], first: Hooks = ()
) -> dict[str, Tensor]:
    """Hook point -> the donor's activation there, [n, ...], under the hooks `first`."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    keeping = [(name, partial(_keep, kept=to)) for name, to in kept.items()]
    with donor.hooks(fwd_hooks=[*first, *keeping]):
        for batch in passes(tokens.to(donor.W_E.device)):
            donor(batch)
    return {name: torch.cat(parts) for name, parts in kept.items()}


def replacing(component: Component, activations: Mapping[str, Tensor]) -> list[Hook]:
    """Hooks that put a component's activations in place of the model's own."""
    return [
        (name, partial(_replace, by=activations[name], heads=component.heads, positions=component.positions))
        for name in component.names
    ]


def _keep(activation: Tensor, hook: HookPoint, *, kept: list[Tensor]) -> None:
    kept.append(activation.clone())


def _replace(
    activation: Tensor,
    hook: HookPoint,
    *,
    by: Tensor,
    heads: tuple[int, ...] | None,
    positions: tuple[int, ...] | None,
) -> Tensor:
    if len(activation) != len(by):
        raise ValueError(
            f"{hook.name}: the patch holds {len(by)} pairs, the model is run on {len(activation)}; "
            "run it on the tokens that the patch was made with"
        )
    chosen = activation.new_ones(1, dtype=torch.bool)
    position_axis, head_axis = _axes(str(hook.name), activation.ndim)
    if heads is not None and head_axis is not None:
        chosen = chosen & _along(activation, head_axis, heads, activation.shape[head_axis])
    if positions is not None:
        chosen = chosen & _along(activation, position_axis, positions, _POSITIONS)
    return torch.where(chosen, by.to(activation), activation)


def _along(activation: Tensor, axis: int, chosen: tuple[int, ...], size: int) -> Tensor:
    """Whether an index along an axis is chosen; of fewer rows than `size` there are the last ones."""
    there = torch.arange(size)[-activation.shape[axis] :]
    is_chosen = torch.isin(there, torch.tensor(chosen, dtype=there.dtype)).to(activation.device)
    return is_chosen.view(-1, *[1] * (activation.ndim - 1 - axis))


def _axes(name: str, ndim: int) -> tuple[int, int | None]:
    """The axes of position (in a pattern, of the query) and of head, None where there are no heads."""
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        return 2, 1
    return 1, 2 if ndim == 4 else None


def check_patchable(
    model: HookedTransformer,
    donor: HookedTransformer,
    components: Collection[Component],
    tokens: Int[Tensor, "n 3"],
) -> None:
    """Refuse components that cannot be taken from the donor and put into the model.

    Raises:
        ValueError: the models differ in size, or a component names what one of them does not have.
    """
    for what, field in _SAME_SIZES.items():
        ours, theirs = (getattr(x.cfg, field) - (what == "p") for x in (model, donor))
        if ours != theirs:
            raise ValueError(
                f"the donor has {what} = {theirs}, the model {ours}; patching needs the same p, "
                "n_layers, d_model and n_heads"
            )
    names = list(dict.fromkeys(name for component in components for name in component.names))
    shapes = _shapes(model, names, tokens, "model")
    for name, shape in _shapes(donor, names, tokens, "donor").items():
        if shape != shapes[name]:
            raise ValueError(f"{name} is {shape} for a pair in the donor, {shapes[name]} in the model")
    for component in components:
        _check_choice(component, shapes)


@torch.no_grad()
def _shapes(
    model: HookedTransformer, names: Sequence[str], tokens: Tensor, role: str
) -> dict[str, tuple[int, ...]]:
    """Hook point -> shape of its activation for one pair, without the batch dimension."""
    for name in names:
        if name not in model.hook_dict:
            near = difflib.get_close_matches(name, model.hook_dict, n=1, cutoff=0.0)[0]
            raise ValueError(f"the {role} has no hook point '{name}'; did you mean {near}?")
    seen: dict[str, tuple[int, ...]] = {}
    with model.hooks(fwd_hooks=[(name, partial(_note_shape, seen=seen)) for name in names]):
        model(tokens[:1].to(model.W_E.device))
    for name in names:
        if name not in seen:
            raise ValueError(
                f"hook point '{name}' is never reached in the {role}; one of its cfg.use_... switches it on"
            )
    return seen


def _note_shape(activation: Tensor, hook: HookPoint, *, seen: dict[str, tuple[int, ...]]) -> None:
    seen[str(hook.name)] = tuple(activation.shape[1:])


def _check_choice(component: Component, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse heads and positions that are not there."""
    check_range("positions of (a, b, =)", component.positions, _POSITIONS)
    for name in component.names if component.heads is not None else ():
        _, axis = _axes(name, len(shapes[name]) + 1)
        if axis is None:
            raise ValueError(f"{name} has no heads to choose from")
        check_range("heads", component.heads, shapes[name][axis - 1])
