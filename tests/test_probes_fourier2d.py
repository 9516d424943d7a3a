import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CLOCK_AMPLITUDES, PLACEMENTS, clock_model, random_model

from mech_grok.probes import find_probe, measure
from mech_grok.probes.fourier2d import fourier_map
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import observe
from mech_grok.task import Task

PROBE = find_probe("fourier2d")
PATTERN = "blocks.0.attn.hook_pattern"
some = settings(deadline=None, max_examples=20)


def seen_in(model, p):
    task = Task("add", p, 0.5)
    return measure(model, task, task.split_indices(0), ["fourier2d"])["fourier2d"]


def waves(p, k):
    n = np.arange(p)
    both = [f(2 * np.pi * k * n / p) for f in (np.cos, np.sin)]
    return [w / np.linalg.norm(w) for w in both if np.linalg.norm(w) > 1e-6]


def map_by_hand(x, p):
    """Norms along each pair of frequencies, one inner product at a time; x is [p, p, columns]."""
    x = x - x.mean((0, 1))
    size = p // 2 + 1
    return np.array(
        [
            [
                [
                    math.sqrt(
                        sum((np.outer(u, v) * x[..., n]).sum() ** 2 for u in waves(p, i) for v in waves(p, j))
                    )
                    for n in range(x.shape[-1])
                ]
                for j in range(size)
            ]
            for i in range(size)
        ]
    )


@some
@given(st.integers(2, 7), st.integers(0, 2**31))
def test_map_is_that_of_inner_products(p, seed):
    x = torch.randn(p * p, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = fourier_map(x, p)
    assert found.numpy() == pytest.approx(map_by_hand(x.view(p, p, 2).numpy(), p), abs=1e-10)
    torch.testing.assert_close(found.square().sum((0, 1)), (x - x.mean(0)).square().sum(0))


@pytest.mark.parametrize("p", [5, 6])
@pytest.mark.parametrize("config", [{}, {"placement": "peri", "n_layers": 2}])
def test_maps_of_a_model(p, config):
    model = random_model(p, **config)
    seen, task = seen_in(model, p), Task("add", p, 0.5)
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.as_tensor(task.tokens(task.pairs())))
    size = p // 2 + 1
    for layer in range(model.cfg.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][:, :, -1].reshape(p, p, 12).numpy()
        expected = map_by_hand(pattern, p).transpose(2, 0, 1).reshape(4, 3, size, size)
        assert seen["attention_fourier"].values[layer] == pytest.approx(expected, rel=1e-5, abs=1e-7)
        neurons = cache[f"blocks.{layer}.mlp.hook_post"][:, -1].reshape(p, p, -1).numpy()
        expected = np.sqrt((map_by_hand(neurons, p) ** 2).sum(-1))
        assert seen["neuron_fourier"].values[layer] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    L = logits[:, -1, :p].reshape(p, p, p).numpy()
    expected = np.sqrt((map_by_hand(L - L.mean(-1, keepdims=True), p) ** 2).sum(-1))
    assert seen["logit_fourier"].values == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_maps_of_the_clock():
    seen = seen_in(clock_model(), 113)
    expected = np.zeros((57, 57))
    for k, alpha in CLOCK_AMPLITUDES.items():
        expected[k, k] = alpha * math.sqrt(113**3 / 2)
    assert seen["logit_fourier"].values == pytest.approx(expected, rel=1e-6, abs=1e-4)
    assert seen["attention_fourier"].values.max() < 1e-12
    assert np.isnan(seen["attention_one_frequency_fve"]).all()
    assert np.isnan(seen["attention_frequency"]).all()
    # (x + y)^2 holds x^2 + y^2, of twice the frequency, beside 2xy.
    double = [(2 * k if 2 * k < 57 else 113 - 2 * k) for k in CLOCK_AMPLITUDES]
    bright = {*((k, k) for k in CLOCK_AMPLITUDES), *((k, 0) for k in double), *((0, k) for k in double)}
    assert {(int(i), int(j)) for i, j in np.argwhere(seen["neuron_fourier"].values[0] > 1e-6)} == bright


def test_maps_are_float32_and_on_axes_of_their_own():
    seen = seen_in(random_model(7), 7)
    for name in ("attention_fourier", "neuron_fourier", "logit_fourier"):
        assert seen[name].dtype == np.float32
        assert seen[name].dims[-2:] == ("frequency_a", "frequency_b")
    assert seen["frequency_a"].values.tolist() == seen["frequency_b"].values.tolist() == [0, 1, 2, 3]


def with_pattern(p, pattern):
    """What the probe finds if every head attends so: [p, p, key]."""
    task, model = Task("add", p, 0.5), random_model(p)
    seen = observe(model, task, task.split_indices(0), needs_of([PROBE], model))
    heads = pattern.reshape(p * p, 1, 3).expand(-1, 4, -1)
    with torch.no_grad():
        return PROBE.compute(dataclasses.replace(seen, at_equals={**seen.at_equals, PATTERN: heads}))


@pytest.mark.parametrize("other", [0.0, 0.1])
def test_share_of_one_frequency_of_the_attention(other):
    p = 13
    a, b = torch.meshgrid(*[torch.arange(p, dtype=torch.float64)] * 2, indexing="ij")

    def wave(k, n):
        return (2 * math.pi * k * n / p).cos()

    to_a = 0.45 + 0.3 * wave(3, a - b) + other * wave(5, a + b)
    found = with_pattern(p, torch.stack([to_a, 0.9 - to_a, torch.full_like(a, 0.1)], dim=-1))
    expected = 0.3**2 / (0.3**2 + other**2)
    assert found["attention_one_frequency_fve"].tolist() == [[pytest.approx(expected, rel=1e-12)] * 4]
    assert found["attention_frequency"].tolist() == [[3] * 4]


def test_rounding_of_even_attention_is_not_a_frequency():
    third = torch.full((7, 7, 3), 1 / 3) + 1e-8 * torch.randn(7, 7, 3)
    found = with_pattern(7, third)
    assert found["attention_one_frequency_fve"].isnan().all()
    assert found["attention_frequency"].isnan().all()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement(placement):
    model = random_model(4, placement=placement, n_layers=2, dtype=torch.float32)
    seen = seen_in(model, 4)
    assert not any(np.isnan(variable).any() for variable in seen.data_vars.values())


@pytest.mark.parametrize("p", [2, 3])
def test_smallest_moduli_and_zero_weights(p):
    model = random_model(p)
    assert float(seen_in(model, p)["attention_one_frequency_fve"].min()) == pytest.approx(1, rel=1e-9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    seen = seen_in(model, p)
    assert not seen["logit_fourier"].any()
    assert not seen["neuron_fourier"].any()
    assert np.isnan(seen["attention_one_frequency_fve"]).all()
