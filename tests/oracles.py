"""Models and inputs with known answers."""

import math

import numpy as np
import pytest
import torch

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.placement import all_placements

CLOCK_P = 113
CLOCK_AMPLITUDES = {14: 8.0, 35: 7.0, 41: 6.0, 42: 5.0, 52: 4.0}
"""Frequency -> amplitude of the clock model."""

_COPY_OF_A, _COPY_OF_B, _COS_SUM = 40, 72, 90
_POSITION = 120

PLACEMENTS = [str(placement) for placement in all_placements()]


def crossed(first, second):
    """All pairs, as parameters; but for a diagonal, which has every value of both, they are slow tests."""
    return [
        pytest.param(x, y, marks=[] if i % len(second) == j or j % len(first) == i else pytest.mark.slow)
        for i, x in enumerate(first)
        for j, y in enumerate(second)
    ]


def clock_embedding(p=CLOCK_P, frequencies=tuple(CLOCK_AMPLITUDES), d_model=128):
    """Rows 0..p: cos(w_k a) and sin(w_k a) on dimensions of their own; the row of `=` is 0. Float64."""
    embedding = torch.zeros(p + 1, d_model, dtype=torch.float64)
    for i, k in enumerate(frequencies):
        angle = torch.tensor([2 * math.pi * (k * a % p) / p for a in range(p)], dtype=torch.float64)
        embedding[:p, 2 * i], embedding[:p, 2 * i + 1] = angle.cos(), angle.sin()
    return embedding


@torch.no_grad()
def clock_model():
    """The exact clock as one of this project's models, with p + 1 classes."""
    model = GrokTransformer(ModelConfig(), CLOCK_P, dtype=torch.float64)
    for parameter in model.parameters():
        parameter.zero_()
    return write_clock(model)


@torch.no_grad()
def write_clock(model):
    """Exact clock: logits sum_k alpha_k cos(w_k (a + b - c)), with squares for its activation.

    Heads 0 and 1 look from `=` to a only, heads 2 and 3 to b only. Head 0 copies a's Fourier components,
    head 2 those of b; the MLP multiplies them by (x + y)^2 - (x - y)^2 = 4xy. The model's parameters must
    be zero and its size that of `ModelConfig()`.
    """
    model.blocks[0].mlp.act_fn = torch.square
    embedding = clock_embedding()
    model.embed.W_E.copy_(embedding)
    model.pos_embed.W_pos[range(3), [_POSITION, _POSITION + 1, _POSITION + 2]] = 1.0
    _look_and_copy(model.blocks[0].attn)
    for i in range(len(CLOCK_AMPLITUDES)):
        _multiply(model.blocks[0].mlp, i)
    read_out(model, _COS_SUM, embedding)
    return model


def _look_and_copy(attn):
    for head in range(4):
        attn.W_Q[head, _POSITION + 2, 0] = 1e5
        attn.W_K[head, _POSITION + head // 2, 0] = 1.0
    for head, target in ((0, _COPY_OF_A), (2, _COPY_OF_B)):
        for j in range(2 * len(CLOCK_AMPLITUDES)):
            attn.W_V[head, j, j] = 1.0
            attn.W_O[head, j, target + j] = 1.0


def _multiply(mlp, i):
    """cos(a + b) = cos a cos b - sin a sin b and sin(a + b) = sin a cos b + cos a sin b of frequency i."""
    cos, sin = 2 * i, 2 * i + 1
    products = [(cos, cos, 0, 1.0), (sin, sin, 0, -1.0), (sin, cos, 1, 1.0), (cos, sin, 1, 1.0)]
    for n, (of_a, of_b, out, sign) in enumerate(products):
        for m, second in enumerate((1.0, -1.0)):
            neuron = 8 * i + 2 * n + m
            mlp.W_in[_COPY_OF_A + of_a, neuron] = 1.0
            mlp.W_in[_COPY_OF_B + of_b, neuron] = second
            mlp.W_out[neuron, _COS_SUM + 2 * i + out] = sign * second / 4


def read_out(model, first, embedding):
    """Logits alpha_k (cos(w_k c) x + sin(w_k c) y), with x and y on two dimensions each from `first` on."""
    for i, amplitude in enumerate(CLOCK_AMPLITUDES.values()):
        for j in (2 * i, 2 * i + 1):
            model.unembed.W_U[first + j, :CLOCK_P] = amplitude * embedding[:CLOCK_P, j]


def clock_loss(shrunk_by=1.0):
    """Loss over p + 1 classes of the clock whose logits are divided by `shrunk_by`; `=` has logit 0."""
    logits = sum(
        amplitude * np.cos(2 * np.pi * (k * np.arange(CLOCK_P) % CLOCK_P) / CLOCK_P)
        for k, amplitude in CLOCK_AMPLITUDES.items()
    )
    logits = np.append(logits, 0.0) / shrunk_by
    return float(np.log(np.exp(logits - logits[0]).sum()))


@torch.no_grad()
def random_model(p=5, seed=0, dtype=torch.float64, **settings):
    """A small model whose every parameter, gains and biases included, is away from its initial value."""
    size = {"d_model": 16, "n_heads": 4, "mlp_ratio": 2}
    model = GrokTransformer(ModelConfig(**{**size, **settings}), p, seed=seed, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.trained_parameters().values():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(dtype))
    return model


@torch.no_grad()
def same_weights(model, **settings):
    """A model with other settings and every weight that both have."""
    config = ModelConfig.model_validate({**model.config.model_dump(), **settings})
    other = GrokTransformer(config, model.cfg.d_vocab - 1, dtype=model.cfg.dtype)
    given = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        parameter.copy_(given[name])
    return other
