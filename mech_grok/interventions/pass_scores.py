"""What a forward pass over all pairs is worth: loss, accuracy, and four measures of how it gets there."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.interventions.passes import Passed
from mech_grok.probes.logit_projections import losses_without, restricted_losses, sum_table
from mech_grok.probes.spectrum import effective_rank_of_vectors
from mech_grok.task import Split
from mech_grok.training.loss import correct, cross_entropy

MEASURES = (
    "loss",
    "accuracy",
    "attention_entropy",
    "restricted_loss",
    "excluded_loss",
    "effective_rank",
)
"""What `all_scores` gives, in its order; the first three are those of `quick_scores`."""


@dataclass(frozen=True)
class Examination:
    """What passes are scored against.

    Attributes:
        answers: the right class of every pair.
        splits: indices of the pairs of each split.
        loss_scale: by which the loss multiplies the logits.
        waves: cosines and sines of the key frequencies; none where there are no key frequencies.
    """

    answers: Int[Tensor, " n"]
    splits: Mapping[Split, Int[Tensor, " _"]]
    loss_scale: float
    waves: Float[Tensor, "key 2 p"]


def quick_scores(exam: Examination, passed: Passed) -> Float[np.ndarray, "3 split"]:
    """Loss, accuracy and attention entropy."""
    losses = cross_entropy(passed.logits, exam.answers, exam.loss_scale)
    return _means(exam, [losses, correct(passed.logits, exam.answers), passed.entropy])


def all_scores(exam: Examination, passed: Passed) -> Float[np.ndarray, "6 split"]:
    """All of `MEASURES`."""
    ranks = [effective_rank_of_vectors(passed.features[index]) for index in exam.splits.values()]
    with_and_without = _means(exam, _on_key_frequencies(exam, passed.logits))
    return np.concatenate([quick_scores(exam, passed), with_and_without, [ranks]])


def _on_key_frequencies(exam: Examination, logits: Float[Tensor, "n classes"]) -> list[Float[Tensor, " n"]]:
    """Restricted and excluded loss of each pair; nan without key frequencies."""
    if not len(exam.waves):
        return [torch.full_like(exam.answers, torch.nan, dtype=torch.float64)] * 2
    of_answers = logits[:, : exam.waves.shape[-1]].double()
    # What is the same for all classes of a pair, which the progress measures take away first, is in no loss.
    table, scale = sum_table(of_answers, exam.answers, exam.waves), exam.loss_scale
    restricted = restricted_losses(table, of_answers.mean(0), exam.answers, scale)
    excluded = losses_without(scale * of_answers, scale * table[None], exam.answers)
    return [restricted, excluded[:, 0]]


def _means(exam: Examination, per_pair: list[Tensor]) -> Float[np.ndarray, "measure split"]:
    stacked = torch.stack([x.double() for x in per_pair])
    means = [stacked[:, index].mean(1) for index in exam.splits.values()]
    return torch.stack(means, dim=1).cpu().numpy()
