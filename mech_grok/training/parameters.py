"""The trained parameters of all seeds as one matrix, with named views into it.

One row per seed: the optimiser, the norms and the checkpoint handle all seeds and tensors in single calls.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from math import gcd

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
        frozen: name -> [seed, ...] of the norm affines that are not trained.
    """

    def __init__(self, trained: Mapping[str, Tensor], frozen: Mapping[str, Tensor]):
        """Copies stacked tensors, name -> [seed, ...], into one matrix."""
        self._shapes = {name: tensor.shape[1:] for name, tensor in trained.items()}
        self.flat = flattened(t.detach() for t in trained.values())
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

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The parts of the model that have trained parameters: see `parameter_group`."""
        return tuple(parameter_groups(self._shapes))

    @cached_property
    def block(self) -> int:
        """The greatest length of equal pieces of a row of which none is of two parts of the model."""
        return gcd(*(size for _, size in self._runs))

    @cached_property
    def is_in_group(self) -> Float[Tensor, "block group"]:
        """1 where a block of a row is of a part of the model, in float64."""
        of_blocks = [part for part, size in self._runs for _ in range(size // self.block)]
        table = [[float(of == part) for part in self.groups] for of in of_blocks]
        return torch.tensor(table, dtype=torch.float64, device=self.flat.device)

    @property
    def _runs(self) -> list[tuple[str, int]]:
        """Neighbouring parameters of one part of the model: the part, and how many numbers they are."""
        by_part = groupby(self._shapes.items(), lambda named: parameter_group(named[0]))
        return [(part, sum(shape.numel() for _, shape in run)) for part, run in by_part]

    def _views(self, matrix: Float[Tensor, "seed n"]) -> dict[str, Tensor]:
        views, start = {}, 0
        for name, shape in self._shapes.items():
            stop = start + shape.numel()
            views[name] = matrix[:, start:stop].view(-1, *shape)
            start = stop
        return views


def flattened(
    leaves: Iterable[Float[Tensor, "seed ..."]], out: Float[Tensor, "seed n"] | None = None
) -> Float[Tensor, "seed n"]:
    """Tensors in the order of `ParameterStack.leaves`, laid out like its `flat`, in `out` if given."""
    return torch.cat([leaf.flatten(1) for leaf in leaves], dim=1, out=out)


def _stack(named: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([n[name].detach() for n in named]) for name in named[0]}
