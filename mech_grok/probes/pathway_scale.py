"""How long the input of every pathway is, and what it is divided by."""

import math
from collections.abc import Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.model.block import GrokBlock
from mech_grok.placement import PATHWAYS, Pathway
from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Quantity

_UNREAD = (
    "positions a and b of q and mlp in the last block, which the answer does not depend on and which are "
    "partly not computed"
)
_DIMS = ("layer", "pathway", "position")


def mean_and_variation(
    x: Float[Tensor, "n place position"],
) -> tuple[Float[Tensor, "place position"], Float[Tensor, "place position"]]:
    """Mean over examples, and the standard deviation (divided by n) over that mean: nan where it is 0."""
    mean = x.double().mean(0)
    return mean, x.double().std(0, correction=0) / mean


def _places(model: HookedTransformer) -> Iterator[tuple[int, Pathway, bool]]:
    """Every layer and pathway, and whether its input is there at `=` only: the last MLP's."""
    for layer in range(model.cfg.n_layers):
        for pathway in PATHWAYS:
            yield layer, pathway, pathway == "mlp" and layer == model.cfg.n_layers - 1


def _input_hook(layer: int, pathway: Pathway) -> str:
    """Where what the pathway's norm reads passes once; `norm_q`, `norm_k` and `norm_v` read the same."""
    return f"blocks.{layer}.hook_resid_{'mid' if pathway == 'mlp' else 'pre'}"


def _divisor_hook(model: HookedTransformer, layer: int, pathway: Pathway) -> str | None:
    """The hook point of the norm's divisor, or None where the pathway has no norm."""
    site = cast(GrokBlock, model.blocks[layer]).sites.pathways[pathway]
    return None if site.kind is None else f"blocks.{layer}.norm_{pathway}.hook_scale"


def _divisors(model: HookedTransformer, last_mlp: bool) -> tuple[str, ...]:
    names = (_divisor_hook(model, layer, x) for layer, x, at in _places(model) if at == last_mlp)
    return tuple(filter(None, names))


def _read_at_equals(model: HookedTransformer) -> tuple[str, ...]:
    return (_input_hook(model.cfg.n_layers - 1, "mlp"), *_divisors(model, last_mlp=True))


def _read_everywhere(model: HookedTransformer) -> tuple[str, ...]:
    return _divisors(model, last_mlp=False)


def _read_lengths(model: HookedTransformer) -> tuple[str, ...]:
    return tuple(_input_hook(layer, x) for layer, x, at_equals in _places(model) if not at_equals)


def _length(seen: Observation, layer: int, pathway: Pathway, at_equals: bool) -> Float[Tensor, "n 3"]:
    name = _input_hook(layer, pathway)
    if at_equals:
        return seen.at_equals[name].double().norm(dim=-1, keepdim=True).expand(-1, 3)
    return seen.lengths[name]


def _divisor(seen: Observation, layer: int, pathway: Pathway, at_equals: bool) -> Float[Tensor, "n 3"]:
    name = _divisor_hook(seen.model, layer, pathway)
    if name is None:
        return torch.ones(len(seen.tokens), 3, dtype=torch.float64, device=seen.tokens.device)
    if at_equals:
        return seen.at_equals[name].double().expand(-1, 3)
    # One for each head in a model that copies the input for every head; they are all the same.
    return seen.at_all_positions[name].double().flatten(2)[..., 0]


def _compute(seen: Observation) -> dict[str, Tensor]:
    places = list(_places(seen.model))
    lengths = torch.stack([_length(seen, *place) for place in places], dim=1)
    divisors = torch.stack([_divisor(seen, *place) for place in places], dim=1)
    return {
        **_statistics(lengths, "pathway_input_length"),
        **_statistics(divisors, "pathway_divisor"),
    }


def _statistics(x: Float[Tensor, "n place position"], name: str) -> dict[str, Tensor]:
    values = [value.unflatten(0, (-1, len(PATHWAYS))) for value in mean_and_variation(x)]
    for value in values:
        for pathway in ("q", "mlp"):
            value[-1, PATHWAYS.index(pathway), :-1] = math.nan
    return {name: values[0], f"{name}_variation": values[1]}


PROBE = Probe(
    name="pathway_scale",
    title="How long the input of every pathway is, and what it is divided by",
    source="this project; the norms of arXiv 2602.06702",
    seconds=0.003,
    quantities={
        "pathway_input_length": Quantity(
            _DIMS,
            "length of the pathway's input",
            "1",
            "L2 length of what the pathway's norm reads (of the residual stream, where the pathway has no "
            "norm), mean over all p^2 pairs. Of q and mlp in the last block only position '=' counts; of k "
            "and v, and in earlier blocks, all three do.",
            nan=_UNREAD,
        ),
        "pathway_input_length_variation": Quantity(
            _DIMS,
            "variation of the length of the pathway's input",
            "1",
            "Coefficient of variation over all p^2 pairs of the L2 length of what the pathway's norm reads: "
            "standard deviation (divided by p^2) over mean.",
            nan=f"the length is 0 throughout; {_UNREAD}",
        ),
        "pathway_divisor": Quantity(
            _DIMS,
            "divisor of the pathway's input",
            "1",
            "What the pathway's norm divides by, mean over all p^2 pairs: the standard deviation over the "
            "input's dimensions (LayerNorm), its root mean square (RMSNorm) or its L2 length (unit norm), "
            "with the norm's epsilon; 1 where the pathway has no norm.",
            nan=_UNREAD,
        ),
        "pathway_divisor_variation": Quantity(
            _DIMS,
            "variation of the divisor of the pathway's input",
            "1",
            "Coefficient of variation over all p^2 pairs of what the pathway's norm divides by: standard "
            "deviation (divided by p^2) over mean; 0 where the pathway has no norm.",
            nan=f"the divisor is 0 throughout; {_UNREAD}",
        ),
    },
    compute=_compute,
    at_equals=_read_at_equals,
    at_all_positions=_read_everywhere,
    lengths=_read_lengths,
)
