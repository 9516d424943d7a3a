"""Loss and accuracy of logits, measured in float64.

In float32 the log-softmax reaches exactly zero once the right logit leads by about 17, and its gradient
with it; measured in float64 neither happens before a lead of about 37.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_NUMBERS_IN_CACHE = 2**19
"""Logits in float64: 4 MiB."""


class Score(NamedTuple):
    """Mean cross-entropy (nats, over all p + 1 classes) and share of right answers, per leading index."""

    loss: Float[Tensor, "*seed"]
    accuracy: Float[Tensor, "*seed"]


def cross_entropy(
    logits: Float[Tensor, "*seed n classes"], answers: Int[Tensor, "*seed n"], loss_scale: float = 1.0
) -> Float[Tensor, "*seed n"]:
    """Per-example `-log softmax(loss_scale * logits)[answer]`, in float64 whatever the logits' dtype."""
    log_probs = _log_probs(logits, loss_scale)
    return -log_probs.gather(-1, answers[..., None])[..., 0]


def _log_probs(logits: Tensor, loss_scale: float) -> Tensor:
    scaled = logits if loss_scale == 1.0 else loss_scale * logits.double()
    return scaled.log_softmax(dim=-1, dtype=torch.float64)


def correct(
    logits: Float[Tensor, "*seed n classes"], answers: Int[Tensor, "*seed n"]
) -> Bool[Tensor, "*seed n"]:
    """Whether the largest logit is the answer's; never for logits that are not finite."""
    # Infinities and nan survive a sum, which is a tenth of the work of looking at every logit.
    return (logits.argmax(-1) == answers) & torch.isfinite(logits.sum(-1))


def score(
    logits: Float[Tensor, "*seed n classes"], answers: Int[Tensor, "*seed n"], loss_scale: float = 1.0
) -> Score:
    """Mean loss and accuracy over the examples."""
    losses, right = cross_entropy(logits, answers, loss_scale), correct(logits, answers)
    return Score(losses.mean(-1), right.double().mean(-1))


class Outcome(NamedTuple):
    """What a training pass needs of its logits: losses (nats), whether they are right, and their gradient."""

    losses: Float[Tensor, "*seed n"]
    correct: Bool[Tensor, "*seed n"]
    gradient: Float[Tensor, "*seed n classes"]


def outcome(
    logits: Float[Tensor, "*seed n classes"],
    answers: Int[Tensor, "*seed n"],
    loss_scale: float = 1.0,
    weight: float = 1.0,
) -> Outcome:
    """`cross_entropy`, `correct`, and the gradient of `weight` times the sum of the losses.

    The gradient is `weight * loss_scale * (softmax - one-hot)`, in the logits' dtype; loss and softmax share
    one exponential in float64. On a CPU what is in float64 is worked on in blocks that stay in the cache.
    """
    gradient, n = torch.empty_like(logits), answers.shape[-1]
    at_once = max(1, _NUMBERS_IN_CACHE // logits.shape[-1]) if logits.device.type == "cpu" else n
    if n <= at_once:
        return Outcome(*_outcome_into(gradient, logits, answers, loss_scale, weight), gradient)
    blocks = zip(*(x.split(at_once, answers.ndim - 1) for x in (gradient, logits, answers)), strict=True)
    measured = [_outcome_into(to, of, right, loss_scale, weight) for to, of, right in blocks]
    losses, is_right = (torch.cat(parts, dim=-1) for parts in zip(*measured, strict=True))
    return Outcome(losses, is_right, gradient)


def _outcome_into(
    gradient: Tensor, logits: Tensor, answers: Tensor, loss_scale: float, weight: float
) -> tuple[Tensor, Tensor]:
    """Losses and whether they are right; fills `gradient`."""
    index = answers[..., None]
    leads = logits.to(torch.float64, copy=True).sub_(logits.amax(-1, keepdim=True))
    if loss_scale != 1.0:
        leads.mul_(loss_scale)
    lead = leads.gather(-1, index)
    exponentials = leads.exp_()
    total = exponentials.sum(-1, keepdim=True)
    exact = exponentials.mul_(weight * loss_scale / total)
    exact.scatter_add_(-1, index, torch.full_like(lead, -weight * loss_scale))
    gradient.copy_(exact)
    lead, total = lead[..., 0], total[..., 0]
    return total.log() - lead, _is_right(logits, answers, lead == 0, total)


def _is_right(logits: Tensor, answers: Tensor, is_highest: Tensor, total: Tensor) -> Tensor:
    """`correct`, given whether the answer has the highest logit and the sum of exponentials relative to it.

    Below 2 there is only one highest logit; where there may be more, the first of them counts.
    """
    if logits.device.type != "cpu":  # looking whether there are any would wait for the device
        return correct(logits, answers)
    tied = is_highest & (total >= 2)
    is_right = is_highest & torch.isfinite(logits.sum(-1))
    if tied.any():
        is_right[tied] = correct(logits[tied], answers[tied])
    return is_right
