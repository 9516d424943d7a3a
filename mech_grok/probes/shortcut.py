"""How much of the solution is in the length of what the MLP reads: the loss once that length is taken away.

The scale-removed ("SR") loss of arXiv 2602.06702. Its code switches the whole model to an arrangement whose
only norm is a unit MLP input, so that normalised attention loses its norms as well. Both readings are here.
"""

import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mech_grok.config import ModelConfig
from mech_grok.model.norm_hooks import Hook, rewrite_norm
from mech_grok.model.norm_sites import UNIT_EPS, pathway_sites, residual_sites
from mech_grok.placement import ATTENTION_PATHWAYS
from mech_grok.probes.observation import LOGITS, SPLITS, Observation, logits_under
from mech_grok.probes.probe import Probe, variable
from mech_grok.training.loss import correct, cross_entropy

_SR = (
    " with every MLP reading x / ||x||_2 of its pathway's input x in place of norm and affine (no centring; "
    "divisor at least 1e-12), all else untouched"
)
_SWITCHED = (
    " as the code of arXiv 2602.06702 computes it: every MLP reads x / ||x||_2, and every other norm of the "
    "blocks is bypassed with its affine; the final norm, and norms on projected queries and keys, stay"
)


def unit_mlp_hooks(config: ModelConfig) -> list[Hook]:
    """Hooks under which every MLP reads its input divided by its L2 norm, in place of norm and affine."""
    return [
        pair for layer in range(config.n_layers) for pair in rewrite_norm(f"blocks.{layer}.norm_mlp", unit)
    ]


def bypass_hooks(config: ModelConfig) -> list[Hook]:
    """Hooks under which every norm of a block but that on the MLP's input passes its input through."""
    sites = pathway_sites(config)
    names = [
        *(f"norm_{x}" for x in ATTENTION_PATHWAYS if sites[x].kind is not None),
        *residual_sites(config),
    ]
    return [
        pair
        for layer in range(config.n_layers)
        for name in names
        for pair in rewrite_norm(f"blocks.{layer}.{name}", identity)
    ]


def unit(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """`x / ||x||_2`."""
    return normalize(x, dim=-1, eps=UNIT_EPS)


def identity(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """x itself."""
    return x


def _compute(seen: Observation) -> xr.Dataset:
    model, config = seen.model, seen.model.config
    removed = logits_under(model, seen.tokens, unit_mlp_hooks(config))
    bypass = bypass_hooks(config)
    switched = logits_under(model, seen.tokens, [*unit_mlp_hooks(config), *bypass]) if bypass else removed
    return xr.Dataset(
        {
            **_scores(seen, seen.at_equals[LOGITS], "{}", "", ""),
            **_scores(seen, removed, "sr_{}", ", MLP input of unit length", _SR),
            **_scores(seen, switched, "sr_{}_reference_switch", ", reference's switch", _SWITCHED),
        },
        coords={"split": list(SPLITS)},
    )


def _scores(
    seen: Observation, logits: Float[Tensor, "n classes"], name: str, suffix: str, intervention: str
) -> dict[str, xr.Variable]:
    losses = cross_entropy(logits, seen.answers, seen.model.config.loss_scale)
    return {
        name.format("loss"): variable(
            ("split",),
            seen.split_means(losses),
            long_name=f"loss{suffix}",
            units="nats",
            definition="Cross-entropy of the model's own logits (no initial prediction subtracted) at '=' "
            f"over all p + 1 classes in float64, mean over the pairs of the split{intervention}.",
        ),
        name.format("accuracy"): variable(
            ("split",),
            seen.split_means(correct(logits, seen.answers).double()),
            long_name=f"accuracy{suffix}",
            units="1",
            definition="Share of the pairs of the split whose largest logit of p + 1 is the right "
            f"answer's{intervention}.",
        ),
    }


def _logits_only(config: ModelConfig) -> tuple[str, ...]:
    return (LOGITS,)


PROBE = Probe(
    name="shortcut",
    title="Loss and accuracy with and without the length of the MLP's input",
    compute=_compute,
    at_equals=_logits_only,
)
