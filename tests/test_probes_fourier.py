import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CLOCK_AMPLITUDES, clock_embedding

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.probes import measure
from mech_grok.probes.fourier import c_fourier, embedding_spectrum, fourier_basis, frequencies
from mech_grok.task import Task

moduli = st.integers(3, 60)


def random_embedding(p, d_model=7, seed=0):
    return torch.randn(p, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(moduli)
def test_basis_is_orthonormal_for_odd_and_even_p(p):
    basis = fourier_basis(p)
    torch.testing.assert_close(basis @ basis.T, torch.eye(p, dtype=torch.float64), atol=1e-13, rtol=0)
    assert frequencies(p).bincount().tolist() == [1] + [2] * ((p - 1) // 2) + [1] * (1 - p % 2)


@settings(deadline=None)
@given(moduli, st.integers(0, 2**31))
def test_spectrum_is_that_of_the_fast_fourier_transform(p, seed):
    embedding = random_embedding(p, seed=seed)
    power = np.abs(np.fft.rfft(embedding.numpy(), axis=0)) ** 2 / p
    power[1 : (p + 1) // 2] *= 2
    assert embedding_spectrum(embedding).square().numpy() == pytest.approx(power.sum(1), abs=1e-10)


@settings(deadline=None)
@given(moduli, st.integers(0, 2**31))
def test_spectrum_keeps_the_norm_and_ignores_the_choice_of_axes(p, seed):
    embedding = random_embedding(p, seed=seed)
    rotation = torch.linalg.qr(random_embedding(7, seed=seed + 1)).Q
    spectrum = embedding_spectrum(embedding)
    torch.testing.assert_close(spectrum.square().sum(), embedding.square().sum())
    torch.testing.assert_close(embedding_spectrum(embedding @ rotation), spectrum)


def test_spectrum_of_waves_is_theirs_alone():
    spectrum = embedding_spectrum(clock_embedding()[:113])
    expected = torch.zeros(57, dtype=torch.float64)
    expected[list(CLOCK_AMPLITUDES)] = 113**0.5
    torch.testing.assert_close(spectrum, expected, atol=1e-12, rtol=0)


def test_alternating_embedding_has_the_frequency_half_p():
    spectrum = embedding_spectrum(torch.tensor([[1.0], [-1.0]]).repeat(4, 1))
    assert spectrum.tolist() == pytest.approx([0, 0, 0, 0, 8**0.5], abs=1e-12)


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
@given(st.integers(0, 2**31), st.floats(0.1, 100))
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
