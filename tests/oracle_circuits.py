"""The clock and the pizza as stock `HookedTransformer`s with weights set by hand.

Both compute (a + b) mod 113 with the five frequencies of `oracles.CLOCK_AMPLITUDES`: the clock multiplies
Fourier components of a and b, the pizza takes absolute values of their sum.
"""

import math
import warnings

import torch
from oracles import CLOCK_AMPLITUDES, CLOCK_P, clock_embedding, read_out, write_clock
from transformer_lens import HookedTransformer
from transformer_lens.config import HookedTransformerConfig

N_FREQUENCIES = len(CLOCK_AMPLITUDES)
PIZZA_PHASES = 101
"""Neurons per frequency of the pizza; odd, so that the phases' aliases do not fall on low harmonics."""


def stock_model(**settings):
    """A stock `HookedTransformer` reading `a b =`; by default float64, two heads of 8 and ReLU."""
    size = {"n_layers": 1, "d_model": 16, "d_head": 8, "n_heads": 2, "d_mlp": 32, "n_ctx": 3, "d_vocab": 6}
    form = {"act_fn": "relu", "normalization_type": None, "dtype": torch.float64, "seed": 0, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        return HookedTransformer(HookedTransformerConfig(**{**size, **form, **settings}))


def _stock_113(**settings):
    size = {"d_model": 128, "d_head": 32, "n_heads": 4, "d_mlp": 512, "d_vocab": CLOCK_P + 1}
    model = stock_model(**size, d_vocab_out=CLOCK_P, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E.copy_(clock_embedding())
    return model


def stock_clock_model(attention_dir="causal"):
    """The exact clock of `oracles.write_clock`, with p classes and square activations."""
    return write_clock(_stock_113(attention_dir=attention_dir))


@torch.no_grad()
def stock_pizza_model(attention_dir="causal"):
    """Exact pizza but for aliases of a few 1e-3, with plain ReLU.

    Logits: sum_k alpha_k |cos(w_k (a - b)/2)| cos(w_k (a + b - c)). Attention is uniform and copies the
    stream, so that neurons see the sum of both embeddings, whose length is the absolute cosine.
    """
    model = _stock_113(attention_dir=attention_dir)
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    copied = torch.eye(128, dtype=torch.float64).reshape(128, 4, 32)
    attn.W_V.copy_(copied.transpose(0, 1))
    attn.W_O.copy_(copied.permute(1, 2, 0))
    phase = 2 * math.pi * torch.arange(PIZZA_PHASES, dtype=torch.float64) / PIZZA_PHASES
    scale = 3 * math.pi / (2 * PIZZA_PHASES)
    out = 2 * N_FREQUENCIES
    for i in range(N_FREQUENCIES):
        neurons = slice(i * PIZZA_PHASES, (i + 1) * PIZZA_PHASES)
        # cos(w a + phase), times the three positions that attention averages over; the row of `=` is 0.
        mlp.W_in[2 * i, neurons], mlp.W_in[2 * i + 1, neurons] = 3 * phase.cos(), -3 * phase.sin()
        mlp.W_out[neurons, out + 2 * i] = scale * (2 * phase).cos()
        mlp.W_out[neurons, out + 2 * i + 1] = -scale * (2 * phase).sin()
    read_out(model, out, clock_embedding())
    return model


def clock_cube(p=CLOCK_P, amplitudes=CLOCK_AMPLITUDES, sign=1):
    """sum_k alpha_k cos(w_k (a + sign b - c)), [p, p, p]."""
    a, b, c = _grid(p)
    return sum(alpha * _cos(k * (a + sign * b - c), p) for k, alpha in amplitudes.items())


def pizza_cube(p=CLOCK_P, amplitudes=CLOCK_AMPLITUDES, sign=1):
    """sum_k alpha_k |cos(w_k (a - sign b)/2)| cos(w_k (a + sign b - c)), [p, p, p]."""
    a, b, c = _grid(p)
    return sum(
        alpha * _cos(k * (a - sign * b), 2 * p).abs() * _cos(k * (a + sign * b - c), p)
        for k, alpha in amplitudes.items()
    )


def _grid(p):
    return torch.meshgrid(*[torch.arange(p)] * 3, indexing="ij")


def _cos(steps, n):
    """cos(2 pi steps / n), from integers, so that the angle keeps its digits."""
    return (2 * math.pi / n * (steps % n).double()).cos()
