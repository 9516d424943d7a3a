"""Inner products of gradients that are sums of outer products, without the gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROWS = 64
"""Rows of the kernel per matrix product: the more there are, the more of its lower half is computed too."""

Factors = Float[Tensor, "n slot head width"]
"""One side of the outer products. Outputs of the kernel are part of the width: the kernel sums over both."""

Gram = Callable[[slice, slice, int, int], Float[Tensor, "head rows columns"] | None]
"""(rows, columns, slot, slot) to the inner products of two sides; None where all are 0."""


def add_outer_products(kernel: Float[Tensor, "n n"], left: Gram, right: Factors) -> None:
    """Add the share of parameters whose gradient is `sum over slots of left_s outer right_s`, for each head.

    Two outer products have the inner product of their left sides times that of their right sides. Only the
    blocks on and above the diagonal are computed; `symmetrised` does the rest.
    """
    slots = range(right.shape[1])
    for rows, columns in _blocks(len(right)):
        for s in slots:
            for t in slots:
                inner = left(rows, columns, s, t)
                if inner is not None:
                    kernel[rows, columns] += (inner * inner_products(right, rows, columns, s, t)).sum(0)


def add_vectors(kernel: Float[Tensor, "n n"], gradients: Float[Tensor, "n width"]) -> None:
    """Add the share of a parameter whose gradients are given as they are."""
    for rows, columns in _blocks(len(gradients)):
        kernel[rows, columns].addmm_(gradients[rows], gradients[columns].T)


def symmetrised(kernel: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The kernel whose upper half is given."""
    return kernel.triu() + kernel.triu(1).T


def inner_products(
    x: Factors, rows: slice, columns: slice, s: int, t: int
) -> Float[Tensor, "head rows columns"]:
    """Between all examples of two ranges, one at slot s, the other at slot t."""
    return x[rows, s].transpose(0, 1) @ x[columns, t].permute(1, 2, 0)


def _blocks(n: int) -> Iterator[tuple[slice, slice]]:
    for start in range(0, n, _ROWS):
        yield slice(start, start + _ROWS), slice(start, n)


@dataclass(frozen=True)
class Inputs:
    """What a linear map reads, of which its weight, its bias or both are trained.

    Attributes:
        x: what the weight is multiplied with; one head where all heads read the same.
        ones: what the bias is multiplied with.
        weight: whether the weight is trained.
        bias: whether the bias is trained.
    """

    x: Factors
    ones: Float[Tensor, "n slot head 1"]
    weight: bool
    bias: bool

    def __call__(self, rows: slice, columns: slice, s: int, t: int) -> Float[Tensor, "head rows columns"]:
        """Inner products of the inputs."""
        trained = [x for x, is_trained in ((self.x, self.weight), (self.ones, self.bias)) if is_trained]
        return torch.stack([inner_products(x, rows, columns, s, t) for x in trained]).sum(0)


@dataclass(frozen=True)
class KeyInputs:
    """What the keys read, times the one query that all keys are compared with.

    Attributes:
        x: what each key but the last reads, less what the last one reads: the softmax ignores what all keys
            have in common, so that the gradients of a query's scores add up to zero.
        query: what the keys are multiplied with in the scores.
    """

    x: Float[Tensor, "n slot 1 width"]
    query: Float[Tensor, "n 1 head d_head"]

    def __call__(
        self, rows: slice, columns: slice, s: int, t: int
    ) -> Float[Tensor, "head rows columns"] | None:
        """Inner products of inputs times those of queries; none with the last key."""
        if max(s, t) == self.x.shape[1]:
            return None
        queries = inner_products(self.query, rows, columns, 0, 0)
        return inner_products(self.x, rows, columns, s, t) * queries


@dataclass(frozen=True)
class TableRows:
    """Which rows of the token table and of the position table are read, and added to each other.

    Attributes:
        tokens: the row of the token table at each position.
        token_table: whether the token table is trained.
        position_table: whether the position table is trained.
        dtype: of the kernel.
    """

    tokens: Int[Tensor, "n slot"]
    token_table: bool
    position_table: bool
    dtype: torch.dtype

    def __call__(self, rows: slice, columns: slice, s: int, t: int) -> Float[Tensor, "1 rows columns"] | None:
        """How many rows two examples have in common at these positions: 0, 1 or 2."""
        same = self.tokens[None, rows, s, None] == self.tokens[None, None, columns, t]
        shared = same.to(self.dtype) * self.token_table + float(self.position_table and s == t)
        return shared if shared.any() else None
