"""The trained parameters of all seeds as one matrix, with named views into it.

One row per seed: the optimiser, the norms and the checkpoint handle all seeds and tensors in single calls.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from mech_grok.config import CellConfig
from mech_grok.model import GrokTransformer
from mech_grok.model.parameter_groups import parameter_group, parameter_groups


class ParameterStack:
    """Parameters of several seeds of one architecture.

    Attributes:
        flat: [seed, n_parameters], every trained parameter of a seed in one row.
        grad: same shape; what `add_gradients` adds to.
        frozen: name -> [seed, ...] of the norm affines that are not trained.
    """

    def __init__(self, trained: Mapping[str, Tensor], frozen: Mapping[str, Tensor]):
        """Copies stacked tensors, name -> [seed, ...], into one matrix."""
        self._shapes = {name: tensor.shape[1:] for name, tensor in trained.items()}
        self.flat = flattened(t.detach() for t in trained.values())
        self._around_update = self.flat.new_zeros(3, *self.flat.shape)
        self.grad = self._around_update[0]
        self.frozen = dict(frozen)
        self._leaves: dict[tuple[int, int], dict[str, Tensor]] = {}

    @classmethod
    def of_models(cls, models: Sequence[GrokTransformer]) -> "ParameterStack":
        """The parameters of models that differ in their weights only, in the given order."""
        trained = [m.trained_parameters() for m in models]
        frozen = [m.frozen_parameters() for m in models]
        return cls(_stack(trained), _stack(frozen))

    @classmethod
    def initial(cls, config: CellConfig) -> "ParameterStack":
        """Freshly initialised parameters of all seeds of a cell, on its device."""
        training = config.training
        dtype = getattr(torch, training.dtype)
        models = [
            GrokTransformer(config.model, config.task.p, training.initial_seed(s), dtype, training.device)
            for s in training.seeds
        ]
        return cls.of_models(models)

    def named(self) -> dict[str, Tensor]:
        """Name -> view [seed, ...] of every trained parameter."""
        return self._views(self.flat)

    def leaves(self, rows: slice) -> dict[str, Tensor]:
        """Trained parameters of some seeds as autograd leaves that share the matrix's memory."""
        key = (rows.start, rows.stop)
        if key not in self._leaves:
            views = self._views(self.flat[rows])
            self._leaves[key] = {name: view.detach().requires_grad_() for name, view in views.items()}
        return self._leaves[key]

    def frozen_rows(self, rows: slice) -> dict[str, Tensor]:
        """Frozen parameters of some seeds."""
        return {name: tensor[rows] for name, tensor in self.frozen.items()}

    def add_gradients(self, rows: slice, gradients: Float[Tensor, "row n"]) -> None:
        """Add to `grad` the gradients of some seeds, laid out like `flat`."""
        self.grad[rows] += gradients

    def remember(self) -> None:
        """Keep the weights as they are before an update, for `update_norms`."""
        self._around_update[1].copy_(self.flat)

    def update_norms(self) -> Float[Tensor, "3 seed group"]:
        """L2 norms by part of the model around an update: of gradient, weights before it, and update."""
        _, before, update = self._around_update
        torch.sub(before, self.flat, out=update)
        return self.group_norms(self._around_update.flatten(0, 1)).unflatten(0, (3, -1))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The parts of the model that have trained parameters: see `parameter_group`."""
        return tuple(parameter_groups(self._shapes))

    def group_norms(self, matrix: Float[Tensor, "row n"]) -> Float[Tensor, "row group"]:
        """L2 norms by part of the rows of a matrix laid out like `flat`, in float64."""
        pieces = matrix.split([size for _, size in self._runs], dim=1)
        norms = [torch.linalg.vector_norm(piece, dim=1, dtype=torch.float64) for piece in pieces]
        return (torch.stack(norms, dim=1).square_() @ self._is_in_group).sqrt_()

    @cached_property
    def _runs(self) -> list[tuple[str, int]]:
        """Neighbouring parameters of one part of the model: the part, and how many numbers they are."""
        by_part = groupby(self._shapes.items(), lambda named: parameter_group(named[0]))
        return [(part, sum(shape.numel() for _, shape in run)) for part, run in by_part]

    @cached_property
    def _is_in_group(self) -> Float[Tensor, "run group"]:
        """1 where a run is of a part of the model."""
        table = [[float(of == part) for part in self.groups] for of, _ in self._runs]
        return torch.tensor(table, dtype=torch.float64, device=self.flat.device)

    def _views(self, matrix: Float[Tensor, "seed n"]) -> dict[str, Tensor]:
        views, start = {}, 0
        for name, shape in self._shapes.items():
            stop = start + shape.numel()
            views[name] = matrix[:, start:stop].view(-1, *shape)
            start = stop
        return views


def flattened(leaves: Iterable[Float[Tensor, "seed ..."]]) -> Float[Tensor, "seed n"]:
    """Tensors in the order of `ParameterStack.leaves`, laid out like `ParameterStack.flat`."""
    return torch.cat([leaf.flatten(1) for leaf in leaves], dim=1)


def _stack(named: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([n[name].detach() for n in named]) for name in named[0]}
