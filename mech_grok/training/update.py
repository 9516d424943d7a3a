"""One AdamW update of all seeds at once, with the norms of what it read and changed.

It goes in pieces, one for each thread: the matrices around an update are larger than a cache, and one thread
alone would have the others wait. AdamW is the kernel that torch's optimiser calls: what it does around that
takes twice as long as the arithmetic, in Python, in which threads take turns.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mech_grok.config import OptimiserConfig
from mech_grok.parallel import Crew
from mech_grok.training.parameters import ParameterStack


class _Piece(NamedTuple):
    """Some neighbouring columns of every matrix."""

    of_adamw: list[list[Tensor]]
    """Weights, gradients and their two moments, of every seed."""
    counts: list[Tensor]
    """Updates of every seed."""
    weights: Float[Tensor, "seed column"]
    before: Float[Tensor, "seed column"]
    change: Float[Tensor, "seed column"]
    blocks: Float[Tensor, "3 seed block number"]
    """Gradient, `before` and `change`."""
    is_in_group: Float[Tensor, "block group"]


class Update:
    """What an update needs beside the parameters that it changes.

    Attributes:
        gradient: [seed, n_parameters], laid out like `ParameterStack.flat`; to be filled before each `step`.
    """

    def __init__(self, stack: ParameterStack, optimiser: OptimiserConfig, crew: Crew):
        """Of `stack`, before its first update."""
        self._optimiser, self._crew = optimiser, crew
        around = stack.flat.new_zeros(3, *stack.flat.shape)
        self.gradient = around[0]
        self._moments = stack.flat.new_zeros(2, *stack.flat.shape)
        n_blocks = len(stack.is_in_group)
        cuts = [i * n_blocks // crew.size for i in range(crew.size + 1)]
        self._begun = False
        self._pieces = [_piece(stack, self._moments, around, slice(*ends)) for ends in pairwise(cuts)]

    def step(self) -> Float[Tensor, "3 seed group"]:
        """Update the parameters.

        Returns:
            L2 norms by part of the model, in float64: of gradient, weights before the update, and update.
        """
        self._begun = True
        return self._on_pieces(self._step)

    def norms(self) -> Float[Tensor, "3 seed group"]:
        """What `step` gave at the last update, for the weights as they are now."""
        return self._on_pieces(_squares)

    def _on_pieces(self, squares_of: Callable[[_Piece], Tensor]) -> Tensor:
        return torch.stack(self._crew.map(squares_of, self._pieces)).sum(0).sqrt_()

    def _step(self, piece: _Piece) -> Tensor:
        piece.before.copy_(piece.weights)
        o, (weights, gradients, exp_avgs, exp_avg_sqs) = self._optimiser, piece.of_adamw
        torch._foreach_add_(piece.counts, 1)
        torch._fused_adamw_(
            weights,
            gradients,
            exp_avgs,
            exp_avg_sqs,
            [],
            piece.counts,
            lr=o.lr,
            beta1=o.beta1,
            beta2=o.beta2,
            weight_decay=o.weight_decay,
            eps=o.eps,
            amsgrad=False,
            maximize=False,
        )
        return _squares(piece)

    def state(self) -> dict[str, Tensor]:
        """The AdamW moments [seed, n_parameters] and update count; nothing if there was no update or load."""
        if not self._begun:
            return {}
        exp_avg, exp_avg_sq = self._moments
        return {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "step": self._pieces[0].counts[0]}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue bit for bit from what `state` gave."""
        if state:
            self._begun = True
            for own, name in zip(self._moments, ("exp_avg", "exp_avg_sq"), strict=True):
                own.copy_(state[name])
            for piece in self._pieces:
                for count in piece.counts:
                    count.copy_(state["step"])


def _piece(stack: ParameterStack, moments: Tensor, around: Tensor, blocks: slice) -> _Piece:
    """The columns of some blocks, of all the matrices of an update."""
    columns = slice(blocks.start * stack.block, blocks.stop * stack.block)
    weights, (gradient, before, change) = stack.flat[:, columns], around[..., columns]
    return _Piece(
        of_adamw=[list(x) for x in (weights, gradient, *moments[..., columns])],
        counts=list(torch.zeros(len(weights), device=weights.device)),
        weights=weights,
        before=before,
        change=change,
        blocks=around[..., columns].unflatten(-1, (-1, stack.block)),
        is_in_group=stack.is_in_group[blocks],
    )


def _squares(piece: _Piece) -> Float[Tensor, "3 seed group"]:
    """Squared L2 norms by part of the model, in float64, of gradient, weights before, and what changed them.

    Within a block in the parameters' dtype, whose rounding all but cancels over many blocks. In float32
    numbers below 1e-19 lose digits and those below 1e-22 vanish, and above 1e19 the norm is infinite.
    """
    torch.sub(piece.before, piece.weights, out=piece.change)
    return torch.linalg.vector_norm(piece.blocks, dim=-1).double().square_() @ piece.is_in_group
