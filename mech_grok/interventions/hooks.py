"""Removing and adding norms on a model's pathways, as hooks.

`with model.hooks(fwd_hooks=bypass(model, {"q", "k"})):` changes what the model computes inside the block;
config and weights stay as they are.
"""

from collections.abc import Collection, Iterator

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.model.norm_hooks import Hook, rewrite_norm
from mech_grok.model.norm_sites import block_affines, pathway_sites
from mech_grok.model.norms import Norm
from mech_grok.placement import PATHWAYS, Pathway, Placement

LAYER_AFFINE: dict[Pathway, str] = {"q": "ln1", "k": "ln1", "v": "ln1", "mlp": "ln2"}
"""The layer's own gain and bias, which an inserted norm takes if the model has one."""


def bypass(
    model: GrokTransformer, pathways: Collection[str], layers: Collection[int] | None = None
) -> list[Hook]:
    """Hooks that take the norm off these pathways: `norm_{pathway}.hook_out = norm_{pathway}.hook_in`.

    Pathways without a norm are left alone. Hooks that edit `hook_in` themselves go before these in the list.

    Args:
        model: the model to attach them to, with `model.hooks(fwd_hooks=...)`.
        pathways: of q, k, v, mlp.
        layers: None for all.

    Raises:
        ValueError: a pathway or a layer that the model does not have.
    """
    return [
        hook
        for layer, pathway in _places(model, pathways, layers)
        if pathway in normalised_pathways(model.config)
        for hook in rewrite_norm(f"blocks.{layer}.norm_{pathway}", lambda x: x)
    ]


def insert(
    model: GrokTransformer, pathways: Collection[str], layers: Collection[int] | None = None
) -> list[Hook]:
    """Hooks that normalise pathways that are not: `norm_{pathway}.hook_out = norm(norm_{pathway}.hook_in)`.

    The norm is of the model's kind, with the epsilon that the model has there when it is trained so, and
    with the gain and bias of the layer's `ln1` (`ln2` for mlp), or none if the layer has no such affine.
    Pathways with a norm are left alone. Hooks that edit `hook_in` themselves go before these in the list;
    `hook_scale` and `hook_normalized` keep showing the identity.

    Args:
        model: the model to attach them to, with `model.hooks(fwd_hooks=...)`.
        pathways: of q, k, v, mlp.
        layers: None for all.

    Raises:
        ValueError: a pathway or a layer that the model does not have.
    """
    return [
        hook
        for layer, pathway in _places(model, pathways, layers)
        if pathway not in normalised_pathways(model.config)
        for hook in rewrite_norm(f"blocks.{layer}.norm_{pathway}", _inserted_norm(model, layer, pathway))
    ]


def normalised_pathways(config: ModelConfig) -> frozenset[Pathway]:
    """The pathways whose input a model normalises, by whatever kind of norm."""
    return frozenset(x for x, site in pathway_sites(config).items() if site.kind is not None)


def _places(
    model: GrokTransformer, pathways: Collection[str], layers: Collection[int] | None
) -> Iterator[tuple[int, Pathway]]:
    if isinstance(pathways, str):
        raise ValueError(f"pathways are given as a set: {{{pathways!r}}}")
    unknown = set(pathways) - set(PATHWAYS)
    if unknown:
        raise ValueError(f"unknown pathways {sorted(unknown)}; allowed: {', '.join(PATHWAYS)}")
    depth = model.config.n_layers
    outside = set(layers or ()) - set(range(depth))
    if outside:
        raise ValueError(f"layers {sorted(outside)} are not in 0..{depth - 1}")
    chosen = range(depth) if layers is None else sorted(set(layers))
    return ((layer, pathway) for layer in chosen for pathway in PATHWAYS if pathway in pathways)


def _inserted_norm(model: GrokTransformer, layer: int, pathway: Pathway) -> Norm:
    alone = model.config.model_copy(update={"placement": Placement.of(pathway)})
    key = LAYER_AFFINE[pathway]
    affine = getattr(model.blocks[layer], key) if key in block_affines(model.config) else None
    return Norm(pathway_sites(alone)[pathway], affine)
