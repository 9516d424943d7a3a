"""Interventions on what a pathway hands on: nothing, its mean, or that of other examples.

All set `hook_out`, what the projection or the MLP reads, whether the pathway is normalised or not; the
residual stream stays. With `heads`, only these heads read the replacement.
"""

from collections.abc import Collection, Mapping
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.interventions.places import Place, at_places, chosen_places
from mech_grok.interventions.token_means import activations_on, at_last_positions, means_over
from mech_grok.model.norm_hooks import Hook


def zero(
    model: HookedTransformer,
    pathways: Collection[str],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that set `hook_out` to zero.

    Args:
        model: the model to attach them to, with `model.hooks(fwd_hooks=...)`.
        pathways: of q, k, v, mlp.
        layers: None for all.
        heads: of q, k, v; None for all.

    Raises:
        ValueError: a pathway, a layer or a head that the model does not have.
    """
    places = chosen_places(model, pathways, layers, heads)
    return at_places(model, places, heads, lambda place: [(output_of(place), _zeros)])


def mean(
    model: HookedTransformer,
    pathways: Collection[str],
    tokens: Int[Tensor, "n 3"],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that set `hook_out` to its mean over `tokens`, another one per position.

    The mean is that of the model as it is now: hooks that are on it at this moment count.

    Args:
        model, pathways, layers, heads: those of `zero`.
        tokens: over which the mean is taken, such as `run.tokens("train")`.

    Raises:
        ValueError: as `zero`, or there are no tokens.
    """
    places = chosen_places(model, pathways, layers, heads)
    means = means_over(model, tokens, [output_of(place) for place in places])
    return at_places(model, places, heads, partial(mean_output, means=means))


def resample(
    model: HookedTransformer,
    pathways: Collection[str],
    donors: Int[Tensor, "n 3"],
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> list[Hook]:
    """Hooks that set `hook_out` to what it is on other examples.

    That is of the model as it is now: hooks that are on it at this moment count. The hooks serve one batch:
    that of as many examples, the first of which gets what the first donor has.

    Args:
        model, pathways, layers, heads: those of `zero`.
        donors: tokens of the other examples; they are run once, here.

    Raises:
        ValueError: as `zero`, or there are no donors; when run, on a batch of another size.
    """
    places = chosen_places(model, pathways, layers, heads)
    donated = activations_on(model, donors, [output_of(place) for place in places])
    return at_places(
        model, places, heads, lambda x: [(output_of(x), partial(_set_rows, to=donated[output_of(x)]))]
    )


def mean_output(place: Place, means: Mapping[str, Float[Tensor, "pos ..."]]) -> list[Hook]:
    """Hooks that set what one pathway hands on, given by the name of its hook point."""
    return [(output_of(place), partial(_set_positions, to=means[output_of(place)]))]


def output_of(place: Place) -> str:
    """Hook point of what the projection or the MLP reads."""
    return f"{place.norm}.hook_out"


def _zeros(activation: Tensor, hook: HookPoint) -> Tensor:
    return activation.new_zeros(activation.shape)


def _set_positions(activation: Tensor, hook: HookPoint, *, to: Tensor) -> Tensor:
    return at_last_positions(to, activation)


def _set_rows(activation: Tensor, hook: HookPoint, *, to: Tensor) -> Tensor:
    if len(activation) != len(to):
        raise ValueError(
            f"{hook.name}: {len(to)} donors for a batch of {len(activation)}; one each is needed"
        )
    return to[:, -activation.shape[1] :].contiguous()
