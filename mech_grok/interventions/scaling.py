"""The intervention on how long a pathway's input is."""

import math
from collections.abc import Collection
from functools import partial

from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.interventions.places import at_places, chosen_places
from mech_grok.model.norm_hooks import Hook


def scale(
    model: HookedTransformer,
    pathways: Collection[str],
    factor: float,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that multiply a pathway's input, `hook_in`, by a factor; attached twice, by its square.

    A norm undoes it, but for its epsilon.

    Args:
        model: the model to attach them to, with `model.hooks(fwd_hooks=...)`.
        pathways: of q, k, v, mlp.
        factor: finite.
        layers: None for all.
        heads: of q, k, v; None for all.

    Raises:
        ValueError: a pathway, a layer or a head that the model does not have, or a factor that is not finite.
    """
    if not math.isfinite(factor):
        raise ValueError(f"the factor is {factor}; allowed: any finite number")
    places = chosen_places(model, pathways, layers, heads)
    return at_places(
        model, places, heads, lambda place: [(f"{place.norm}.hook_in", partial(_times, factor=factor))]
    )


def _times(activation: Tensor, hook: HookPoint, *, factor: float) -> Tensor:
    return factor * activation
