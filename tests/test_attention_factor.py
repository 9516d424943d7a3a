"""The factor that gives attention an entropy, against numpy, closed forms and limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mech_grok.training.attention_factor import TOLERANCE, mean_entropy, solve_factor, solve_where_reachable

LOG2, LOG3 = math.log(2), math.log(3)

score_rows = arrays(
    float, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-30, 30).map(lambda x: round(x, 6))
)
some = settings(max_examples=60, deadline=None)


def numpy_entropy(scores, factor):
    """Mean entropy of the rows' softmax, term by term."""
    x = factor * (scores - scores.max(-1, keepdims=True))
    weights = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    terms = np.where(weights > 0, weights * np.log(np.where(weights > 0, weights, 1)), 0)
    return -terms.sum(-1).mean(-1)


def tied(scores):
    """Mean log of the number of largest scores, row by row."""
    return float(np.mean([math.log(list(row).count(max(row))) for row in scores]))


@given(score_rows, st.floats(0, 1), st.sampled_from([1e-3, 1.0, 50.0]))
@some
def test_any_entropy_between_the_limits_is_reached(scores, share, near):
    floor = tied(scores)
    target = floor + share * (LOG3 - floor)
    solution = solve_factor(torch.from_numpy(scores), target, near)
    assert float(solution.lowest) == pytest.approx(floor, abs=1e-12)
    assert float(solution.highest) == pytest.approx(LOG3, abs=1e-12)
    assert float(solution.entropy) == pytest.approx(target, abs=TOLERANCE)
    assert numpy_entropy(scores, float(solution.factor)) == pytest.approx(target, abs=1e-9)
    assert solution.factor > 0
    assert solution.reached


@given(score_rows, st.floats(1e-2, 10), st.floats(1.01, 5))
@some
def test_the_mean_entropy_falls_with_the_factor(scores, factor, times):
    """What makes the solution the only one; and the slope is minus the factor times the variance."""
    rows = torch.from_numpy(scores)
    flatter, sharper = (mean_entropy(rows, torch.tensor(f)) for f in (factor, factor * times))
    assert sharper <= flatter + 1e-12
    f = torch.tensor(factor, dtype=torch.float64, requires_grad=True)
    weights = (f * rows).softmax(-1)
    entropy = -(weights * (f * rows).log_softmax(-1)).sum(-1).mean()
    (slope,) = torch.autograd.grad(entropy, f)
    mean = (weights * rows).sum(-1, keepdim=True)
    expected = -f * (weights * (rows - mean) ** 2).sum(-1).mean()
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)


def test_the_entropy_of_averaged_heads_does_not_only_fall():
    """Why factors are solved head by head: each looks at a token of its own, one sooner."""
    heads = torch.tensor([[6.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)

    def averaged(factor):
        weights = (factor * heads).softmax(-1).mean(0)
        return float(torch.special.entr(weights).sum())

    flat, middle, sharp = (averaged(f) for f in (0.0, 1.0, 100.0))
    assert flat == pytest.approx(LOG3)
    assert middle < 1.05
    assert sharp == pytest.approx(LOG3)


def test_two_keys_in_closed_form():
    """One score d above the other, the third key masked: weights 1 / (1 + e^-fd) and the rest."""
    weight = 0.8
    target = -(weight * math.log(weight) + (1 - weight) * math.log(1 - weight))
    solution = solve_factor(torch.tensor([[2.5, 0.5, -math.inf]]), target)
    assert float(solution.factor) == pytest.approx(math.log(weight / (1 - weight)) / 2, abs=1e-9)
    assert float(solution.highest) == pytest.approx(LOG2, abs=1e-12)


def test_the_factor_undoes_a_scale_of_the_scores():
    scores = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = numpy_entropy(scores.numpy(), 1.7)
    for scale in (1e-9, 1e-3, 1.0, 1e6):
        factor = float(solve_factor(scale * scores, known).factor)
        assert factor * scale == pytest.approx(1.7, rel=1e-8)
    shifted = scores + torch.linspace(-400, 400, 50)[:, None]  # the softmax ignores what all keys share
    assert float(solve_factor(shifted, known).factor) == pytest.approx(1.7, rel=1e-8)


def test_ties_set_the_least_entropy():
    scores = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [3.0, 3.0, 3.0]], dtype=torch.float64)
    floor = (LOG2 + LOG3) / 3
    assert float(solve_factor(scores, floor + 1e-6).lowest) == pytest.approx(floor)
    assert solve_factor(scores, floor).factor < 100  # within the tolerance of a limit is there
    with pytest.raises(ValueError, match=r"0\.5 nats; it can be from 0\.597253 .* to 1\.09861"):
        solve_factor(scores, 0.5)
    almost = torch.tensor([[1.0, 1.0 - 1e-12, 0.0]], dtype=torch.float64)
    assert solve_factor(almost, 0.3).factor > 1e11


def test_rows_whose_scores_are_all_equal_take_any_factor():
    solution = solve_factor(torch.zeros(4, 3), LOG3, near=2.5)
    assert solution.factor == 2.5
    with pytest.raises(ValueError, match=r"it can be from 1\.09861 .* to 1\.09861"):
        solve_factor(torch.zeros(4, 3), 1.0)


@pytest.mark.parametrize("target", [-0.1, 1.1, math.nan])
def test_no_entropy_over_three_keys(target):
    with pytest.raises(ValueError, match=rf"mean entropy of {target:g} nats; it can be from 0"):
        solve_factor(torch.tensor([[2.0, 1.0, 0.0]]), target)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite(bad):
    with pytest.raises(ValueError, match="scores that are nan or infinite have no entropy"):
        solve_factor(torch.tensor([[bad, 1.0, 0.0], [2.0, 1.0, 0.0]]), 0.5)


def test_out_of_reach_keeps_the_factor_that_was_there():
    scores = torch.tensor([[[2.0, 1.0, 0.0]], [[1.0, 1.0, 0.0]], [[math.nan, 1.0, 0.0]]])
    target, near = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([3.0, 4.0, 5.0])
    solution = solve_where_reachable(scores, target, near)
    assert solution.reached.tolist() == [True, False, False]
    assert solution.factor[1:].tolist() == [4.0, 5.0]
    assert float(solution.entropy[1]) == pytest.approx(numpy_entropy(scores[1].numpy(), 4.0))
    assert solution.entropy[2].isnan()


def test_each_head_is_solved_as_if_alone():
    generator = torch.Generator().manual_seed(1)
    scores = 3 * torch.randn(2, 3, 40, 3, generator=generator, dtype=torch.float64)
    targets = torch.linspace(0.1, 1.0, 6, dtype=torch.float64).view(2, 3)
    together = solve_factor(scores, targets)
    assert together.factor.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = solve_factor(scores[i, j], float(targets[i, j]))
            assert float(alone.factor) == pytest.approx(float(together.factor[i, j]), rel=1e-9)
