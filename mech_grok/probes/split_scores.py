"""Loss and accuracy of logits, over all pairs, those trained on and those held out."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mech_grok.probes.observation import Observation
from mech_grok.training.loss import correct, cross_entropy


class Scores(NamedTuple):
    """Mean cross-entropy (nats, over all classes, float64) and share of right answers, over some `SPLITS`."""

    loss: Float[Tensor, "..."]
    accuracy: Float[Tensor, "..."]


def scores(seen: Observation, logits: Float[Tensor, "n classes"]) -> Scores:
    """Scores over each of `SPLITS` of logits at `=`, one row for each pair."""
    losses = cross_entropy(logits, seen.answers, seen.unembed.loss_scale)
    return Scores(seen.split_means(losses), seen.split_means(correct(logits, seen.answers)))


def constant_scores(seen: Observation, logits: Float[Tensor, "1 classes"]) -> Scores:
    """Scores over each of `SPLITS` if all pairs have the same logits."""
    answers = torch.arange(seen.task.p, device=logits.device)
    of_each = logits.expand(len(answers), -1)
    losses = cross_entropy(of_each, answers, seen.unembed.loss_scale)
    return Scores(
        seen.split_means(losses[seen.answers]), seen.split_means(correct(of_each, answers)[seen.answers])
    )


def own_scores(seen: Observation) -> Scores:
    """Scores of the model as it is; needs `LOGITS` at `=`. For `Observation.once`."""
    return scores(seen, seen.logits)


def stacked(of_each: list[Scores]) -> Scores:
    """Scores with a first dimension over the items of a list."""
    return Scores(*(torch.stack(parts) for parts in zip(*of_each, strict=True)))
