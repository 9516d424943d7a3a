import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.probes.fourier_basis import (
    by_frequency,
    fourier_2d,
    fourier_basis,
    frequencies,
    power_2d,
    spectrum,
)

moduli = st.integers(2, 40)
seeds = st.integers(0, 2**31)
some = settings(deadline=None, max_examples=30)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(moduli)
def test_basis_is_orthonormal_for_odd_and_even_p(p):
    basis = fourier_basis(p)
    torch.testing.assert_close(basis @ basis.T, torch.eye(p, dtype=torch.float64), atol=1e-13, rtol=0)
    assert frequencies(p).bincount().tolist() == [1] + [2] * ((p - 1) // 2) + [1] * (1 - p % 2)


def test_basis_has_cosine_before_sine_to_the_last_digit():
    n = np.arange(113)
    basis = fourier_basis(113).numpy()
    assert basis[0] == pytest.approx(113**-0.5, rel=1e-15)
    for k in (1, 35, 56):
        angle = 2 * np.pi * (k * n % 113) / 113
        assert basis[2 * k - 1] == pytest.approx(np.sqrt(2 / 113) * np.cos(angle), abs=1e-15)
        assert basis[2 * k] == pytest.approx(np.sqrt(2 / 113) * np.sin(angle), abs=1e-15)


@some
@given(moduli, seeds)
def test_spectrum_is_that_of_the_fast_fourier_transform(p, seed):
    x = random(p, 7, seed=seed)
    power = np.abs(np.fft.rfft(x.numpy(), axis=0)) ** 2 / p
    power[1 : (p + 1) // 2] *= 2
    assert spectrum(x).square().numpy() == pytest.approx(power.sum(1), abs=1e-10)


@some
@given(moduli, seeds)
def test_spectrum_keeps_the_norm_and_ignores_the_choice_of_axes(p, seed):
    x = random(p, 7, seed=seed)
    rotation = torch.linalg.qr(random(7, 7, seed=seed + 1)).Q
    torch.testing.assert_close(spectrum(x).square().sum(), x.square().sum())
    torch.testing.assert_close(spectrum(x @ rotation), spectrum(x))


@some
@given(st.integers(2, 9), seeds)
def test_coefficients_are_inner_products_with_products_of_rows(p, seed):
    x = random(p * p, 3, seed=seed)
    basis = fourier_basis(p).numpy()
    expected = np.array([[np.kron(of_a, of_b) @ x.numpy() for of_b in basis] for of_a in basis])
    assert fourier_2d(x, p).numpy() == pytest.approx(expected, abs=1e-12)


@some
@given(st.integers(2, 12), seeds)
def test_power_is_that_of_the_coefficients_folded(p, seed):
    x = random(p * p, 2, 3, seed=seed)
    coefficients = fourier_2d(x, p)
    torch.testing.assert_close(coefficients.square().sum((0, 1)), x.square().sum(0))
    power = power_2d(x, p)
    assert power.shape == (p // 2 + 1, p // 2 + 1, 2, 3)
    for i in range(p // 2 + 1):
        for j in range(p // 2 + 1):
            block = coefficients[frequencies(p) == i][:, frequencies(p) == j]
            torch.testing.assert_close(power[i, j], block.square().sum((0, 1)))


@some
@given(st.integers(2, 12), seeds)
def test_power_ignores_translations_of_a_and_b(p, seed):
    x = random(p, p, 2, seed=seed)
    moved = x.roll((seed % p, 1), (0, 1))
    torch.testing.assert_close(power_2d(moved.reshape(p * p, 2), p), power_2d(x.reshape(p * p, 2), p))


def test_a_and_b_are_not_confused():
    n = torch.arange(7, dtype=torch.float64)
    of_b = torch.cos(2 * torch.pi * 3 * n / 7).repeat(7)
    power = power_2d(of_b, 7)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 3] = 49 / 2
    torch.testing.assert_close(power, expected, atol=1e-12, rtol=0)


def test_float32_is_transformed_in_float64():
    x = random(25, 4).float()
    assert fourier_2d(x, 5).dtype == torch.float64
    torch.testing.assert_close(fourier_2d(x, 5), fourier_2d(x.double(), 5))


def test_folding_adds_cosine_and_sine():
    assert by_frequency(torch.tensor([1.0, 2, 3, 4, 5])).tolist() == [1, 5, 9]
    assert by_frequency(torch.tensor([1.0, 2, 3, 4])).tolist() == [1, 5, 4]
