"""The factor on attention scores at which the attention has a given entropy.

With weights `softmax(f s)` of one row of scores s, the entropy H falls as the factor f > 0 grows:
`dH/df = -f Var(s)`, the variance being that under the weights. So it goes from the log of the number of keys
(f to 0) down to the log of the number of keys that share the largest score (f to infinity). The mean over
rows falls with each of them: a mean entropy between those two limits belongs to exactly one positive factor,
unless all scores of every row are equal. (Another, negative, factor may reach it by looking where the scores
are lowest; it is not sought.) Nothing of the kind holds of an entropy of weights averaged over heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TOLERANCE = 1e-10
"""How far from its target (nats) an entropy counts as reached."""

LARGEST_FACTOR = 1e30
"""Scores that only a larger factor tells apart count as tied; float32 can still hold it."""

_NEWTON_STEPS = 30
_MOST_STEPS = 400
_LARGEST_STEP = 2.0  # of the log of the factor


@dataclass(frozen=True)
class Solution:
    """Factors, and the mean entropies (nats) that they give; every field has the shape of the target.

    Attributes:
        factor: the only positive one that reaches the target; where none does, the one that was there before.
        target: what was asked for.
        entropy: at that factor.
        lowest: limit of the entropy for large factors: log of the number of tied largest scores, mean.
        highest: limit of the entropy for factors near 0: log of the number of keys.
    """

    factor: Float[Tensor, "*batch"]
    target: Float[Tensor, "*batch"]
    entropy: Float[Tensor, "*batch"]
    lowest: Float[Tensor, "*batch"]
    highest: Float[Tensor, "*batch"]

    @property
    def reached(self) -> Bool[Tensor, "*batch"]:
        """Where the entropy is the target, to `TOLERANCE`."""
        return (self.entropy - self.target).abs() <= TOLERANCE

    def check_reached(self) -> None:
        """Refuse a target that is not reached.

        Raises:
            ValueError: no factor reaches it; the message gives the range of what can be reached.
        """
        missed = ~self.reached
        if missed.any():
            target, lowest, highest = (float(x[missed][0]) for x in (self.target, self.lowest, self.highest))
            if math.isnan(lowest):
                raise ValueError("scores that are nan or infinite have no entropy")
            raise ValueError(
                f"no factor up to {LARGEST_FACTOR:g} gives these scores a mean entropy of {target:.6g} nats; "
                f"it can be from {lowest:.6g} (largest scores only) to {highest:.6g} (all keys alike)"
            )


def stacked(solutions: Sequence[Solution]) -> Solution:
    """Several solutions as one, with a new leading dimension."""
    return Solution(*(torch.stack([getattr(s, f.name) for s in solutions]) for f in fields(Solution)))


def solve_factor(
    scores: Float[Tensor, "*batch n key"], target: float | Float[Tensor, "*batch"], near: float = 1.0
) -> Solution:
    """The factor f > 0 at which the entropy of `softmax(f scores)`, mean over n, is the target.

    Args:
        scores: of n examples for their keys, computed with in float64; -inf for a key that is masked.
        target: nats, one for all or one for each leading index.
        near: where to begin to search.

    Raises:
        ValueError: a target is not between the limits that `Solution` names, or a score is nan or infinite.
    """
    target = torch.as_tensor(target, dtype=torch.float64, device=scores.device).expand(scores.shape[:-2])
    solution = solve_where_reachable(scores, target, torch.full_like(target, near))
    solution.check_reached()
    return solution


def solve_where_reachable(
    scores: Float[Tensor, "*batch n key"], target: Float[Tensor, "*batch"], near: Float[Tensor, "*batch"]
) -> Solution:
    """`solve_factor`, with `near` kept where the target is out of reach, or nan."""
    below, target, near = _below_highest(scores), target.double(), near.double()
    overflown = below.isnan().any(0).any(-1)
    lowest, highest = (
        keys.sum(0).double().log().mean(-1).where(~overflown, torch.nan)
        for keys in (below == 0, below.isfinite())
    )
    outside = ~((target >= lowest - TOLERANCE) & (target <= highest + TOLERANCE))
    factor, reached = _search(below, target, near, outside)
    factor = factor.where(reached, near)
    return Solution(factor, target, _entropy_and_slope(below, factor)[0], lowest, highest)


def mean_entropy(
    scores: Float[Tensor, "*batch n key"], factor: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Entropy (nats) of `softmax(factor * scores)`, mean over n, in float64."""
    return _entropy_and_slope(_below_highest(scores), factor.double())[0]


def _below_highest(scores: Tensor) -> Float[Tensor, "key *batch n"]:
    """The scores less the largest of their row: 0 there, negative elsewhere."""
    by_key = scores.double().movedim(-1, 0).contiguous()
    return by_key - by_key.amax(0)


def _search(below: Tensor, target: Tensor, near: Tensor, hopeless: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's method on the log of the factor, inside a bracket that the entropies seen so far give.

    Returns:
        The last factor, and where it reaches the target.
    """
    factor, low, high = near, torch.zeros_like(near), torch.full_like(near, torch.inf)
    reached = torch.zeros_like(hopeless)
    for step in range(_MOST_STEPS):
        entropy, slope = _entropy_and_slope(below, factor)
        reached = (entropy - target).abs() <= TOLERANCE
        done = reached | hopeless | (low >= LARGEST_FACTOR)
        if done.all():
            break
        low, high = factor.where(entropy > target, low), factor.where(entropy < target, high)
        newton = factor * ((target - entropy) / slope).clamp(-_LARGEST_STEP, _LARGEST_STEP).exp()
        trusted = (newton > low) & (newton < high) & (step < _NEWTON_STEPS)
        factor = factor.where(done, newton.where(trusted, _middle(low, high)))
    return factor, reached


def _middle(low: Tensor, high: Tensor) -> Tensor:
    """A factor inside the bracket: 16 times further where it is open, else its geometric mean."""
    middle = low.sqrt() * high.sqrt()
    middle = torch.where(low == 0, high / 16, middle)
    return torch.where(high.isinf(), low * 16, middle).clamp(max=LARGEST_FACTOR)


def _entropy_and_slope(below: Float[Tensor, "key *batch n"], factor: Tensor) -> tuple[Tensor, Tensor]:
    """Mean entropy, and its derivative by the log of the factor."""
    weights = (below * factor[..., None]).exp_()
    weights /= weights.sum(0)
    entropy = torch.special.entr(weights).sum(0).mean(-1)
    seen = below.where(weights > 0, 0.0)  # what has no weight adds nothing, not 0 times infinity
    mean = (weights * seen).sum(0)
    variance = (weights * (seen - mean).square_()).sum(0).mean(-1)
    return entropy, -factor.square() * variance
