"""Gains at which new norms leave the mean length of what they write as it was."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mech_grok.config import CellConfig
from mech_grok.model import GrokTransformer
from mech_grok.run import Run
from mech_grok.surgery.transplant import Transplant, new_affines

_OUTPUTS = {
    "norm_attn_out": "hook_attn_out",
    "norm_resid_mid": "hook_resid_mid",
    "norm_mlp_out": "hook_mlp_out",
    "norm_resid_post": "hook_resid_post",
}
_READ_EVERYWHERE = ("k", "v")

Gains = dict[str, float]
"""Name of a gain (`blocks.0.ln2.w`) -> the number that all its dimensions have."""


@torch.no_grad()
def match_scale(parent: Run, step: int, child: CellConfig, moved: Transplant) -> dict[int, Gains]:
    """Set the gain of every new norm, one number per seed and layer, so that mean lengths match the parent's.

    In the order in which the model reads them, each with the earlier ones set: the gain times the mean L2
    norm of what the new norm writes at gain 1, over the train set, is the mean L2 norm of what was read
    there in the parent. Where one gain serves several pathways, it is the sums over them that match.

    Args:
        parent: the run whose lengths are matched.
        step: its checkpoint.
        child: the config of the run that goes on.
        moved: its parameters, whose new gains are 1 and change here.

    Returns:
        Seed -> the gains chosen.
    """
    own = {**moved.parameters.named(), **moved.parameters.frozen}
    chosen: dict[int, Gains] = {}
    for row, seed in enumerate(child.training.seeds):
        model = GrokTransformer(child.model, child.task.p, dtype=own["embed.W_E"].dtype)
        _load(model, {name: stacked[row] for name, stacked in own.items()})
        chosen[seed] = _choose(model, parent.model(seed, step), parent.tokens("train", seed))
        for name, gain in chosen[seed].items():
            own[name][row].fill_(gain)
    return chosen


def _load(model: GrokTransformer, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def _choose(model: GrokTransformer, before: GrokTransformer, tokens: Int[Tensor, "n 3"]) -> Gains:
    """Set the new gains of a model, one after the other."""
    wanted, parameters, chosen = mean_lengths(before, tokens), dict(model.named_parameters()), Gains()
    for layer in range(model.config.n_layers):
        for key, readers in new_affines(before.config, model.config).items():
            written = mean_lengths(model, tokens)
            places = [_hook(layer, reader) for reader in readers]
            gain = sum(wanted[place] for place in places) / sum(written[place] for place in places)
            name = f"blocks.{layer}.{key}.w"
            parameters[name].fill_(gain)
            chosen[name] = float(parameters[name][0])
    return chosen


@torch.no_grad()
def mean_lengths(model: GrokTransformer, tokens: Int[Tensor, "n 3"]) -> dict[str, float]:
    """Mean L2 norm of what every norm of a block writes, or would write, at the positions that are read.

    In the last layer only keys and values are read at all three positions, everything else at `=`.

    Returns:
        Name of the hook point -> the mean over inputs and positions, taken in float64.
    """
    lengths: dict[str, float] = {}

    def measure(x: Float[Tensor, "n pos d_model"], hook: HookPoint, *, read: slice) -> None:
        lengths[str(hook.name)] = float(x[:, read].double().norm(dim=-1).mean())

    last = model.config.n_layers - 1
    hooks = [
        (_hook(layer, reader), partial(measure, read=_positions(reader, layer == last)))
        for layer in range(model.config.n_layers)
        for reader in ("q", "k", "v", "mlp", *_OUTPUTS)
    ]
    model.run_with_hooks(tokens, fwd_hooks=[*hooks])
    return lengths


def _hook(layer: int, reader: str) -> str:
    """The hook point at which a norm's output is seen, also where there is no norm."""
    return f"blocks.{layer}.{_OUTPUTS.get(reader, f'norm_{reader}.hook_out')}"


def _positions(reader: str, in_last_layer: bool) -> slice:
    return slice(-1, None) if in_last_layer and reader not in _READ_EVERYWHERE else slice(None)
