"""Where an intervention acts: one pathway in one layer, of all heads or of some."""

from collections.abc import Callable, Collection
from typing import NamedTuple, cast

from transformer_lens import HookedTransformer

from mech_grok.interventions.heads import noted, spliced
from mech_grok.model.norm_hooks import Hook
from mech_grok.model.norms import Norm
from mech_grok.placement import ATTENTION_PATHWAYS, PATHWAYS, Pathway


class Place(NamedTuple):
    """One pathway in one layer."""

    layer: int
    pathway: Pathway

    @property
    def norm(self) -> str:
        """Name of the norm module on the pathway's input; its four hook points are below it."""
        return f"blocks.{self.layer}.norm_{self.pathway}"


def at_places(
    model: HookedTransformer,
    places: Collection[Place],
    heads: Collection[int] | None,
    change: Callable[[Place], list[Hook]],
) -> list[Hook]:
    """The hooks of `change` at each place; with `heads`, what they do is done for these heads alone."""
    at_each = [(place, change(place)) for place in places]
    return [x for place, hooks in at_each if hooks for x in _at_place(model, place, heads, hooks)]


def _at_place(
    model: HookedTransformer, place: Place, heads: Collection[int] | None, hooks: list[Hook]
) -> list[Hook]:
    if place.pathway not in ATTENTION_PATHWAYS:
        return hooks
    note = noted(norm_at(model, place), place.norm, hooks, heads)
    return [note, *hooks] if heads is None else [note, spliced(model, place.layer, place.pathway)]


def chosen_places(
    model: HookedTransformer,
    pathways: Collection[str],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Place]:
    """The places of a set of pathways, layer by layer.

    Args:
        model: with the hook points of a `GrokTransformer`.
        pathways: of q, k, v, mlp.
        layers: None for all.
        heads: None for all; only checked here.

    Raises:
        ValueError: a pathway, a layer or a head that the model does not have, or heads of a pathway or model
            whose heads cannot be told apart.
    """
    _check_pathways(pathways)
    check_range("layers", layers, model.cfg.n_layers)
    _check_heads(model, pathways, heads)
    chosen = range(model.cfg.n_layers) if layers is None else sorted(set(layers))
    return [Place(layer, pathway) for layer in chosen for pathway in PATHWAYS if pathway in pathways]


def check_range(what: str, chosen: Collection[int] | None, count: int) -> None:
    """Refuse indices that there are not; None is all of them.

    Raises:
        ValueError: an index is not in 0..count - 1; the message begins with `what`.
    """
    outside = set(chosen or ()) - set(range(count))
    if outside:
        raise ValueError(f"{what} {sorted(outside)} are not in 0..{count - 1}")


def norm_at(model: HookedTransformer, place: Place) -> Norm:
    """The norm module of a place, which computes the identity where the pathway is not normalised."""
    return cast(Norm, model.get_submodule(place.norm))


def is_normalised(model: HookedTransformer, place: Place) -> bool:
    """Whether the pathway has a norm there, of whatever kind."""
    return norm_at(model, place).site.kind is not None


def has_affine(model: HookedTransformer, place: Place) -> bool:
    """Whether the pathway's norm applies a gain there."""
    return norm_at(model, place).affine is not None


def _check_pathways(pathways: Collection[str]) -> None:
    if isinstance(pathways, str):
        raise ValueError(f"pathways are given as a set: {{{pathways!r}}}")
    unknown = set(pathways) - set(PATHWAYS)
    if unknown:
        raise ValueError(f"unknown pathways {sorted(unknown)}; allowed: {', '.join(PATHWAYS)}")


def _check_heads(model: HookedTransformer, pathways: Collection[str], heads: Collection[int] | None) -> None:
    if heads is None:
        return
    check_range("heads", heads, model.cfg.n_heads)
    if not set(pathways) <= set(ATTENTION_PATHWAYS):
        raise ValueError(f"the MLP has no heads; with heads the pathways are {', '.join(ATTENTION_PATHWAYS)}")
    split = [name for name in ("use_split_qkv_input", "use_attn_in") if getattr(model.cfg, name)]
    if split:
        raise ValueError(f"the model has {split[0]} set, which splits the heads' inputs; set it to False")
