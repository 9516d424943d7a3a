"""Clock or pizza: does the network multiply the embeddings of a and b, or read the direction of their sum?

The clock (Nanda et al., arXiv 2301.05217) computes cos(w_k (a + b - c)), the pizza (Zhong et al., arXiv
2306.17844) |cos(w_k (a - b) / 2)| cos(w_k (a + b - c)). For subtraction b changes its sign in both. The
source's attention rate is a setting of its own architecture, between uniform and learned attention, which
models here do not have.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.gradient_symmetricity import gradient_cosines, sampled_triples
from mech_grok.probes.key_frequencies import frozen_key_frequencies, key_frequency_hooks
from mech_grok.probes.observation import LOGITS, Observation
from mech_grok.probes.probe import Probe, Quantity

_SIGNS = {"add": 1, "subtract": -1}
"""Operation -> sign of b in the answer a + sign b."""

_N_COMPONENTS = 4
_CONSTANT = 1e-6
"""Logits are constant where their standard deviation is less than this share of the largest one."""


def correct_and_runner_up(
    logits: Float[Tensor, "n p"], answers: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The logit of the right answer, and the largest one of a wrong answer."""
    right = answers[:, None]
    wrong = logits.scatter(1, right, -math.inf)
    return logits.gather(1, right)[:, 0], wrong.max(1).values


def distance_irrelevance(values: Float[Tensor, "p p"], sign: int = 1) -> float:
    """How much of the spread of `values[a, b]` is within pairs of the same distance b - sign a modulo p.

    Mean over distances of the standard deviation within a distance, over the standard deviation of all:
    0 for a function of the distance only (pizza), 1 for one of the answer only at odd p (clock). Nan where
    the values are constant: the standard deviation is below 1e-6 of the largest absolute value.
    """
    values = values.double()
    p = len(values)
    a = torch.arange(p, device=values.device)
    by_distance = values[a, (a[:, None] + sign * a) % p]  # [distance, a]
    spread = values.std(correction=0)
    if not spread > _CONSTANT * values.abs().max():
        return math.nan
    return float(by_distance.std(1, correction=0).mean() / spread)


