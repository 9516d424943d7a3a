"""The exact empirical neural tangent kernel, without per-example gradients.

The gradient of one example with respect to a linear map is an outer product, of what the map reads and of
the gradient with respect to what it gives; and the inner product of two outer products is the product of two
inner products. So nothing of the size of examples times parameters is ever built.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, cast

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.errors import UserError
from mech_grok.model.unembed import GrokUnembed, TiedUnembed
from mech_grok.probes.ntk_outer_products import add_outer_products, add_vectors, symmetrised
from mech_grok.probes.ntk_parameters import (
    EMBEDDING,
    Vector,
    is_trained,
    maps,
    unknown_parameters,
    vectors,
)
from mech_grok.probes.observation import equals_only

Output = Literal["sum", "trace"]

_FEATURES = "unembed.hook_in"
_NUMBERS = 2**25
"""How many numbers all gradients of one batch of classes may have: an eighth of a GiB in float32."""

_MOST_CLASSES = 32
"""Most classes in one backward pass; more are slower, since their gradients leave the processor's cache."""


@torch.no_grad()
def ntk(model: HookedTransformer, tokens: Int[Tensor, "n 3"], output: Output) -> Float[Tensor, "n n"]:
    """The kernel `<df_i/dtheta, df_j/dtheta>` of a model's logits at '=', over all classes that it has.

    `sum`: f is the sum of the logits, as in the notebook of github.com/jaisidhsingh/layernorm-grok.
    A zero-sum unembedding (`W_U` with columns that add up to nothing, as that of any exact Fourier solution)
    makes all of f's gradients but that of `W_U` zero; then the kernel is `C h h^T`, with h what the
    unembedding reads and C classes, and knows nothing of the loss, which does not see shifts of all logits.
    `trace`: the sum over classes of each logit's own kernel.

    The logits are the model's: with its readout scale, without a scale that only the loss applies. theta are
    the trained parameters, those with `requires_grad`; a zero bias that is kept frozen is none of them, one
    that could be trained is. Computed in the dtype of the model, exact to its rounding.

    Args:
        model: one of this project's, or one that `mech_grok.model.adopt` has given its hook points; it is
            left as it was.
        tokens: the inputs `a b =`, in the order of the kernel's rows.
        output: which kernel.

    Raises:
        UserError: the model trains parameters of a kind that is not known here.
    """
    unknown = unknown_parameters(model)
    if unknown:
        raise UserError(f"the tangent kernel does not know the parameters {', '.join(unknown)}")
    kernel = torch.zeros(len(tokens), len(tokens), dtype=model.W_U.dtype, device=model.W_U.device)
    if len(tokens) == 0:
        return kernel
    seen = _forward(model, tokens)
    features, unembed = seen[_FEATURES][:, -1], cast(GrokUnembed, model.unembed)
    linear, affine = maps(model, tokens, seen), vectors(model, seen)
    points = {EMBEDDING, *(one.at for one in linear), *(at for one in affine for at in one.uses)}
    rows_of_table = torch.zeros_like(features)
    for readout in _readouts(model, seen, points, output):
        right = _backward(unembed.readout_scale * readout @ model.W_U.T, seen, sorted(points))
        for one in linear:
            add_outer_products(kernel, one.left, rearrange(right[one.at], one.right).contiguous())
        for one in affine:
            add_vectors(kernel, _gradients(one, right))
        if isinstance(unembed, TiedUnembed):
            rows_of_table += einsum(readout[:, tokens], right[EMBEDDING], "c n pos, c n pos d -> n d")
    return symmetrised(kernel + _readout(model, features, rows_of_table))


def _forward(model: HookedTransformer, tokens: Int[Tensor, "n 3"]) -> dict[str, Tensor]:
    """Every activation, with the graph that leads from the embedding to it."""
    seen: dict[str, Tensor] = {}
    hooks = [
        (EMBEDDING, _as_leaf),
        *equals_only(model),
        (lambda name: True, partial(_keep, seen=seen)),
    ]
    with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
        model(tokens)
    return seen


def _as_leaf(activation: Tensor, hook: HookPoint) -> Tensor:
    return activation.detach().requires_grad_()


def _keep(activation: Tensor, hook: HookPoint, *, seen: dict[str, Tensor]) -> None:
    seen[str(hook.name)] = activation


def _readouts(
    model: HookedTransformer, seen: Mapping[str, Tensor], points: Iterable[str], output: Output
) -> tuple[Float[Tensor, "c classes"], ...]:
    """Weights of the logits in the outputs of the kernel, in batches that bound the memory."""
    classes = model.W_U.new_ones(model.W_U.shape[1])
    if output == "sum":
        return (classes[None],)
    numbers = sum(seen[point].numel() for point in points)
    return classes.diag().split(max(1, min(_MOST_CLASSES, _NUMBERS // numbers)))


def _backward(
    directions: Float[Tensor, "c d_model"], seen: Mapping[str, Tensor], points: Sequence[str]
) -> dict[str, Float[Tensor, "c n ..."]]:
    """Hook point -> gradient of what the directions read from the features at '='."""
    features, inputs = seen[_FEATURES], [seen[point] for point in points]
    cotangents = features.new_zeros(len(directions), *features.shape)
    cotangents[:, :, -1] = directions[:, None]
    found = torch.autograd.grad(
        features, inputs, cotangents, retain_graph=True, is_grads_batched=True, allow_unused=True
    )
    zeros = (x.new_zeros(len(directions), *x.shape) for x in inputs)
    return {x: zero if y is None else y for x, y, zero in zip(points, found, zeros, strict=True)}


def _gradients(one: Vector, right: Mapping[str, Tensor]) -> Float[Tensor, "n width"]:
    """The gradients themselves, side by side for all outputs."""
    of_uses = [right[at] if factor is None else right[at] * factor for at, factor in one.uses.items()]
    of_examples = torch.stack([x.flatten(2, -2).sum(2) for x in of_uses]).sum(0)
    return rearrange(of_examples, "c n d -> n (c d)").contiguous()


def _readout(
    model: HookedTransformer, features: Float[Tensor, "n d"], rows_of_table: Float[Tensor, "n d"]
) -> Float[Tensor, "n n"]:
    """The share of the unembedding, which reads the features once for each class.

    If it is the token table, the share of the table's rows was counted as that of a table, and what is left
    besides the unembedding's own is the product of the two.
    """
    unembed = cast(GrokUnembed, model.unembed)
    scale, classes = unembed.readout_scale, model.W_U.shape[1]
    kernel = features.new_zeros(len(features), len(features))
    if is_trained(model, "unembed.b_U"):
        kernel += classes * scale**2
    if isinstance(unembed, TiedUnembed) and is_trained(model, "embed.W_E"):
        cross = scale * rows_of_table @ features.T
        kernel += cross + cross.T
    elif not is_trained(model, "unembed.W_U"):
        return kernel
    return kernel + classes * scale**2 * features @ features.T
