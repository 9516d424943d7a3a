"""One AdamW update of all seeds at once, with the norms of what it read and changed.

It goes in pieces, one for each thread: the matrices around an update are larger than a cache, and one thread
alone would have the others wait. AdamW is torch's, in its functional form, which takes any piece of a matrix.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

from mech_grok.config import OptimiserConfig
from mech_grok.parallel import Crew
from mech_grok.training.parameters import ParameterStack


class _Piece(NamedTuple):
    """Some neighbouring columns of every matrix."""

    weights: Float[Tensor, "seed column"]
    gradient: Float[Tensor, "seed column"]
    exp_avg: Float[Tensor, "seed column"]
    exp_avg_sq: Float[Tensor, "seed column"]
    counts: Float[Tensor, " seed"]
    before: Float[Tensor, "seed column"]
    change: Float[Tensor, "seed column"]
    blocks: Float[Tensor, "3 seed block number"]
    """`gradient`, `before` and `change` again."""
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
        self._pieces = [_piece(stack, self._moments, around, slice(*ends)) for ends in pairwise(cuts)]

    def step(self) -> Float[Tensor, "3 seed group"]:
        """Update the parameters.

        Returns:
            L2 norms by part of the model, in float64: of gradient, weights before the update, and update.
        """
        return self._on_pieces(self._step)

    def norms(self) -> Float[Tensor, "3 seed group"]:
        """What `step` gave at the last update, for the weights as they are now."""
        return self._on_pieces(_squares)

    def _on_pieces(self, squares_of: Callable[[_Piece], Tensor]) -> Tensor:
        return torch.stack(list(self._crew.map(squares_of, self._pieces))).sum(0).sqrt_()

    def _step(self, piece: _Piece) -> Tensor:
        piece.before.copy_(piece.weights)
        o = self._optimiser
        with torch.no_grad():
            adamw(
                list(piece.weights),
                list(piece.gradient),
                list(piece.exp_avg),
                list(piece.exp_avg_sq),
                [],
                list(piece.counts),
                fused=True,
                amsgrad=False,
                maximize=False,
                lr=o.lr,
                weight_decay=o.weight_decay,
                beta1=o.beta1,
                beta2=o.beta2,
                eps=o.eps,
            )
        return _squares(piece)

    def state(self) -> dict[str, Tensor]:
        """The AdamW moments [seed, n_parameters] and update count; nothing before the first update."""
        count = self._pieces[0].counts[0]
        exp_avg, exp_avg_sq = self._moments
        return {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "step": count} if count else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue bit for bit from what `state` gave."""
        if state:
            for own, name in zip(self._moments, ("exp_avg", "exp_avg_sq"), strict=True):
                own.copy_(state[name])
            for piece in self._pieces:
                piece.counts.fill_(state["step"])


def _piece(stack: ParameterStack, moments: Tensor, around: Tensor, blocks: slice) -> _Piece:
    """The columns of some blocks, of all the matrices of an update."""
    columns = slice(blocks.start * stack.block, blocks.stop * stack.block)
    exp_avg, exp_avg_sq = moments[..., columns]
    gradient, before, change = around[..., columns]
    return _Piece(
        weights=stack.flat[:, columns],
        gradient=gradient,
        exp_avg=exp_avg,
        exp_avg_sq=exp_avg_sq,
        counts=torch.zeros(len(stack.flat), device=stack.flat.device),
        before=before,
        change=change,
        blocks=around[..., columns].unflatten(-1, (-1, stack.block)),
        is_in_group=stack.is_in_group[blocks],
    )


def _squares(piece: _Piece) -> Float[Tensor, "3 seed group"]:
    """Squared L2 norms by part of the model, in float64, of gradient, weights before, and what changed them.

    Within a block they are in the parameters' dtype, whose rounding all but cancels over many blocks.
    """
    torch.sub(piece.before, piece.weights, out=piece.change)
    return torch.linalg.vector_norm(piece.blocks, dim=-1).double().square_() @ piece.is_in_group
