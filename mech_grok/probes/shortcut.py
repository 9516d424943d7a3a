"""Loss and accuracy with something taken away: the length of what a pathway reads, or a part of the model.

The scale-removed ("SR") loss of arXiv 2602.06702 is the loss once the length of what the MLP reads is gone.
Its code switches the whole model to an arrangement whose only norm is a unit MLP input, so that normalised
attention loses its norms as well. Both readings are here, the first one for queries, keys and values too.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from transformer_lens import HookedTransformer

from mech_grok.model.block import GrokBlock
from mech_grok.model.norm_hooks import Hook, rewrite_norm
from mech_grok.model.norm_sites import UNIT_EPS, BlockSites
from mech_grok.placement import ATTENTION_PATHWAYS, PATHWAYS, Pathway
from mech_grok.probes.ablations import (
    ablation_hooks,
    ablation_hooks_everywhere,
    with_mean_attention,
    with_mean_mlp,
    without_attention,
    without_skip,
)
from mech_grok.probes.late_pass import logits_of_mlp_change, logits_of_norm_change
from mech_grok.probes.observation import LOGITS, SPLITS, Observation
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.probes.split_scores import Scores, constant_scores, own_scores, scores, stacked

_NANDA = "Nanda et al., arXiv 2301.05217"
_SR = (
    " with every MLP reading x / ||x||_2 of its pathway's input x in place of norm and affine (no centring; "
    "divisor at least 1e-12), all else untouched"
)
_SWITCHED = (
    " as the code of arXiv 2602.06702 computes it: every MLP reads x / ||x||_2, and every other norm of the "
    "blocks is bypassed with its affine; the final norm, and norms on projected queries and keys, stay"
)
_UNIT_INPUT = (
    " with one pathway of every block reading x / ||x||_2 of its input x at every position in place of norm "
    "and affine (no centring; divisor at least 1e-12), the other pathways and the residual stream untouched; "
    "of the MLP it is the scale-removed one"
)
_SKIP = (
    " with the unembedding reading only what the last MLP adds to the residual stream (through the final "
    "norm and a norm after the sum, recomputed), while that MLP reads the stream as ever; what earlier "
    "blocks have written is dropped as well"
)
_OFF = (
    " with zero added to the residual stream in place of every attention's output (after a norm on it): '=' "
    "then sees neither a nor b, and all pairs have the same logits"
)
_MEAN = (
    " with what every {} adds to the residual stream (after a norm on it) replaced, at each position, by its "
    "mean over the training pairs in the unchanged model"
)


def unit_hooks(model: HookedTransformer, pathway: Pathway) -> list[Hook]:
    """Hooks under which a pathway of every block reads its input divided by its L2 norm.

    That is in place of norm and affine, at every position; the residual stream stays as it is.
    """
    return [
        hook
        for layer in range(model.cfg.n_layers)
        for hook in rewrite_norm(f"blocks.{layer}.norm_{pathway}", unit)
    ]


def unit_mlp_hooks(model: HookedTransformer) -> list[Hook]:
    """Hooks under which every MLP reads its input divided by its L2 norm, in place of norm and affine."""
    return unit_hooks(model, "mlp")


def bypass_hooks(model: HookedTransformer) -> list[Hook]:
    """Hooks under which every norm of a block but that on the MLP's input passes its input through."""
    return [
        pair
        for layer, block in enumerate(model.blocks)
        for name in _other_norms(cast(GrokBlock, block).sites)
        for pair in rewrite_norm(f"blocks.{layer}.{name}", identity)
    ]


def _other_norms(sites: BlockSites) -> list[str]:
    on_attention = [f"norm_{x}" for x in ATTENTION_PATHWAYS if sites.pathways[x].kind is not None]
    return [*on_attention, *sites.residual]


def unit(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """`x / ||x||_2`."""
    return normalize(x, dim=-1, eps=UNIT_EPS)


def identity(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """x itself."""
    return x


def _compute(seen: Observation) -> dict[str, Tensor]:
    by_pathway = {
        x: scores(seen, logits_of_norm_change(seen, unit_hooks(seen.model, x))) for x in ATTENTION_PATHWAYS
    }
    removed = by_pathway["mlp"] = scores(seen, logits_of_mlp_change(seen, unit_mlp_hooks(seen.model)))
    bypass = bypass_hooks(seen.model)
    found = {
        "{}": seen.once(own_scores),
        "sr_{}": removed,
        "sr_{}_reference_switch": _switched(seen, bypass) if bypass else removed,
        "unit_input_{}": stacked([by_pathway[x] for x in PATHWAYS]),
        "skip_ablated_{}": scores(seen, without_skip(seen)),
        "attention_off_{}": constant_scores(seen, without_attention(seen)),
        **_mean_ablated(seen),
    }
    return {name.format(kind): x for name, of in found.items() for kind, x in of._asdict().items()}


def _switched(seen: Observation, bypass: list[Hook]) -> Scores:
    return scores(seen, logits_of_norm_change(seen, [*unit_mlp_hooks(seen.model), *bypass]))


def _mean_ablated(seen: Observation) -> dict[str, Scores]:
    if not len(seen.indices("train")):
        nothing = torch.full((len(SPLITS),), math.nan)
        return dict.fromkeys(("attention_mean_{}", "mlp_mean_{}"), Scores(nothing, nothing))
    return {
        "attention_mean_{}": constant_scores(seen, with_mean_attention(seen)),
        "mlp_mean_{}": scores(seen, with_mean_mlp(seen)),
    }


def _quantities(
    name: str,
    suffix: str,
    intervention: str,
    dims: tuple[str, ...] = ("split",),
    source: str = "",
    nan: str = "the split is empty",
) -> dict[str, Quantity]:
    return {
        name.format("loss"): Quantity(
            dims,
            f"loss{suffix}",
            "nats",
            "Cross-entropy of the model's own logits (no initial prediction subtracted) at '=' over all "
            f"classes in float64, mean over the pairs of the split{intervention}.",
            source,
            nan,
        ),
        name.format("accuracy"): Quantity(
            dims,
            f"accuracy{suffix}",
            "1",
            f"Share of the pairs of the split whose largest logit is the right answer's{intervention}.",
            source,
            nan,
        ),
    }


def _at_equals(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS, *ablation_hooks(model))


_EMPTY_TRAIN = "the split or the training set is empty"

PROBE = Probe(
    name="shortcut",
    title="Loss and accuracy without the length of an input, the skip path, attention or the MLP",
    source="arXiv 2602.06702",
    seconds=0.24,
    quantities={
        **_quantities("{}", "", ""),
        **_quantities("sr_{}", ", MLP input of unit length", _SR),
        **_quantities("sr_{}_reference_switch", ", reference's switch", _SWITCHED),
        **_quantities("unit_input_{}", ", pathway's input of unit length", _UNIT_INPUT, ("pathway", "split")),
        **_quantities("skip_ablated_{}", ", skip path ablated", _SKIP, source=_NANDA),
        **_quantities("attention_off_{}", ", attention off", _OFF, source="zero ablation"),
        **_quantities(
            "attention_mean_{}",
            ", attention mean-ablated",
            _MEAN.format("attention") + ": all pairs then have the same logits",
            source="mean ablation",
            nan=_EMPTY_TRAIN,
        ),
        **_quantities(
            "mlp_mean_{}", ", MLP mean-ablated", _MEAN.format("MLP"), source="mean ablation", nan=_EMPTY_TRAIN
        ),
    },
    compute=_compute,
    at_equals=_at_equals,
    at_all_positions=ablation_hooks_everywhere,
)
