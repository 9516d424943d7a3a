"""Full-batch AdamW on all seeds of a cell at once.

Row t of the metrics holds train loss and accuracy, gradient and weight norm of the parameters before
update t, the norm of update t, and test loss and accuracy after it; norms also by part of the model.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mech_grok.config import CellConfig
from mech_grok.freed_memory import keep_freed_memory
from mech_grok.parallel import Crew
from mech_grok.training.capture import captured
from mech_grok.training.data import Examples, examples
from mech_grok.training.entropy_curve import EntropyCurve
from mech_grok.training.follow_entropy import SolvedFactors, follow, solution_steps
from mech_grok.training.forward import fast_logits
from mech_grok.training.loss import Score, correct, cross_entropy, outcome
from mech_grok.training.parameters import ParameterStack, flattened
from mech_grok.training.passes import Pass, needs_more_than_a_heap, passes, passes_at_once, seed_groups
from mech_grok.training.update import Update

TRAIN_COLUMNS = ("train_loss", "train_accuracy", "grad_norm", "weight_norm", "update_norm")
TEST_COLUMNS = ("test_loss", "test_accuracy")
COLUMNS = TRAIN_COLUMNS + TEST_COLUMNS
GROUP_COLUMNS = ("group_grad_norm", "group_weight_norm", "group_update_norm")

Rows = dict[str, np.ndarray]
"""Column -> [seed, step] float64, of `GROUP_COLUMNS` [seed, step, group]; NaN where not evaluated."""


class _Measured(NamedTuple):
    """What one update measures, where it was computed."""

    trained: Sequence[Tensor]
    """Of each pass, what `_share` gives."""
    norms: Tensor
    """[gradient, weight or update, seed, group]"""
    tested: Sequence[Tensor] | None


class Trainer:
    """Trains the parameters of a cell.

    Attributes:
        parameters: of all seeds, as they are now.
        step: the number of updates done.
        update: the last update's gradient, and the optimiser's state.
    """

    def __init__(
        self,
        config: CellConfig,
        parameters: ParameterStack,
        step: int = 0,
        initial: ParameterStack | None = None,
        curve: EntropyCurve | None = None,
        solved: bool = False,
    ):
        """Continue at `step` from `parameters`; `initial` are those of step 0, by default the same ones.

        The initial ones matter where `training.subtract_initial_prediction` is set; `curve` is what
        `training.follow_entropy` follows, if it is set. Where the attention factors in `parameters` are
        `solved` for this step already, as in a checkpoint, they are kept until they are next due.

        Raises:
            ValueError: there is a curve to follow and none was given, or the other way round.
        """
        if (curve is None) != (config.training.follow_entropy is None):
            raise ValueError("a curve goes with training.follow_entropy: give both or neither")
        self.config = config
        self.parameters = parameters
        self.step = step
        self._train, self._test = examples(config, "train"), examples(config, "test")
        seeds, n = self._train.answers.shape
        device = parameters.flat.device.type
        self._crew = Crew(passes_at_once(seeds, n, device, torch.get_num_threads()))
        if needs_more_than_a_heap(config.model, self._passes(self._train)[0]):
            keep_freed_memory()
        self._curve, self._solution_steps = curve, frozenset(solution_steps(config))
        self._solved: list[SolvedFactors] = []
        if not solved:
            self._follow_entropy()
        self._offsets = (
            _predictions(config, initial or parameters, self._train, self._test)
            if config.training.subtract_initial_prediction
            else (None, None)
        )
        self.update = Update(parameters, config.optimiser, self._crew)
        self._learn = captured(self._learning, parameters.flat.device)
        self._take_test = captured(self._testing, parameters.flat.device)

    def advance(self, n_steps: int, stop: Callable[[], bool] = lambda: False) -> Rows:
        """Do up to `n_steps` updates, fewer once `stop()` is true; one column of rows per update done."""
        done: list[_Measured] = []
        with self._crew.alone():
            while len(done) < n_steps and not (done and stop()):
                done.append(self._update())
            return self._rows(done)

    def _update(self) -> _Measured:
        norms, *trained = self._learn()
        self.step += 1
        self._follow_entropy()
        evaluated = self.config.training.is_evaluated(self.step)
        return _Measured(trained, norms, self._take_test() if evaluated else None)

    def _learning(self) -> list[Tensor]:
        """An update; gives the norms around it, then each pass's share of loss and accuracy before it."""
        shares = self._gradients()
        return [self.update.step(), *shares]

    def _testing(self) -> list[Tensor]:
        """Each pass's share of loss and accuracy on the test set."""
        return self._scores(self._test, self._offsets[1])

    def _follow_entropy(self) -> None:
        """Solve the attention factors, if there is a curve to follow and it is time to."""
        if self._curve is not None and self.step in self._solution_steps:
            stack = self.parameters
            groups = seed_groups(len(stack.flat), stack.flat.device.type)
            solved = follow(self._curve, stack, groups, self._train.pairs, self.config, self.step)
            self._solved.append(solved)

    def take_solved(self) -> list[SolvedFactors]:
        """The attention factors solved since the last call, for the record."""
        solved, self._solved = self._solved, []
        return solved

    def _gradients(self) -> list[Tensor]:
        """Leaves the gradients in `update.gradient`; gives each pass's share of loss and accuracy."""
        todo, shares = self._passes(self._train), []
        for each, (share, gradients) in zip(todo, self._crew.map(self._train_pass, todo), strict=True):
            if each.pairs.start:  # the first pass over a seed's pairs has put its gradients there
                self.update.gradient[each.seeds].add_(gradients)
            shares.append(share)
        return shares

    def _train_pass(self, each: Pass) -> tuple[Tensor, Tensor]:
        """Over some pairs of the train set: what `_share` gives, and gradients of the mean loss in rows."""
        n, leaves = self._train.answers.shape[1], self.parameters.leaves(each.seeds)
        logits = self._logits(leaves, each, self._train, self._offsets[0])
        answers = self._train.answers[each.seeds, each.pairs]
        found = outcome(logits.detach(), answers, self.config.model.loss_scale, weight=1 / n)
        gradients = torch.autograd.grad(logits, list(leaves.values()), found.gradient)
        rows = flattened(gradients, out=None if each.pairs.start else self.update.gradient[each.seeds])
        return _share(found.losses, found.correct, n), rows

    def evaluate(self, data: Examples, offset: Tensor | None = None) -> Score:
        """Loss and accuracy of every seed on its own examples."""
        return Score(*_joined(self._passes(data), self._scores(data, offset)))

    def _scores(self, data: Examples, offset: Tensor | None) -> list[Tensor]:
        """Each pass's share of loss and accuracy."""
        return self._crew.map(lambda each: self._test_pass(each, data, offset), self._passes(data))

    @torch.no_grad()  # which holds for the thread that it is called in
    def _test_pass(self, each: Pass, data: Examples, offset: Tensor | None) -> Tensor:
        logits = self._logits(self.parameters.leaves(each.seeds), each, data, offset)
        answers = data.answers[each.seeds, each.pairs]
        losses = cross_entropy(logits, answers, self.config.model.loss_scale)
        return _share(losses, correct(logits, answers), data.answers.shape[1])

    def _passes(self, data: Examples) -> list[Pass]:
        seeds, n = data.answers.shape
        return passes(seeds, n, self.parameters.flat.device.type, self._crew.size)

    def _rows(self, done: Sequence[_Measured]) -> Rows:
        """The rows of updates, brought to the host in one go: each time, a GPU has to be waited for."""
        group_norms = torch.stack([each.norms for each in done], dim=2)
        norms = group_norms.norm(dim=-1)
        trained = _joined(self._passes(self._train), _over_steps([each.trained for each in done]))
        tested = torch.full_like(trained, torch.nan)
        evaluated = [i for i, each in enumerate(done) if each.tested]
        if evaluated:
            shares = _over_steps([each.tested for each in done if each.tested])
            tested[..., evaluated] = _joined(self._passes(self._test), shares)
        columns = (*trained, *norms, *tested, *group_norms)
        named = zip((*COLUMNS, *GROUP_COLUMNS), columns, strict=True)
        return {name: column.double().cpu().numpy() for name, column in named}

    def _logits(self, leaves: dict[str, Tensor], each: Pass, data: Examples, offset: Tensor | None) -> Tensor:
        parameters = {**leaves, **self.parameters.frozen_rows(each.seeds)}
        logits = fast_logits(parameters, data.pairs[each.seeds, each.pairs], self.config.model)
        return logits if offset is None else logits - offset[each.seeds, each.pairs]


