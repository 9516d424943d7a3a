"""Interventions on what a pathway's norm computes: taken off, put on, replaced in part.

`with model.hooks(fwd_hooks=bypass(model, {"q", "k"})):` changes what the model computes inside the block;
config and weights stay as they are. With `heads`, only these heads read the change (`interventions.heads`).
In a list of several, later ones win where two set the same thing.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.interventions.places import (
    Place,
    at_places,
    chosen_places,
    has_affine,
    is_normalised,
    norm_at,
)
from mech_grok.interventions.token_means import at_last_positions, means_over
from mech_grok.model import GrokTransformer
from mech_grok.model.norm_hooks import Hook, rewrite_norm
from mech_grok.model.norm_sites import NormSite, block_affines, pathway_sites, standardise
from mech_grok.model.norms import Norm, apply_affine
from mech_grok.placement import PATHWAYS, Pathway, Placement

LAYER_AFFINE: dict[Pathway, str] = {"q": "ln1", "k": "ln1", "v": "ln1", "mlp": "ln2"}
"""The layer's own gain and bias, which an inserted norm takes if the model has one."""


def bypass(
    model: HookedTransformer,
    pathways: Collection[str],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that take the norm off these pathways: `norm_{pathway}.hook_out = norm_{pathway}.hook_in`.

    Pathways without a norm are left alone.

    Args:
        model: the model to attach them to, with `model.hooks(fwd_hooks=...)`.
        pathways: of q, k, v, mlp.
        layers: None for all.
        heads: of q, k, v; None for all.

    Raises:
        ValueError: a pathway, a layer or a head that the model does not have.
    """
    places = [x for x in chosen_places(model, pathways, layers, heads) if is_normalised(model, x)]
    return at_places(model, places, heads, lambda place: rewrite_norm(place.norm, _identity))


def insert(
    model: GrokTransformer,
    pathways: Collection[str],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that normalise pathways that are not: `norm_{pathway}.hook_out = norm(norm_{pathway}.hook_in)`.

    The norm is of the model's kind, with the epsilon that the model has there when it is trained so, and
    with the gain and bias of the layer's `ln1` (`ln2` for mlp), or none if the layer has no such affine.
    Pathways with a norm are left alone. `hook_scale` and `hook_normalized` keep showing the identity.

    Args, errors: those of `bypass`.
    """
    places = [x for x in chosen_places(model, pathways, layers, heads) if not is_normalised(model, x)]
    return at_places(
        model, places, heads, lambda place: rewrite_norm(place.norm, _inserted_norm(model, place))
    )


def unit(
    model: HookedTransformer,
    pathways: Collection[str],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that keep the direction only: `hook_out = hook_in / ||hook_in||_2`; no centring, no affine.

    In place of norm and affine where there are any. At the MLP's input it is the scale removal of arXiv
    2602.06702. The divisor is at least 1e-12.

    Args, errors: those of `bypass`.
    """
    places = chosen_places(model, pathways, layers, heads)
    return at_places(model, places, heads, lambda place: rewrite_norm(place.norm, _unit))


def affine_only(
    model: HookedTransformer,
    pathways: Collection[str],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that keep the norm's gain and bias alone: `hook_out = gain * hook_in + bias`.

    Pathways without an affine are left alone.

    Args: those of `bypass`.

    Raises:
        ValueError: a pathway, a layer or a head that the model does not have, or none of the places has an
            affine.
    """
    asked = chosen_places(model, pathways, layers, heads)
    places = _where(model, asked, has_affine, "a gain")

    def change(place: Place) -> list[Hook]:
        return rewrite_norm(place.norm, partial(apply_affine, affine=norm_at(model, place).affine))

    return at_places(model, places, heads, change)


def freeze_scale(
    model: HookedTransformer,
    pathways: Collection[str],
    tokens: Int[Tensor, "n 3"],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
    source: HookedTransformer | None = None,
) -> list[Hook]:
    """Hooks that set a norm's divisor, `hook_scale`, to its mean over `tokens`, another one per position.

    The norm still centres, and applies its affine. Pathways that have no norm in the source are left alone;
    one that has none in the model is divided by the source's divisors, and neither centred nor given a gain.

    Args:
        model, pathways, layers, heads: those of `bypass`.
        tokens: over which the mean is taken, such as `run.tokens("train")`.
        source: whose divisors are averaged, such as another checkpoint or a model of another placement; None
            for the model itself. Hooks that are on it at this moment count.

    Raises:
        ValueError: a pathway, a layer or a head that the model does not have, none of the places has a norm
            in the source, there are no tokens, or the source has another p, width or depth.
    """
    asked = chosen_places(model, pathways, layers, heads)
    source = model if source is None else source
    _check_source(model, source)
    places = _where(source, asked, is_normalised, "a norm")
    means = means_over(source, tokens, [_scale_of(x) for x in places])
    return at_places(model, places, heads, partial(frozen_scale, means=means))


def frozen_scale(place: Place, means: Mapping[str, Float[Tensor, "pos *head 1"]]) -> list[Hook]:
    """Hooks that set the divisor of one norm, given by the name of its hook point."""
    return [(_scale_of(place), partial(_set, to=means[_scale_of(place)]))]


def _set(activation: Tensor, hook: HookPoint, *, to: Tensor) -> Tensor:
    return at_last_positions(to, activation)


def _scale_of(place: Place) -> str:
    return f"{place.norm}.hook_scale"


def _identity(x: Tensor) -> Tensor:
    return x


def _unit(x: Tensor) -> Tensor:
    return standardise(x, NormSite("unit"))


def _inserted_norm(model: GrokTransformer, place: Place) -> Norm:
    alone = model.config.model_copy(update={"placement": Placement.of(place.pathway)})
    key = LAYER_AFFINE[place.pathway]
    affine = getattr(model.blocks[place.layer], key) if key in block_affines(model.config) else None
    return Norm(pathway_sites(alone)[place.pathway], affine)


def _where(
    model: HookedTransformer,
    asked: Collection[Place],
    applies: Callable[[HookedTransformer, Place], bool],
    what: str,
) -> list[Place]:
    """The places asked for at which an intervention applies.

    Raises:
        ValueError: it applies to none of them.
    """
    places = [place for place in asked if applies(model, place)]
    if asked and not places:
        others = [x.norm for x in chosen_places(model, PATHWAYS) if applies(model, x)]
        there = f"{what} is at {', '.join(others)}" if others else f"{what} is on no pathway of this model"
        raise ValueError(f"nothing to change at {', '.join(x.norm for x in asked)}; {there}")
    return places


def _check_source(model: HookedTransformer, source: HookedTransformer) -> None:
    for name in ("d_vocab", "d_model", "n_layers"):
        own, other = getattr(model.cfg, name), getattr(source.cfg, name)
        if own != other:
            raise ValueError(f"the source has {name} = {other}; allowed: {own}, that of the model")
