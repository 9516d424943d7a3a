import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.probes.power_law import fit_power_law
from mech_grok.probes.spectrum import (
    RESOLUTION,
    effective_rank,
    matrix_singular_values,
    power_law,
    ranks_of_matrix,
    ranks_of_vectors,
    reference_ranks,
    scatter,
)

GEOMETRIC = (2.0 ** -np.arange(10)).tolist()


def orthonormal(n, r, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64)).Q


def with_singular_values(sigma, n=60, d=24):
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    return orthonormal(n, len(sigma)) * sigma @ orthonormal(d, len(sigma), seed=1).T


def entropy_by_hand(values):
    shares = [x / sum(values) for x in values]
    return -math.fsum(x * math.log(x) for x in shares if x > 0)


def ranks(x):
    return ranks_of_vectors(scatter(x))


@pytest.mark.parametrize("r", [1, 2, 5, 10, 20])
def test_r_equal_singular_values_have_rank_r(r):
    found = ranks(with_singular_values([3.0] * r))
    for name in ("effective_rank", "effective_rank_sigma", "numerical_rank", "stable_rank"):
        assert found[name] == pytest.approx(r, rel=1e-12)
    assert found["spectral_entropy"] == pytest.approx(math.log(r) / math.log(24), abs=1e-12)


def test_geometric_squares():
    found = ranks(with_singular_values(np.sqrt(GEOMETRIC)))
    assert found["effective_rank"] == pytest.approx(3.9691, abs=1e-4)
    assert found["effective_rank_sigma"] == pytest.approx(6.83, abs=2e-3)
    assert found["effective_rank"] == pytest.approx(math.exp(entropy_by_hand(GEOMETRIC)), rel=1e-12)
    assert found["effective_rank_sigma"] == pytest.approx(
        math.exp(entropy_by_hand([math.sqrt(x) for x in GEOMETRIC])), rel=1e-12
    )
    assert found["stable_rank"] == pytest.approx(sum(GEOMETRIC), rel=1e-12)


def test_singular_values_that_a_product_would_lose():
    """sigma = 10^-i down to 1e-12: x^T x in float64 has nothing right below 1e-8."""
    sigma = 10.0 ** -np.arange(13)
    x = with_singular_values(sigma)
    found = scatter(x).singular_values(centred=False)[:13].numpy()
    assert found == pytest.approx(sigma, rel=1e-2)
    assert scatter(x).singular_values(centred=False)[13:].tolist() == [0.0] * 11
    from_product = np.sqrt(np.abs(np.linalg.eigvalsh((x.T @ x).numpy())[::-1][:13]))
    assert abs(from_product[10] / sigma[10] - 1) > 1
    assert ranks(x)["effective_rank_sigma"] == pytest.approx(math.exp(entropy_by_hand(sigma)), rel=1e-12)


def test_rank_at_the_resolution_of_float32():
    threshold = 24 * RESOLUTION
    sigma = [5.0, 5 * threshold * 1.01, 5 * threshold * 0.99, 1e-9]
    assert ranks(with_singular_values(sigma))["numerical_rank"] == 2
    assert ranks(torch.zeros(6, 4))["numerical_rank"] == 0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0.01, 10), min_size=2, max_size=8),
    st.floats(0.01, 100),
    st.integers(0, 2**31),
    st.permutations(range(60)),
)
def test_invariance_to_scale_rotation_and_order(sigma, scale, seed, order):
    x = with_singular_values(sigma)
    found, turned = ranks(x), ranks(scale * x[order] @ orthonormal(24, 24, seed))
    assert 1 - 1e-9 <= found["stable_rank"] <= found["effective_rank"] * (1 + 1e-9)
    assert found["effective_rank"] <= found["effective_rank_sigma"] * (1 + 1e-9)
    assert found["effective_rank_sigma"] <= len(sigma) * (1 + 1e-9)
    for name in found.keys() - {"power_law_alpha", "power_law_tail"}:
        assert turned[name] == pytest.approx(found[name], rel=1e-9)


def test_centring_removes_an_offset_and_nothing_else_does():
    x = orthonormal(60, 24)
    found, shifted = ranks(x), ranks(x + 10 * torch.ones(24))
    for name in ("effective_rank_centred", "spectral_entropy_centred"):
        assert shifted[name] == pytest.approx(found[name], rel=1e-9)
    for name in ("effective_rank", "spectral_entropy", "stable_rank"):
        assert shifted[name] < found[name] / 2


