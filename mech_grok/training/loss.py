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
    log_probs = (loss_scale * logits.double()).log_softmax(dim=-1)
    return -log_probs.gather(-1, answers[..., None])[..., 0]


def correct(
    logits: Float[Tensor, "*seed n classes"], answers: Int[Tensor, "*seed n"]
) -> Bool[Tensor, "*seed n"]:
    """Whether the largest logit is the answer's; never for logits that are not finite."""
    finite = torch.isfinite(logits).all(-1)
    return (logits.argmax(-1) == answers) & finite


def score(
    logits: Float[Tensor, "*seed n classes"], answers: Int[Tensor, "*seed n"], loss_scale: float = 1.0
) -> Score:
    """Mean loss and accuracy over the examples."""
    return Score(
        cross_entropy(logits, answers, loss_scale).mean(-1),
        correct(logits, answers).double().mean(-1),
    )
