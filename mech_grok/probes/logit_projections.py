"""Logits along cosines and sines of the right answer's phase.

For addition the directions in the space of the p^2 pairs are cos(w_k (a + b)) and sin(w_k (a + b)), for
subtraction those of a - b, with w_k = 2 pi k / p. They are functions of the right answer s alone. So is
whatever is projected on them, one class at a time: a table of answer x class stands for all pairs.

Every projection is fitted to all p^2 pairs, those held out included, in float64. The definitions are those
of Nanda et al., arXiv 2301.05217, and of its released code; `waves` below are rows of `waves_of(p)`, those of
the frequencies asked for.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.probes.fourier_basis import fourier_basis, frequencies
from mech_grok.training.loss import cross_entropy

_LARGEST_EXPONENT = 300.0
"""Two exponentials up to e^300 multiply without overflow, and what underflows in one is nothing beside 1."""

_ROWS = 512
"""Pairs at a time, so that their float64 copy stays in the processor's cache."""


class Centred(NamedTuple):
    """Logits less their mean over the classes of each pair, in two parts that add up to them.

    Attributes:
        varying: the deviation from the mean over all pairs.
        mean: that mean.
    """

    varying: Float[Tensor, "n width"]
    mean: Float[Tensor, " width"]

    @property
    def power(self) -> Float[Tensor, ""]:
        """Sum of squares over pairs and classes."""
        return self.varying.square().sum() + len(self.varying) * self.mean.square().sum()


class Blocks(NamedTuple):
    """Logits [pair, class] projected on products of waves of a and waves of b of one frequency each.

    Attributes:
        two_by_two: on the products of cosine or sine of a with cosine or sine of b.
        three_by_three: on those, and on cosine and sine of a alone and of b alone.
    """

    two_by_two: Float[Tensor, "n p"]
    three_by_three: Float[Tensor, "n p"]


def centred(logits: Float[Tensor, "n p"]) -> Centred:
    """The logits less their mean over classes, in float64.

    No loss depends on what is the same for all classes of a pair; variances and cosines would.
    """
    x = logits.double()
    # Differences come first: what is constant over pairs or classes is then exactly zero, not rounding noise.
    varying = x - x[0]
    varying -= varying[:, :1].clone()
    varying -= varying.mean(1, keepdim=True)
    mean = varying.mean(0)
    first = x[0] - x[0, 0]
    return Centred(varying - mean, mean + first - first.mean())


