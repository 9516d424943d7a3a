"""Initial weights, in distribution those of the paper's code."""

import math

import torch
from torch import Tensor, nn

from mech_grok.config import ModelConfig

_CUT = 2.0
"""LeCun weights are cut at this many standard deviations (not rescaled after the cut)."""


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Draw every parameter of a `GrokTransformer` in place, from `seed` alone.

    W_E and W_U ~ N(0, 1/d_model); W_pos ~ N(0, 0.02^2); the rows of Q, K and V are one Xavier-uniform
    [3 d_model, d_model] matrix; W_O and the MLP as `config.init` says; biases 0, gains 1. Then everything
    is multiplied by `config.init_scale`. Attention factors keep the values that they were built with.

    Drawn in float32 on the CPU, so that one seed means the same weights in any dtype on any device.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf == "score_factor":
            continue
        drawn = _draw(leaf, parameter.shape, config, generator)
        if drawn is not None:
            parameter.copy_(drawn)
        parameter.mul_(config.init_scale)


def _draw(leaf: str, shape: torch.Size, config: ModelConfig, generator: torch.Generator) -> Tensor | None:
    d = config.d_model
    x = torch.empty(shape)
    match leaf:
        case "W_E" | "W_U":
            return x.normal_(0, d**-0.5, generator=generator)
        case "W_pos":
            return x.normal_(0, 0.02, generator=generator)
        case "W_Q" | "W_K" | "W_V":
            bound = math.sqrt(6 / (3 * d + d))
            return x.uniform_(-bound, bound, generator=generator)
        case "W_O":
            return _linear(x, d, config, generator)
        case "W_in" | "W_gate" | "W_out":
            return _linear(x, shape[0], config, generator)
        case _:
            return None


def _linear(x: Tensor, fan_in: int, config: ModelConfig, generator: torch.Generator) -> Tensor:
    if config.init == "kaiming":
        return x.normal_(0, math.sqrt(2 / fan_in), generator=generator)
    std = fan_in**-0.5
    return nn.init.trunc_normal_(x, 0.0, std, -_CUT * std, _CUT * std, generator=generator)
