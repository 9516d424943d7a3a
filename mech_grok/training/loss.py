"""Loss and accuracy of logits, measured in float64.

In float32 the log-softmax reaches exactly zero once the right logit leads by about 17, and its gradient
with it; measured in float64 neither happens before a lead of about 37.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
    return Score(
        cross_entropy(logits, answers, loss_scale).mean(-1),
        correct(logits, answers).double().mean(-1),
    )


def score_and_gradient(
    logits: Float[Tensor, "*seed n classes"], answers: Int[Tensor, "*seed n"], loss_scale: float = 1.0
) -> tuple[Score, Float[Tensor, "*seed n classes"]]:
    """`score`, and the gradient of every seed's mean loss with respect to its logits, in their dtype.

    The gradient is `loss_scale * (softmax - one-hot) / n`; loss and softmax share one exponential in float64.
    """
    highest, right = logits.amax(-1, keepdim=True), logits.gather(-1, answers[..., None])
    lead = logits.double() - highest
    exponentials = (lead if loss_scale == 1.0 else lead.mul_(loss_scale)).exp_()
    total = exponentials.sum(-1, keepdim=True)
    losses = total.log() + loss_scale * (highest.double() - right)
    gradient = exponentials.mul_(loss_scale / answers.shape[-1] / total)
    one_hot = gradient.new_full((), -loss_scale / answers.shape[-1])
    gradient.scatter_add_(-1, answers[..., None], one_hot.expand(right.shape))
    scored = Score(losses[..., 0].mean(-1), correct(logits, answers).double().mean(-1))
    return scored, gradient.to(logits.dtype)