def circularity(W_E: Float[Tensor, "p d_model"]) -> float:
    """Mean over the first four principal components of the share of their power in their best frequency.

    Principal components of the rows of `W_E`, which must not hold the row of `=`. Nan where the centred
    embedding has fewer than four above the rounding of its dtype.
    """
    p = len(W_E)
    numbers = W_E.detach().double()
    left, sigma, _ = torch.linalg.svd(numbers - numbers.mean(0), full_matrices=False)
    noise = sigma[0] * max(W_E.shape) * torch.finfo(W_E.dtype).eps
    if not int((sigma > noise).sum()) >= _N_COMPONENTS:
        return math.nan
    power = torch.fft.rfft(left[:, :_N_COMPONENTS], dim=0)[1:].abs().square() / p
    power[: (p - 1) // 2] *= 2  # k and p - k are one frequency; p/2 is its own mirror image
    return float(power.max(0).values.mean())


class Explained(NamedTuple):
    """Shares of the logits' variance that the two formulas explain."""

    clock: float
    pizza: float


def formula_fve(logits: Float[Tensor, "p p classes"], frequencies: Sequence[int], sign: int = 1) -> Explained:
    """Shares of the variance of `logits[a, b, c]` that clock and pizza terms of these frequencies explain.

    Each frequency has an amplitude of its own, by least squares; terms of different ones are orthogonal.
    The mean over classes of each pair, which no probability depends on, is taken off first. Nan without
    frequencies and for logits that are constant over classes.
    """
    p = len(logits)
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    total = centred.square().sum()
    if not frequencies or not total > (_CONSTANT * logits.abs().max()) ** 2 * logits.numel():
        return Explained(math.nan, math.nan)
    k = torch.tensor(frequencies, device=logits.device)
    number = torch.arange(p, device=logits.device)
    a, b = number[:, None, None], number[:, None]
    along_classes, answer = _angle(number[:, None] * k, p), _angle(k * (a + sign * b), p)
    # sum_c L[a, b, c] cos(w_k (a + sign b - c)), without an array of every a, b, c and k.
    cosine, sine = (centred @ torch.cat([along_classes.cos(), along_classes.sin()], 1)).chunk(2, dim=-1)
    projected = cosine * answer.cos() + sine * answer.sin()
    half_distance = _angle(k * (a - sign * b), 2 * p)
    weights = torch.stack([torch.ones_like(answer), half_distance.cos().abs()])
    # Over classes the squares of a cosine sum to p / 2, and to p for the alternating one of even p.
    squares = torch.where(2 * k == p, p, p / 2) * weights.square().sum((1, 2))
    explained = ((projected * weights).sum((1, 2)).square() / squares).sum(1) / total
    return Explained(*explained.tolist())


def _angle(steps: Int[Tensor, "*shape"], n: int) -> Float[Tensor, "*shape"]:
    """2 pi steps / n in float64, from integers modulo n."""
    return 2 * math.pi / n * (steps % n).double()


def _circuit_hooks(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS, *key_frequency_hooks(model))


def _compute(seen: Observation) -> dict[str, Tensor | float]:
    p = seen.task.p
    cosines = gradient_cosines(seen.model, sampled_triples(p))
    used = cosines.isfinite()
    return {
        "gradient_symmetricity": cosines[used].mean(),
        "gradient_symmetricity_count": used.sum(),
        "circularity": circularity(seen.model.W_E[:p]),
        **_of_logits(seen),
    }


def _of_logits(seen: Observation) -> dict[str, float]:
    sign = _SIGNS.get(seen.task.operation)
    if sign is None:
        return dict.fromkeys(
            ("distance_irrelevance", "distance_irrelevance_runner_up", "clock_fve", "pizza_fve"), math.nan
        )
    p = seen.task.p
    logits = seen.logits[:, :p]
    right, runner_up = correct_and_runner_up(logits, seen.answers)
    explained = formula_fve(logits.reshape(p, p, p), frozen_key_frequencies(seen), sign)
    return {
        "distance_irrelevance": distance_irrelevance(right.reshape(p, p), sign),
        "distance_irrelevance_runner_up": distance_irrelevance(runner_up.reshape(p, p), sign),
        "clock_fve": explained.clock,
        "pizza_fve": explained.pizza,
    }


_FVE = (
    "of the logits of the p answers over all pairs, less each pair's mean, with one least-squares amplitude "
    "for each key frequency. The source fits standardised logits with the unweighted sum over circles, and "
    "scores 2r - 1 with r the correlation, where this is r^2."
)
_NOT_ADDITIVE = "the operation is neither addition nor subtraction"
_NO_FORMULA = f"there are no key frequencies, the logits are the same for all answers, or {_NOT_ADDITIVE}"
_CONSTANT_LOGITS = f"these logits are constant, as those of an exact clock, or {_NOT_ADDITIVE}"
_SEPARATES = "0 for a function of the distance only (pizza), towards 1 for a clock."

PROBE = Probe(
    name="circuit",
    title="Clock or pizza",
    source="Zhong et al., arXiv 2306.17844; github.com/fjzzq2002/pizza",
    seconds=0.017,
    quantities={
        "gradient_symmetricity": Quantity(
            (),
            "gradient symmetricity",
            "1",
            "Mean cosine between the gradients of the raw logit of class c with respect to the embedding's "
            "output at positions a and b, over 100 triples (a, b, c) drawn once; those with a zero gradient "
            "are left out. 1 for a pizza. The source's threshold of 0.98 does not separate the two in models "
            "that read a token '=': in its tables their median is 0.992 at attention rates under 0.3 and "
            "0.971 from 0.7 on, while the median distance irrelevance, 0.183 and 0.768, does separate them. "
            "The reading as clock or pizza holds for addition; subtraction needs asymmetry.",
            nan="all gradients are zero",
        ),
        "gradient_symmetricity_count": Quantity(
            (),
            "triples with a gradient",
            "1",
            "How many of the triples the gradient symmetricity is the mean over: those where both gradients "
            "are finite and not zero.",
        ),
        "distance_irrelevance": Quantity(
            (),
            "distance irrelevance",
            "1",
            "Standard deviation of the right answer's logit over pairs of the same distance a - b (a + b for "
            f"subtraction), mean over distances, over that of all p^2 pairs; {_SEPARATES}",
            nan=_CONSTANT_LOGITS,
        ),
        "distance_irrelevance_runner_up": Quantity(
            (),
            "distance irrelevance of the runner-up",
            "1",
            "Distance irrelevance of the largest logit among the p - 1 wrong answers, which the source's "
            f"training script records instead of the right answer's; {_SEPARATES}",
            nan=_CONSTANT_LOGITS,
        ),
        "circularity": Quantity(
            (),
            "circularity",
            "1",
            "Share of the power of a principal component of rows 0..p-1 of W_E that lies in its strongest "
            "frequency, mean over the first four components; the source takes 0.995 and more for circular. "
            "Frequencies of equal amplitude mix in the components, and perfect circles then get low values: "
            "about 0.4 to 0.5 for five of them.",
            nan="the embedding has fewer than four principal components, as with a single frequency",
        ),
        "clock_fve": Quantity(
            (),
            "variance explained by the clock",
            "1",
            "Share of variance that sum_k alpha_k cos(w_k (a + b - c)), with -b for subtraction, "
            f"explains {_FVE}",
            nan=_NO_FORMULA,
        ),
        "pizza_fve": Quantity(
            (),
            "variance explained by the pizza",
            "1",
            "Share of variance that sum_k alpha_k |cos(w_k (a - b) / 2)| cos(w_k (a + b - c)), with -b for "
            f"subtraction, explains {_FVE}",
            nan=_NO_FORMULA,
        ),
    },
    compute=_compute,
    at_equals=_circuit_hooks,
    reads_final=True,
)