def waves_of(p: int) -> Float[Tensor, "frequency 2 p"]:
    """Cosine and sine of each frequency 0..p//2 on 0..p-1, each of norm 1.

    The sine is zero for frequency 0 and, if p is even, for p/2.
    """
    row, k = torch.arange(p), frequencies(p)
    waves = torch.zeros(p // 2 + 1, 2, p, dtype=torch.float64)
    waves[k, row - (2 * k - 1).clamp(min=0)] = fourier_basis(p)
    return waves


def answer_means(x: Float[Tensor, "n width"], answers: Int[Tensor, " n"]) -> Float[Tensor, "p width"]:
    """The mean over the p pairs that have each right answer."""
    return _by_answer(x, answers).mean(1)


def sum_share(
    x: Float[Tensor, "n width"], answers: Int[Tensor, " n"], waves: Float[Tensor, "frequency 2 p"]
) -> Float[Tensor, ""]:
    """Share of the variance over all pairs, summed over columns, on cosines and sines of the answer.

    In float64; nan if nothing varies.
    """
    directions = waves.flatten(0, 1)[:, answers] / math.sqrt(waves.shape[-1])
    first = x[0].double()
    kept = directions.new_zeros(len(directions), x.shape[1])
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for rows, along in zip(x.split(_ROWS), directions.split(_ROWS, dim=1), strict=True):
        varying = rows.double() - first
        kept += along @ varying
        total += varying.sum(0)
        squares += varying.square().sum(0)
    return kept.square().sum() / (squares - total.square() / len(x)).sum()


def class_share(logits: Centred, waves: Float[Tensor, "frequency 2 p"]) -> Float[Tensor, ""]:
    """Share of the logits' power on cosines and sines of the class, whatever multiplies them; nan for 0."""
    basis = waves.flatten(0, 1)
    return Centred(logits.varying @ basis.T, basis @ logits.mean).power / logits.power


def sum_tables(
    means: Float[Tensor, "p p"], waves: Float[Tensor, "frequency 2 p"]
) -> Float[Tensor, "frequency p p"]:
    """P_k L for each frequency k, [answer, class]: the logits on its cosine and sine of the answer.

    Args:
        means: logits [answer, class], the mean over the pairs of each answer.
        waves: of the frequencies asked for.
    """
    return waves.mT @ (waves @ means)


def sum_table(
    logits: Float[Tensor, "n p"], answers: Int[Tensor, " n"], waves: Float[Tensor, "frequency 2 p"]
) -> Float[Tensor, "p p"]:
    """The logits of all pairs on cosines and sines of their answer, all frequencies together."""
    return sum_tables(answer_means(logits, answers), waves).sum(0)


def restricted_losses(
    table: Float[Tensor, "p p"],
    mean: Float[Tensor, " p"],
    answers: Int[Tensor, " n"],
    loss_scale: float,
) -> Float[Tensor, " n"]:
    """Cross-entropy of each pair's row of a `sum_table`, with the mean logit of each class added back."""
    right = torch.arange(len(table), device=table.device)
    return cross_entropy(table + mean, right, loss_scale)[answers]


def block_projections(varying: Float[Tensor, "n p"], waves: Float[Tensor, "frequency 2 p"]) -> Blocks:
    """The logits of all pairs, in lexicographic order, on the blocks of some frequencies.

    The sum directions are two of the four of a 2x2 block; the others are those of the difference, if the
    task is addition. A term with one frequency of a and another of b is in no block.
    """
    p = varying.shape[1]
    logits = varying.view(p, p, p)
    basis = waves.flatten(0, 1)
    of_a = (basis @ logits.view(p, p * p)).view(-1, 2, p, p)
    kept = waves.mT[:, None] @ (waves[:, None] @ of_a)
    two = (basis.T @ kept.view(-1, p * p)).view(p, p, p)
    alone_a, alone_b = (basis.T @ (basis @ logits.mean(other)) for other in (1, 0))
    three = two + alone_a[:, None] + alone_b
    return Blocks(two.view(-1, p), three.view(-1, p))


def cosine_amplitudes(
    means: Float[Tensor, "p p"], waves: Float[Tensor, "frequency 2 p"]
) -> Float[Tensor, " frequency"]:
    """Amplitude alpha_k of the regression of the logits on cos(w_k (s - c)), over all pairs and classes c.

    The cosines are orthogonal: each amplitude is the same alone as among the others.
    """
    profile = means.new_zeros(len(means)).index_add_(0, _distances(means).flatten(), means.flatten())
    return waves[:, 0, 0] * (waves[:, 0] @ profile) / len(means)


def split_amplitudes(
    logits: Float[Tensor, "n p"], answers: Int[Tensor, " n"], waves: Float[Tensor, "frequency 2 p"]
) -> Float[Tensor, " frequency"]:
    """`cosine_amplitudes` over some pairs only; nan for none.

    Every pair has the same sum of squared cosines, so the regression is a mean over pairs there too.
    """
    p = logits.shape[1]
    sums = logits.new_zeros(p, p).index_add_(0, answers, logits)
    return cosine_amplitudes(p * sums / len(logits), waves)


def cosine_norms(waves: Float[Tensor, "frequency 2 p"]) -> Float[Tensor, " frequency"]:
    """Norm of cos(w_k (s - c)) over all pairs and classes: sqrt(p^3 / 2), and sqrt(p^3) for k = 0 or p/2."""
    return waves.shape[-1] / waves[:, 0, 0]


def cosine_table(
    amplitudes: Float[Tensor, " frequency"], waves: Float[Tensor, "frequency 2 p"]
) -> Float[Tensor, "p p"]:
    """sum_k alpha_k cos(w_k (s - c)), [answer, class]."""
    profile = (amplitudes / waves[:, 0, 0]) @ waves[:, 0]
    return profile[_distances(profile)]


def losses_without(
    logits: Float[Tensor, "n p"], tables: Float[Tensor, "table p p"], answers: Int[Tensor, " n"]
) -> Float[Tensor, "n table"]:
    """Cross-entropy of each pair's logits less the row of its answer in each table, in float64.

    With every logit taken relative to the right one, the sum over classes of exp(logits - table) is a matrix
    product of exp(logits) and exp(-table): dozens of tables cost little more than one.

    Args:
        logits: of all pairs, p of them for each answer.
        tables: [table, answer, class].
        answers: the right class of each pair.
    """
    right = logits.gather(1, answers[:, None])
    lead = _by_answer(logits - right, answers)
    gain = (tables.diagonal(dim1=1, dim2=2)[..., None] - tables).transpose(0, 1)
    if max(lead.max(), gain.max()) <= _LARGEST_EXPONENT:
        wrong = lead.exp_()
        wrong.diagonal(dim1=0, dim2=2).zero_()
        losses = torch.bmm(wrong, gain.exp().mT).log1p()
    else:
        losses = torch.stack([(lead + row[:, None]).logsumexp(-1) for row in gain.unbind(1)], dim=-1)
    return losses.flatten(0, 1)[_order(answers).argsort()]


def _order(answers: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Indices of all pairs, by their answer."""
    return answers.argsort(stable=True)


def _by_answer(x: Float[Tensor, "n width"], answers: Int[Tensor, " n"]) -> Float[Tensor, "p p width"]:
    """[answer, pair, column]."""
    p = math.isqrt(len(x))
    return x[_order(answers)].view(p, p, -1)


def _distances(like: Float[Tensor, "p ..."]) -> Int[Tensor, "p p"]:
    """(c - s) mod p of answer s and class c."""
    n = torch.arange(len(like), device=like.device)
    return (n - n[:, None]) % len(like)
