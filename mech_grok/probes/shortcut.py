"""How much of the solution is in the length of what the MLP reads: the loss once that length is taken away.

The scale-removed ("SR") loss of arXiv 2602.06702. Its code switches the whole model to an arrangement whose
only norm is a unit MLP input, so that normalised attention loses its norms as well. Both readings are here.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from transformer_lens import HookedTransformer

from mech_grok.model.block import GrokBlock
from mech_grok.model.norm_hooks import Hook, rewrite_norm
from mech_grok.model.norm_sites import UNIT_EPS, BlockSites
from mech_grok.placement import ATTENTION_PATHWAYS
from mech_grok.probes.observation import LOGITS, Observation, logits_under
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.training.loss import correct, cross_entropy

_SR = (
    " with every MLP reading x / ||x||_2 of its pathway's input x in place of norm and affine (no centring; "
    "divisor at least 1e-12), all else untouched"
)
_SWITCHED = (
    " as the code of arXiv 2602.06702 computes it: every MLP reads x / ||x||_2, and every other norm of the "
    "blocks is bypassed with its affine; the final norm, and norms on projected queries and keys, stay"
)


def unit_mlp_hooks(model: HookedTransformer) -> list[Hook]:
    """Hooks under which every MLP reads its input divided by its L2 norm, in place of norm and affine."""
    return [
        pair for layer in range(model.cfg.n_layers) for pair in rewrite_norm(f"blocks.{layer}.norm_mlp", unit)
    ]


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
    model = seen.model
    removed = logits_under(model, seen.tokens, unit_mlp_hooks(model))
    bypass = bypass_hooks(model)
    switched = logits_under(model, seen.tokens, [*unit_mlp_hooks(model), *bypass]) if bypass else removed
    return {
        **_scores(seen, seen.logits, "{}"),
        **_scores(seen, removed, "sr_{}"),
        **_scores(seen, switched, "sr_{}_reference_switch"),
    }


def _scores(seen: Observation, logits: Float[Tensor, "n classes"], name: str) -> dict[str, Tensor]:
    losses = cross_entropy(logits, seen.answers, seen.unembed.loss_scale)
    return {
        name.format("loss"): seen.split_means(losses),
        name.format("accuracy"): seen.split_means(correct(logits, seen.answers)),
    }


def _quantities(name: str, suffix: str, intervention: str) -> dict[str, Quantity]:
    return {
        name.format("loss"): Quantity(
            ("split",),
            f"loss{suffix}",
            "nats",
            "Cross-entropy of the model's own logits (no initial prediction subtracted) at '=' over all "
            f"classes in float64, mean over the pairs of the split{intervention}.",
        ),
        name.format("accuracy"): Quantity(
            ("split",),
            f"accuracy{suffix}",
            "1",
            f"Share of the pairs of the split whose largest logit is the right answer's{intervention}.",
        ),
    }


def _logits_only(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS,)


PROBE = Probe(
    name="shortcut",
    title="Loss and accuracy with and without the length of the MLP's input",
    source="arXiv 2602.06702",
    seconds=0.0,
    quantities={
        **_quantities("{}", "", ""),
        **_quantities("sr_{}", ", MLP input of unit length", _SR),
        **_quantities("sr_{}_reference_switch", ", reference's switch", _SWITCHED),
    },
    compute=_compute,
    at_equals=_logits_only,
)
