import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CLOCK_AMPLITUDES, clock_embedding

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.probes import measure
from mech_grok.probes.fourier import (
    c_fourier,
    coefficient_ratio,
    component_norms,
    frequency_density,
    gini,
    inverse_participation_ratio,
)
from mech_grok.probes.fourier_basis import spectrum
from mech_grok.task import Task

seeds = st.integers(0, 2**31)
some = settings(deadline=None, max_examples=30)


def random_embedding(p, d_model=7, seed=0):
    return torch.randn(p, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_spectrum_of_waves_is_theirs_alone():
    norms = spectrum(clock_embedding()[:113])
    expected = torch.zeros(57, dtype=torch.float64)
    expected[list(CLOCK_AMPLITUDES)] = 113**0.5
    torch.testing.assert_close(norms, expected, atol=1e-12, rtol=0)


def test_alternating_embedding_has_the_frequency_half_p():
    norms = spectrum(torch.tensor([[1.0], [-1.0]]).repeat(4, 1))
    assert norms.tolist() == pytest.approx([0, 0, 0, 0, 8**0.5], abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
@pytest.mark.parametrize("d_model", [64, 128])
def test_c_fourier_of_waves_on_axes_of_their_own(n, d_model):
    embedding = clock_embedding(frequencies=range(3, 3 + n), d_model=d_model)[:113]
    # Each wave fills one dimension of d: mean m, variance within m^2 (d - 2) / 2 for its mode.
    assert c_fourier(embedding).ratio.item() == pytest.approx(2 * (1 - n / 57) / (d_model - 2), rel=1e-7)


def test_c_fourier_of_the_five_frequency_clock():
    assert c_fourier(clock_embedding()[:113]).ratio.item() == pytest.approx(0.0144806, rel=1e-5)


def test_c_fourier_depends_on_the_axes():
    rotation = torch.linalg.qr(random_embedding(128, 128)).Q
    assert c_fourier(clock_embedding()[:113] @ rotation).ratio.item() == pytest.approx(3.4, abs=0.8)


@settings(deadline=None)
@given(seeds, st.floats(0.1, 100))
def test_c_fourier_ignores_the_scale(seed, scale):
    embedding = random_embedding(23, 16, seed)
    assert c_fourier(scale * embedding).ratio.item() == pytest.approx(
        c_fourier(embedding).ratio.item(), rel=1e-5
    )


def test_c_fourier_of_nothing_is_zero():
    assert [x.item() for x in c_fourier(torch.zeros(7, 4))] == [0, 0, 0]


def test_untrained_embedding_is_flat():
    task = Task("add", 113, 0.7)
    ratios = []
    for seed in range(3):
        model = GrokTransformer(ModelConfig(), 113, seed=seed)
        seen = measure(model, task, task.split_indices(0), ["fourier"])["fourier"]
        ratios.append(float(seen["c_fourier"]))
        assert 0.033 < float(seen["embedding_gini"]) < 0.037
        # 2 x 128 components of variance 1/128 per frequency; the zero mode has half of them.
        assert seen["embedding_spectrum"].values[1:] == pytest.approx(2**0.5, rel=0.25)
    assert np.mean(ratios) == pytest.approx(0.0085, abs=0.003)


def test_row_of_equals_is_left_out():
    task = Task("add", 7, 0.5)
    model = GrokTransformer(ModelConfig(d_model=16), 7)
    before = measure(model, task, task.split_indices(0), ["fourier"])["fourier"]
    with torch.no_grad():
        model.embed.W_E[7] += 100.0
    assert before.equals(measure(model, task, task.split_indices(0), ["fourier"])["fourier"])


def clock(n=5):
    return clock_embedding(frequencies=range(3, 3 + n))[:113]


@pytest.mark.parametrize("n", [1, 5, 56])
def test_gini_of_equal_waves(n):
    norms = component_norms(clock_embedding(frequencies=range(1, 1 + n))[:113])
    assert gini(norms).item() == pytest.approx(1 - 2 * n / 113, rel=1e-12)
    assert gini(norms.square()).item() == pytest.approx(1 - 2 * n / 113, rel=1e-12)


def test_gini_of_the_five_frequency_clock():
    assert gini(component_norms(clock())).item() == pytest.approx(0.911504, abs=5e-7)
    assert gini(spectrum(clock())).item() == pytest.approx(1 - 5 / 57, rel=1e-12)


def test_gini_of_one_of_many_of_equals_and_of_nothing():
    one = torch.zeros(113)
    one[4] = 3.0
    assert gini(one).item() == pytest.approx(1 - 1 / 113, rel=1e-12)
    assert gini(torch.ones(113)).item() == pytest.approx(0, abs=1e-12)
    assert gini(torch.zeros(5)).isnan()


@some
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30).filter(lambda x: sum(x) > 0.1))
def test_gini_is_the_mean_difference_over_twice_the_mean(x):
    x = np.array(x)
    expected = np.abs(x[:, None] - x).mean() / (2 * x.mean())
    assert gini(torch.from_numpy(x)).item() == pytest.approx(expected, abs=1e-12)


def test_gini_of_an_untrained_embedding():
    norms = component_norms(random_embedding(113, 128))
    # For chi-distributed norms and their squares: 1/sqrt(2 pi d) and sqrt(2/(pi d)).
    assert gini(norms).item() == pytest.approx(0.0353, rel=0.2)
    assert gini(norms.square()).item() == pytest.approx(0.0705, rel=0.2)


