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
from mech_grok.parallel import Crew
from mech_grok.training.data import Examples, examples
from mech_grok.training.entropy_curve import EntropyCurve
from mech_grok.training.follow_entropy import SolvedFactors, follow, solution_steps
from mech_grok.training.forward import fast_logits
from mech_grok.training.loss import Outcome, Score, correct, cross_entropy, mean_score, outcome
from mech_grok.training.parameters import ParameterStack, flattened
from mech_grok.training.passes import Pass, passes, passes_at_once, seed_groups

TRAIN_COLUMNS = ("train_loss", "train_accuracy", "grad_norm", "weight_norm", "update_norm")
TEST_COLUMNS = ("test_loss", "test_accuracy")
COLUMNS = TRAIN_COLUMNS + TEST_COLUMNS
GROUP_COLUMNS = ("group_grad_norm", "group_weight_norm", "group_update_norm")

Rows = dict[str, np.ndarray]
"""Column -> [seed, step] float64, of `GROUP_COLUMNS` [seed, step, group]; NaN where not evaluated."""


class _Measured(NamedTuple):
    """What one update measures, where it was computed."""

    trained: Score
    norms: Tensor
    """[gradient, weight or update, seed, group]"""
    tested: Score | None


class Trainer:
    """Trains the parameters of a cell; `step` is the number of updates done."""

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
        self._curve, self._solution_steps = curve, frozenset(solution_steps(config))
        self._solved: list[SolvedFactors] = []
        if not solved:
            self._follow_entropy()
        self._offsets = (
            _predictions(config, initial or parameters, self._train, self._test)
            if config.training.subtract_initial_prediction
            else (None, None)
        )
        o = config.optimiser
        self._weights = torch.nn.Parameter(parameters.flat)
        self._weights.grad = parameters.grad
        self._adamw = torch.optim.AdamW(
            [self._weights],
            lr=o.lr,
            weight_decay=o.weight_decay,
            betas=(o.beta1, o.beta2),
            eps=o.eps,
            fused=True,
        )

    def advance(self, n_steps: int, stop: Callable[[], bool] = lambda: False) -> Rows:
        """Do up to `n_steps` updates, fewer once `stop()` is true; one column of rows per update done."""
        done: list[_Measured] = []
        with self._crew.alone():
            while len(done) < n_steps and not (done and stop()):
                done.append(self._update())
            return _rows(done)

    def _update(self) -> _Measured:
        trained = self._gradients()
        self.parameters.remember()
        self._adamw.step()
        self.step += 1
        self._follow_entropy()
        norms = self.parameters.update_norms()
        evaluated = self.config.training.is_evaluated(self.step)
        tested = self.evaluate(self._test, self._offsets[1]) if evaluated else None
        return _Measured(trained, norms, tested)

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

    def _gradients(self) -> Score:
        """Loss and accuracy on the train set; leaves the gradients in `parameters.grad`."""
        self.parameters.grad.zero_()
        todo, measured = self._passes(self._train), []
        for each, (found, gradients) in zip(todo, self._crew.map(self._train_pass, todo), strict=True):
            self.parameters.add_gradients(each.seeds, gradients)
            measured.append((found.losses, found.correct))
        return _joined(todo, measured)

    def _train_pass(self, each: Pass) -> tuple[Outcome, Tensor]:
        """What one pass over pairs of the train set gives: losses, and gradients of the mean loss in rows."""
        n, leaves = self._train.answers.shape[1], self.parameters.leaves(each.seeds)
        logits = self._logits(leaves, each, self._train, self._offsets[0])
        answers = self._train.answers[each.seeds, each.pairs]
        found = outcome(logits.detach(), answers, self.config.model.loss_scale, weight=1 / n)
        return found, flattened(torch.autograd.grad(logits, list(leaves.values()), found.gradient))

    def evaluate(self, data: Examples, offset: Tensor | None = None) -> Score:
        """Loss and accuracy of every seed on its own examples."""
        todo = self._passes(data)
        return _joined(todo, list(self._crew.map(lambda each: self._test_pass(each, data, offset), todo)))

    @torch.no_grad()  # which holds for the thread that it is called in
    def _test_pass(self, each: Pass, data: Examples, offset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Losses of one pass, and whether its answers are right."""
        logits = self._logits(self.parameters.leaves(each.seeds), each, data, offset)
        answers = data.answers[each.seeds, each.pairs]
        return cross_entropy(logits, answers, self.config.model.loss_scale), correct(logits, answers)

    def _passes(self, data: Examples) -> list[Pass]:
        seeds, n = data.answers.shape
        return passes(seeds, n, self.parameters.flat.device.type, self._crew.size)

    def _logits(self, leaves: dict[str, Tensor], each: Pass, data: Examples, offset: Tensor | None) -> Tensor:
        parameters = {**leaves, **self.parameters.frozen_rows(each.seeds)}
        logits = fast_logits(parameters, data.pairs[each.seeds, each.pairs], self.config.model)
        return logits if offset is None else logits - offset[each.seeds, each.pairs]

    def optimiser_state(self) -> dict[str, Tensor]:
        """The AdamW moments [seed, n] and update count, as needed to continue bit for bit."""
        state = self._adamw.state[self._weights]
        return {name: state[name] for name in ("exp_avg", "exp_avg_sq", "step")} if state else {}

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        """Continue from the state that `optimiser_state` gave; an empty one is that of step 0."""
        if state:
            self._adamw.state[self._weights] = {n: t.to(self._weights.device) for n, t in state.items()}


@torch.no_grad()
def _predictions(
    config: CellConfig, stack: ParameterStack, train: Examples, test: Examples
) -> tuple[Tensor, Tensor]:
    """Logits of every seed on its own train and test pairs."""
    parameters = {**stack.named(), **stack.frozen}
    on_train, on_test = (fast_logits(parameters, data.pairs, config.model) for data in (train, test))
    return on_train, on_test


def _joined(done: Sequence[Pass], measured: Sequence[tuple[Tensor, Tensor]]) -> Score:
    """Mean loss and accuracy of every seed, of the losses and correctness that each pass measured."""
    by_seeds = groupby(zip(done, measured, strict=True), lambda pair: pair[0].seeds)
    scores = [mean_score([found for _, found in of_seeds]) for _, of_seeds in by_seeds]
    return Score(torch.cat([s.loss for s in scores]), torch.cat([s.accuracy for s in scores]))


def _rows(done: Sequence[_Measured]) -> Rows:
    """The rows of updates, brought to the host in one go: step by step, a GPU would have to be waited for."""
    never = torch.full_like(done[0].trained.loss, torch.nan)
    not_evaluated = Score(never, never)
    group_norms = torch.stack([each.norms for each in done], dim=2)
    norms = group_norms.norm(dim=-1)
    trained, tested = (
        [torch.stack(values, dim=1) for values in zip(*scores, strict=True)]
        for scores in ([each.trained for each in done], [each.tested or not_evaluated for each in done])
    )
    columns = (*trained, *norms, *tested, *group_norms)
    named = zip((*COLUMNS, *GROUP_COLUMNS), columns, strict=True)
    return {name: column.double().cpu().numpy() for name, column in named}
