"""The changes that the ablation grid makes to a forward pass, as values that are equal where passes are.

Many places of the grid are one computation: a norm can be bypassed only where there is one, a doubled query
is a doubled score, and in the only layer every pair has the same query. `Change` is the smallest description;
what has the same one is run once.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from mech_grok.config import ModelConfig
from mech_grok.model.norm_sites import pathway_sites
from mech_grok.placement import ATTENTION_PATHWAYS, Pathway

Intervention = Literal["bypass", "insert", "unit", "freeze_scale", "affine_only", "zero", "mean", "resample"]
Pathways = frozenset[Pathway]

INTERVENTIONS: tuple[Intervention, ...] = get_args(Intervention)

_QUERIES: Pathways = frozenset({"q"})
_SCORES: Pathways = frozenset({"q", "k"})
_ATTENTION: Pathways = frozenset(ATTENTION_PATHWAYS)
_MLP: Pathways = frozenset({"mlp"})


@dataclass(frozen=True)
class Edit:
    """One intervention on some pathways of all layers.

    Attributes:
        kind: its name, as a function of `mech_grok.interventions`.
        pathways: on which it acts; none for `temperature`, which acts on the scores.
        factor: of `scale` and `temperature`; 1 for others.
    """

    kind: Intervention | Literal["scale", "temperature"]
    pathways: Pathways = frozenset()
    factor: float = 1.0


@dataclass(frozen=True)
class Change:
    """What one forward pass changes, in two parts; without any it is the model itself.

    Attributes:
        attention: edits of what attention computes.
        mlp: edits of what the MLP reads.
    """

    attention: tuple[Edit, ...] = ()
    mlp: tuple[Edit, ...] = ()


def applies_to(config: ModelConfig, intervention: Intervention) -> Pathways:
    """The pathways on which an intervention does something to a model, at least in principle."""
    applies = {
        "bypass": lambda site: site.kind is not None,
        "freeze_scale": lambda site: site.kind is not None,
        "insert": lambda site: site.kind is None,
        "affine_only": lambda site: site.affine is not None,
    }.get(intervention, lambda site: True)
    return frozenset(x for x, site in pathway_sites(config).items() if applies(site))


def change_of(config: ModelConfig, intervention: Intervention, pathways: Pathways) -> Change | None:
    """The change that an intervention on a set of pathways is; None if it applies to none of them."""
    reached = pathways & applies_to(config, intervention)
    if not reached:
        return None
    if intervention in ("freeze_scale", "mean", "resample") and config.n_layers == 1:
        reached -= _QUERIES  # every pair's query is that of `=`, so that its mean and its donor's are its own
    if intervention == "zero" and reached & _SCORES:
        reached |= _SCORES  # either alone leaves no score
    return _in_parts(intervention, reached)


def scaling_of(config: ModelConfig, pathways: Pathways, factor: float) -> Change:
    """The change that `hook_in` times a power of two is on a set of pathways, in all layers.

    A norm without epsilon undoes it to the last bit. On queries or keys that nothing normalises it
    multiplies the scores.
    """
    if factor == 1.0:
        return Change()
    sites = pathway_sites(config)
    bare = frozenset(x for x, site in sites.items() if site.kind is None)
    felt = pathways & (bare | frozenset(x for x, site in sites.items() if site.eps != 0.0))
    on_scores = felt & _SCORES & bare if not config.qk_norm else frozenset[Pathway]()
    scaled = _in_parts("scale", felt - on_scores, factor)
    return Change(sharpening(factor ** len(on_scores)).attention + scaled.attention, scaled.mlp)


def sharpening(factor: float) -> Change:
    """The change that all attention scores times a factor are; none at 1."""
    return Change((Edit("temperature", factor=factor),) if factor != 1.0 else ())


def _in_parts(kind: Intervention | Literal["scale"], pathways: Pathways, factor: float = 1.0) -> Change:
    attention, mlp = (
        (Edit(kind, part, factor),) if part else () for part in (pathways & _ATTENTION, pathways & _MLP)
    )
    return Change(attention, mlp)
