"""Modular arithmetic as a task: its pairs, its answers and its train/test split."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

Operation = Literal["add", "subtract", "multiply", "xor", "and", "rshift"]
Split = Literal["train", "test"]

_OPERATIONS: dict[Operation, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "xor": np.bitwise_xor,
    "and": np.bitwise_and,
    "rshift": np.right_shift,
}


@dataclass(frozen=True)
class Task:
    """`(a, b) -> (a op b) mod p`, written as the three tokens `a b =`; the token `=` has id p.

    Attributes:
        operation: what is done to a and b before taking the remainder.
        p: the modulus.
        test_fraction: share of the p^2 pairs that is held out.
    """

    operation: Operation
    p: int
    test_fraction: float

    @property
    def n_test(self) -> int:
        """Held-out pairs: `int(test_fraction * p^2)` in floating point, as the paper's code computes it."""
        return int(self.test_fraction * (self.p * self.p))

    @property
    def n_train(self) -> int:
        """Training pairs: all that are not held out (3,831 at p = 113 and 0.7)."""
        return self.p * self.p - self.n_test

    def pairs(self) -> Int[np.ndarray, "n_pairs 2"]:
        """All pairs (a, b) in lexicographic order: pair i is `divmod(i, p)`."""
        a, b = np.divmod(np.arange(self.p * self.p), self.p)
        return np.stack([a, b], axis=1)

    def answers(self, pairs: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
        """The right class of each pair, in 0..p-1."""
        return _OPERATIONS[self.operation](pairs[:, 0], pairs[:, 1]) % self.p

    def tokens(self, pairs: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n 3"]:
        """The model's input `a b =` for each pair."""
        return np.concatenate([pairs, np.full((len(pairs), 1), self.p)], axis=1)

    def split_indices(self, seed: int) -> dict[Split, Int[np.ndarray, " n"]]:
        """Indices into `pairs()` of the train and the test set, in the order of the paper's code.

        That code shuffles the list of indices with `random.shuffle` after `random.seed(seed)` and takes
        the first `n_train` for training, the rest for testing.
        """
        order = list(range(self.p * self.p))
        random.Random(seed).shuffle(order)
        shuffled = np.array(order)
        return {"train": shuffled[: self.n_train], "test": shuffled[self.n_train :]}
