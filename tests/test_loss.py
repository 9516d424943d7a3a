"""The loss against closed forms and torch's own, and what float64 is for."""

import math

import pytest
import torch
import torch.nn.functional as F

from mech_grok.training import loss as loss_module
from mech_grok.training.loss import correct, cross_entropy, outcome, score

P = 7


def answers(n: int) -> torch.Tensor:
    return torch.arange(n) % P


def logits_with_lead(lead: float) -> torch.Tensor:
    """Float32 logits whose right class leads all p others by `lead`."""
    return F.one_hot(answers(5), P + 1).float() * lead


@pytest.mark.parametrize("shape", [(5,), (2, 5)])
def test_uniform_logits_cost_the_logarithm_of_all_classes(shape: tuple[int, ...]) -> None:
    loss = cross_entropy(torch.full((*shape, P + 1), 3.0), answers(5).expand(shape))
    assert loss.shape == shape
    torch.testing.assert_close(loss, torch.full(shape, math.log(P + 1), dtype=torch.float64))


@pytest.mark.parametrize("lead", [20.0, 30.0])
def test_float64_resolves_what_float32_rounds_to_zero(lead: float) -> None:
    logits = logits_with_lead(lead).requires_grad_()
    assert F.cross_entropy(logits, answers(5)) == 0, (
        "float32 already resolves this lead: the test shows nothing"
    )
    loss = cross_entropy(logits, answers(5))
    torch.testing.assert_close(
        loss, torch.full_like(loss, math.log1p(P * math.exp(-lead))), rtol=2e-3, atol=0
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.dtype == torch.float32
    assert (gradient != 0).all()


def test_random_logits_cost_what_torch_says() -> None:
    logits = 5 * torch.randn(3, 20, P + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = answers(60).view(3, 20)
    expected = F.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none").view(3, 20)
    torch.testing.assert_close(cross_entropy(logits, right), expected)
    torch.testing.assert_close(score(logits, right).loss, expected.mean(1))
    scaled = F.cross_entropy(0.3 * logits.flatten(0, 1), right.flatten(), reduction="none").view(3, 20)
    torch.testing.assert_close(cross_entropy(logits, right, loss_scale=0.3), scaled)


def test_accuracy_counts_right_answers_per_seed_and_no_non_finite_ones() -> None:
    logits = torch.stack([logits_with_lead(1.0)] * 3)
    logits[1, :2] *= -1
    logits[2, 0, 3] = torch.nan
    logits[2, 1, int(answers(5)[1])] = torch.inf
    right = answers(5).expand(3, 5)
    assert correct(logits, right)[0].all()
    assert score(logits, right).accuracy.tolist() == pytest.approx([1, 3 / 5, 3 / 5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss_scale", [1.0, 0.3])
def test_outcome_is_loss_accuracy_and_gradient_in_one(dtype: torch.dtype, loss_scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 40, P + 1, generator=generator, dtype=torch.float64)).to(dtype)
    logits.requires_grad_()
    right = torch.randint(0, P, (2, 40), generator=generator)
    found = outcome(logits.detach(), right, loss_scale, weight=0.25)
    expected = cross_entropy(logits, right, loss_scale)
    torch.testing.assert_close(found.losses, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.correct, correct(logits.detach(), right))
    assert 0 < found.correct.double().mean() < 1
    (gradient,) = torch.autograd.grad(0.25 * expected.sum(), logits)
    assert found.gradient.dtype == dtype
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("in_cache", [1, P + 1, 7 * (P + 1) + 3, 40 * (P + 1)])
def test_outcome_is_the_same_in_blocks(in_cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one example, of seven and a rest, and of all."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 40, P + 1, generator=generator)
    right = torch.randint(0, P, (2, 40), generator=generator)
    whole = outcome(logits, right, 0.3, weight=0.25)
    monkeypatch.setattr(loss_module, "_NUMBERS_IN_CACHE", in_cache)
    for found, expected in zip(outcome(logits, right, 0.3, weight=0.25), whole, strict=True):
        torch.testing.assert_close(
            found, expected, rtol=1e-12 if found.dtype == torch.float64 else 1e-6, atol=0
        )


def test_outcome_counts_ties_and_broken_logits_as_accuracy_does() -> None:
    inf, nan = math.inf, math.nan
    rows = [[1, 1, 1], [2, 2, 0], [0, 2, 2], [inf, 0, 0], [0, -inf, 0], [nan, 0, 0], [9, 0, 0], [0.1, 0, 0]]
    logits, right = torch.tensor(rows), torch.tensor([0, 1, 1, 0, 0, 0, 0, 0])
    found = outcome(logits, right)
    assert torch.equal(found.correct, correct(logits, right))
    assert found.correct.tolist() == [True, False, True, False, False, False, True, True]
    assert found.losses[:3].tolist() == pytest.approx(cross_entropy(logits, right)[:3].tolist())


def test_outcome_survives_leads_that_a_float32_exponential_does_not() -> None:
    logits = logits_with_lead(2000.0)
    found = outcome(logits, (answers(5) + 1) % P)
    torch.testing.assert_close(found.losses, torch.full_like(found.losses, 2000.0))
    assert torch.isfinite(found.gradient).all()
