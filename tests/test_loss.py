"""The loss against closed forms and torch's own, and what float64 is for."""

import math

import pytest
import torch
import torch.nn.functional as F

from mech_grok.training.loss import correct, cross_entropy, score

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
