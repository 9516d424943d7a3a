"""Entropies of attention over training, to follow."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

MOST_ENTROPY = math.log(3)
"""Of a query that sees three keys, in nats."""

_ROUNDING = 1e-6  # of an entropy in float32


@dataclass(frozen=True)
class EntropyCurve:
    """Each head's mean entropy at the row of `=`, as it was or is to be at some steps.

    Attributes:
        steps: ascending.
        values: nats, from 0 to log 3.

    Raises:
        ValueError: steps that do not ascend, or a value that no entropy over three keys has.
    """

    steps: Int[np.ndarray, " step"]
    values: Float[np.ndarray, "step seed layer head"]

    def __post_init__(self) -> None:
        if not len(self.steps) or (np.diff(self.steps) <= 0).any():
            raise ValueError(f"an entropy curve has one or more ascending steps, not {self.steps.tolist()}")
        wrong = ~((self.values >= 0) & (self.values <= MOST_ENTROPY + _ROUNDING))
        if wrong.any():
            at = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"entropy {self.values[wrong][0]:.6g} at step {self.steps[at]:,}; "
                f"over three keys it is from 0 to log 3 = {MOST_ENTROPY:.6g} nats"
            )

    def at(self, step: int) -> Float[np.ndarray, "seed layer head"]:
        """Linear in the step between those of the curve, and constant outside."""
        flat = self.values.reshape(len(self.steps), -1)
        found = [np.interp(step, self.steps, one) for one in flat.T]
        return np.array(found).reshape(self.values.shape[1:]).clip(max=MOST_ENTROPY)