@torch.no_grad()
def _predictions(
    config: CellConfig, stack: ParameterStack, train: Examples, test: Examples
) -> tuple[Tensor, Tensor]:
    """Logits of every seed on its own train and test pairs."""
    parameters = {**stack.named(), **stack.frozen}
    on_train, on_test = (fast_logits(parameters, data.pairs, config.model) for data in (train, test))
    return on_train, on_test


def _share(losses: Tensor, is_correct: Tensor, n: int) -> Tensor:
    """What some of `n` examples [seed, example] add to the mean loss and accuracy over all: [2, seed]."""
    return torch.stack([losses.sum(-1), is_correct.sum(-1, dtype=losses.dtype)]).div_(n)


def _joined(done: Sequence[Pass], shares: Sequence[Tensor]) -> Tensor:
    """Mean loss and accuracy of every seed [2, seed, ...], of the share of each pass."""
    by_seeds = groupby(zip(done, shares, strict=True), lambda pair: pair[0].seeds)
    return torch.cat([torch.stack([x for _, x in of_seeds]).sum(0) for _, of_seeds in by_seeds], dim=1)


def _over_steps(shares: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Shares by step and pass as one tensor [2, seed, step] of each pass."""
    return [torch.stack(of_pass, dim=-1) for of_pass in zip(*shares, strict=True)]
