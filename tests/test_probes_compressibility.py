import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_model

from mech_grok.probes import measure
from mech_grok.probes.compressibility import effective_rank
from mech_grok.task import Task


def orthonormal(n, r, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64)).Q


def with_singular_values(sigma, n=60, d=24):
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    return orthonormal(n, len(sigma)) * sigma @ orthonormal(d, len(sigma), seed=1).T


@pytest.mark.parametrize("r", [1, 2, 5, 10, 20])
def test_r_equal_singular_values_have_rank_r(r):
    assert effective_rank(with_singular_values([3.0] * r)) == pytest.approx(r, rel=1e-12)


def test_geometric_squares():
    powers = 2.0 ** -torch.arange(10, dtype=torch.float64)
    shares = (powers / powers.sum()).tolist()
    by_hand = math.exp(-sum(x * math.log(x) for x in shares))
    assert by_hand == pytest.approx(3.9691, abs=1e-4)
    assert effective_rank(with_singular_values(powers.sqrt())) == pytest.approx(by_hand, rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.floats(0.01, 100), st.integers(0, 2**31))
def test_bounds_and_invariance_to_scale_and_rotation(sigma, scale, seed):
    x = with_singular_values(sigma)
    rank = effective_rank(x)
    assert 1 - 1e-9 <= rank <= len(sigma) + 1e-9
    assert effective_rank(scale * x @ orthonormal(24, 24, seed)) == pytest.approx(rank, rel=1e-9)


def test_fewer_rows_than_columns():
    assert effective_rank(torch.eye(3, 8)) == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize("x", [torch.zeros(6, 4), torch.full((6, 4), math.nan), torch.full((6, 4), math.inf)])
def test_nothing_and_not_finite_are_nan(x):
    assert math.isnan(effective_rank(x))


def test_reads_what_the_unembedding_reads():
    task = Task("add", 5, 0.6)
    split = task.split_indices(0)
    model = random_model(placement="pre", final_norm="on")
    seen = measure(model, task, split, ["compressibility"])["compressibility"]
    _, cache = model.run_with_cache(torch.as_tensor(task.tokens(task.pairs())))
    features = cache["unembed.hook_in"][:, -1].detach()
    for name, index in split.items():
        sigma = torch.linalg.svdvals(features[torch.as_tensor(index)])
        shares = sigma**2 / (sigma**2).sum()
        expected = float((-(shares * shares.log()).sum()).exp())
        assert float(seen["effective_rank"].sel(split=name)) == pytest.approx(expected, rel=1e-10)