def test_centred_entropy_is_that_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(50, 6)) @ np.diag([1, 2, 3, 4, 5, 6]) + 7
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T)).tolist()
    found = ranks(torch.as_tensor(x))
    entropy = entropy_by_hand(eigenvalues)
    assert found["spectral_entropy_centred"] == pytest.approx(entropy / math.log(6), rel=1e-12)
    assert found["effective_rank_centred"] == pytest.approx(math.exp(entropy), rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_scatter_of_two_sets_together(n, m, d, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n + m, d, generator=generator) + 3 * torch.randn(d, generator=generator)
    together = scatter(x[:n]).join(scatter(x[n:]))
    assert together.count == n + m
    assert together.mean.numpy() == pytest.approx(x.double().mean(0).numpy(), rel=1e-9, abs=1e-9)
    for centred in (False, True):
        by_numpy = np.zeros(max(d, n + m))
        of_x = x.double().numpy()
        sigma = np.linalg.svd(of_x - of_x.mean(0) if centred else of_x, compute_uv=False)
        by_numpy[: len(sigma)] = sigma
        for found in (together, scatter(x)):
            values = np.zeros(max(d, n + m) + 2 * d + 2)
            values[: len(found.singular_values(centred))] = found.singular_values(centred)
            assert values[: len(by_numpy)] == pytest.approx(by_numpy, abs=1e-9)


def test_matrices_either_way_round():
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    for m in (matrix, matrix.T):
        assert matrix_singular_values(m).numpy() == pytest.approx(expected, rel=1e-12)


def test_power_law_is_fitted_to_squares_and_not_to_rounding():
    """Pareto quantiles for squares, and beside them what float32 leaves of zeros."""
    squares = (1 - (np.arange(100) + 0.5) / 100) ** (-1 / 1.5)
    clean = fit_power_law(squares)
    noise = 1e-7 * np.random.default_rng(0).uniform(0.5, 1, 100)
    sigma = torch.as_tensor(np.concatenate([np.sqrt(squares), noise]))
    found = power_law(sigma, 128)
    assert found["power_law_alpha"] == pytest.approx(clean.alpha, rel=1e-12)
    assert found["power_law_tail"] == clean.tail == 100


def test_a_short_tail_has_no_exponent():
    for n, known in ((9, False), (10, True)):
        found = power_law(torch.as_tensor(1.5 ** np.arange(n) ** 1.2), 24)
        whole_tail = found["power_law_tail"] == n
        assert whole_tail
        assert math.isfinite(found["power_law_alpha"]) == known


# arXiv 2602.06702's effective rank in float32, of r equal singular values among 3831 x 128.
INFLATED = {1: 1.100, 2: 2.137, 5: 5.191, 10: 10.236, 20: 20.274}


@pytest.mark.parametrize("r", INFLATED)
def test_rounding_inflates_the_reference_effective_rank(r):
    found = reference_ranks(with_singular_values([1.0] * r, n=3831, d=128).float())
    # How much exactly depends on the order of summation.
    assert found["effective_rank"] - r == pytest.approx(INFLATED[r] - r, rel=0.25)
    assert found["effective_rank"] > r * 1.01
    assert found["numerical_rank"] == r
    assert found["stable_rank"] == pytest.approx(math.sqrt(r), rel=1e-5)


def test_reference_ranks_without_rounding_are_ours():
    sigma = np.linspace(1, 2, 24)
    x = with_singular_values(sigma, n=200)
    found, ours = reference_ranks(x.float()), ranks(x)
    assert found["effective_rank"] == pytest.approx(ours["effective_rank"], rel=1e-5)
    assert found["stable_rank"] == pytest.approx(math.sqrt((sigma**4).sum()) / 4, rel=1e-5)
    assert found["power_law_alpha"] == pytest.approx(fit_power_law(sigma**2).alpha, rel=1e-4)


def test_reference_rank_asks_for_more():
    """A singular value counts from 0.4 % of the largest on, as it is its square that must be above eps."""
    smallest = math.sqrt(128 * RESOLUTION)
    for factor, rank in ((1.1, 2), (0.9, 1)):
        x = with_singular_values([1.0, factor * smallest], n=300, d=128)
        assert reference_ranks(x.float())["numerical_rank"] == rank
        assert ranks(x)["numerical_rank"] == 2


@pytest.mark.parametrize(
    "x",
    [torch.zeros(6, 4), torch.zeros(0, 4), torch.full((6, 4), math.nan), torch.full((6, 4), math.inf)],
    ids=["zero", "none", "nan", "inf"],
)
def test_nothing_and_not_finite_are_nan(x):
    # The rank of zeros is 0, and no value is in their tail.
    known = {"numerical_rank", "power_law_tail"} if len(x) and x.isfinite().all() else set()
    found = ranks(x)
    assert {name for name, value in found.items() if not math.isnan(value)} == known
    assert all(math.isnan(value) for value in reference_ranks(x).values())
    if len(x):
        assert math.isnan(effective_rank(matrix_singular_values(x))) if x.isfinite().all() else True


def test_overflow_of_the_reference_path():
    x = 1e12 * torch.randn(20, 4)
    assert math.isnan(reference_ranks(x)["effective_rank"])
    assert math.isfinite(ranks(x)["effective_rank"])


@pytest.mark.parametrize("n", [1, 5])
def test_vectors_that_are_all_the_same(n):
    x = torch.full((n, 4), 0.1, dtype=torch.float64)
    found = ranks(x)
    assert found["effective_rank"] == pytest.approx(1, rel=1e-12)
    assert math.isnan(found["effective_rank_centred"])
    assert math.isnan(found["spectral_entropy_centred"])


def test_one_dimension_has_no_entropy():
    assert math.isnan(ranks(torch.ones(3, 1))["spectral_entropy"])


def test_wide_and_tall_matrices_have_no_eigenvalues_of_rounding():
    """W^T W of a 128 x 512 matrix has 384 of them, and the reference fits them too."""
    matrix = torch.randn(128, 512, generator=torch.Generator().manual_seed(0))
    matrix *= torch.linspace(0.01, 1, 128)[:, None] ** 2
    eigenvalues = torch.linalg.eigvalsh(matrix.T @ matrix).abs().numpy()
    assert (eigenvalues > 0).sum() > 400
    wide, tall = ranks_of_matrix(matrix), ranks_of_matrix(matrix.T)
    assert wide == pytest.approx(tall, rel=1e-9)
    assert wide["power_law_tail"] <= 128