def test_constant_embedding_has_only_a_constant():
    norms = component_norms(torch.full((113, 4), 0.5))
    assert norms[0].item() == pytest.approx(113**0.5, rel=1e-12)
    assert norms[1:].max().item() < 1e-12


@some
@given(st.floats(0, 2 * math.pi), st.integers(1, 56))
def test_participation_of_one_wave_is_1_whatever_its_phase(phase, k):
    angle = torch.arange(113, dtype=torch.float64) * k % 113 * (2 * math.pi / 113)
    assert inverse_participation_ratio((angle + phase).cos()[:, None]).item() == pytest.approx(1, rel=1e-12)


def test_participation_of_equal_waves_in_one_dimension():
    n = 4
    together = clock(n).view(113, -1)[:, : 2 * n : 2].sum(1, keepdim=True)
    assert inverse_participation_ratio(together).item() == pytest.approx(1 / n, rel=1e-12)


@some
@given(st.integers(2, 20), seeds)
def test_participation_of_anything_is_that_of_the_fast_fourier_transform(p, seed):
    embedding = random_embedding(p, 3, seed)
    power = np.abs(np.fft.rfft(embedding.numpy(), axis=0)) ** 2
    power[1 : (p + 1) // 2] *= 2
    expected = (power**2).sum(0) / power.sum(0) ** 2
    assert inverse_participation_ratio(embedding).numpy() == pytest.approx(expected, rel=1e-9)


def test_participation_depends_on_the_axes_and_gini_does_not():
    rotated = clock() @ torch.linalg.qr(random_embedding(128, 128)).Q
    assert inverse_participation_ratio(clock()).nanmean().item() == pytest.approx(1, rel=1e-12)
    assert inverse_participation_ratio(rotated).nanmean().item() < 0.5
    assert gini(component_norms(rotated)).item() == pytest.approx(gini(component_norms(clock())).item())


@some
@given(st.integers(2, 20), seeds)
def test_density_and_ratio_as_loops(p, seed):
    embedding = random_embedding(p, 2, seed)
    n = np.arange(p)
    x = embedding.numpy()

    def norm(wave):
        return np.linalg.norm(wave @ x) / np.linalg.norm(wave)

    cos = {k: norm(np.cos(2 * np.pi * k * n / p)) for k in range(1, p // 2 + 1)}
    sin = {k: norm(np.sin(2 * np.pi * k * n / p)) for k in range(1, (p + 1) // 2)}
    above = [v > max(of.values()) / 2 for of in (cos, sin) for v in of.values()]
    assert frequency_density(component_norms(embedding)).item() == pytest.approx(np.mean(above))
    ratios = [min(cos[k], v) / max(cos[k], v) for k, v in sin.items()]
    ratio = coefficient_ratio(component_norms(embedding)).item()
    assert ratio == pytest.approx(np.mean(ratios) if ratios else math.nan, nan_ok=True)


def test_density_and_ratio_of_the_clock():
    norms = component_norms(clock())
    assert frequency_density(norms).item() == pytest.approx(10 / 112)
    assert coefficient_ratio(norms).item() == pytest.approx(1, rel=1e-12)
    cosines = component_norms(clock()[:, ::2])
    assert coefficient_ratio(cosines).item() == pytest.approx(0, abs=1e-12)


def fourier_of(model, p):
    task = Task("add", p, 0.5)
    return measure(model, task, task.split_indices(0), ["fourier"])["fourier"]


@pytest.mark.parametrize("readout_scale", [1.0, 0.25])
def test_tied_unembedding_has_the_embedding_s_structure(readout_scale):
    model = GrokTransformer(
        ModelConfig(d_model=16, tied_unembed=True, readout_scale=readout_scale), 11, dtype=torch.float64
    )
    seen = fourier_of(model, 11)
    for name in ("spectrum", "gini", "gini_squared", "gini_frequency", "ipr", "ffd", "fcr"):
        assert seen[f"unembedding_{name}"].values == pytest.approx(seen[f"embedding_{name}"].values)


def test_class_of_equals_is_left_out():
    model = GrokTransformer(ModelConfig(d_model=16), 7)
    before = fourier_of(model, 7)
    with torch.no_grad():
        model.unembed.W_U[:, 7] += 100.0
    assert before.equals(fourier_of(model, 7))


@pytest.mark.parametrize("p", [2, 3, 4, 9])
def test_zero_weights_are_undefined_and_small_moduli_are_not(p):
    model = GrokTransformer(ModelConfig(d_model=8, n_heads=2), p)
    seen = fourier_of(model, p)
    assert np.isfinite([v for name, v in seen.items() if v.ndim == 0 and not name.endswith("fcr")]).all()
    assert np.isnan(seen["embedding_fcr"]) == (p == 2)
    with torch.no_grad():
        model.embed.W_E.zero_()
    seen = fourier_of(model, p)
    undefined = {"embedding_gini", "embedding_gini_squared", "embedding_gini_frequency", "embedding_ipr"}
    assert {name for name, v in seen.items() if np.isnan(v).any()} - {"unembedding_fcr"} == undefined | {
        "embedding_fcr"
    }
