"""Logits of a model without its skip path, its attention or its MLPs.

Each function's docstring says what it reads; `ablation_hooks` and `ablation_hooks_everywhere` name it.
"""

from collections.abc import Mapping
from functools import partial

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.probes.late_pass import read_out, resid_mid
from mech_grok.probes.observation import Observation, logits_under


def ablation_hooks(model: HookedTransformer) -> tuple[str, ...]:
    """Hook points that the ablations read at `=`."""
    return (resid_mid(model), *_added(model, "attn"), _added(model, "mlp")[-1])


def ablation_hooks_everywhere(model: HookedTransformer) -> tuple[str, ...]:
    """Hook points that the ablations read at all positions."""
    return tuple(_added(model, "mlp")[:-1])


def without_skip(seen: Observation) -> Float[Tensor, "n classes"]:
    """Logits if the unembedding reads nothing of the residual stream but what the last MLP adds to it.

    The MLP reads the stream as ever. A norm on its output stays; a norm after the sum and the final norm see
    its output alone. At depth > 1 what earlier blocks have written is dropped as well.
    """
    return read_out(seen.model, seen.at_equals[_added(seen.model, "mlp")[-1]])


def without_attention(seen: Observation) -> Float[Tensor, "1 classes"]:
    """Logits, the same for all pairs, if no attention adds anything to the residual stream."""
    zero = {name: x[0].new_zeros(x.shape[1:]) for name, x in _attention_outputs(seen).items()}
    return _under_constant_attention(seen, zero)


def with_mean_attention(seen: Observation) -> Float[Tensor, "1 classes"]:
    """Logits, the same for all pairs, if every attention adds its mean over the training pairs.

    The means are those of the unchanged model, in every block; nan without training pairs.
    """
    train = seen.indices("train")
    mean = {name: x[train].mean(0) for name, x in _attention_outputs(seen).items()}
    return _under_constant_attention(seen, mean)


def with_mean_mlp(seen: Observation) -> Float[Tensor, "n classes"]:
    """Logits if every MLP adds its mean over the training pairs, another one at each position.

    The means are those of the unchanged model, in every block; nan without training pairs.
    """
    model, train = seen.model, seen.indices("train")
    *earlier, last = _added(model, "mlp")
    mean = seen.at_equals[last][train].mean(0)
    if not earlier:
        return read_out(model, seen.at_equals[resid_mid(model)] + mean)
    means = {name: seen.at_all_positions[name][train].mean(0) for name in earlier}
    return logits_under(model, seen.tokens, _replacing({**means, last: mean}))


def _under_constant_attention(seen: Observation, added: Mapping[str, Tensor]) -> Float[Tensor, "1 classes"]:
    """Attention alone brings anything to `=`, so that one pair stands for all, and `=` for every position."""
    return logits_under(seen.model, seen.tokens[:1], _replacing(added))


def _attention_outputs(seen: Observation) -> dict[str, Float[Tensor, "n d_model"]]:
    return {name: seen.at_equals[name] for name in _added(seen.model, "attn")}


def _added(model: HookedTransformer, sublayer: str) -> list[str]:
    """Hook points of what `attn` or `mlp` of each block adds to the residual stream."""
    return [f"blocks.{layer}.hook_{sublayer}_out" for layer in range(model.cfg.n_layers)]


def _replacing(added: Mapping[str, Tensor]) -> list[tuple[str, partial[Tensor]]]:
    return [(name, partial(_replace, by=x)) for name, x in added.items()]


def _replace(activation: Tensor, hook: HookPoint, *, by: Tensor) -> Tensor:
    return by.expand_as(activation)
