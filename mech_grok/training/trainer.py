"""Full-batch AdamW on all seeds of a cell at once.

Row t of the metrics holds train loss and accuracy, gradient and weight norm of the parameters before
update t, the norm of update t, and test loss and accuracy after it; norms also by part of the model.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mech_grok.config import CellConfig
from mech_grok.training.data import Examples, examples
from mech_grok.training.entropy_curve import EntropyCurve
from mech_grok.training.follow_entropy import SolvedFactors, follow, solution_steps
from mech_grok.training.forward import fast_logits
from mech_grok.training.loss import Score, correct, cross_entropy, mean_score, outcome
from mech_grok.training.parameters import ParameterStack

TRAIN_COLUMNS = ("train_loss", "train_accuracy", "grad_norm", "weight_norm", "update_norm")
TEST_COLUMNS = ("test_loss", "test_accuracy")
COLUMNS = TRAIN_COLUMNS + TEST_COLUMNS
GROUP_COLUMNS = ("group_grad_norm", "group_weight_norm", "group_update_norm")

_PAIRS_PER_PASS = 8192

Rows = dict[str, np.ndarray]
"""Column -> [seed, step] float64, of `GROUP_COLUMNS` [seed, step, group]; NaN where not evaluated."""


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
        rows = []
        while len(rows) < n_steps and not (rows and stop()):
            rows.append(self._update())
        return {name: np.stack([row[name] for row in rows], axis=1) for name in (*COLUMNS, *GROUP_COLUMNS)}

    def _update(self) -> Rows:
        trained = self._gradients()
        before = self.parameters.flat.clone()
        norms = {"grad": self.parameters.group_norms(self.parameters.grad)}
        norms["weight"] = self.parameters.group_norms(before)
        self._adamw.step()
        self.step += 1
        self._follow_entropy()
        norms["update"] = self.parameters.group_norms(before.sub_(self.parameters.flat))
        row = {"train_loss": trained.loss, "train_accuracy": trained.accuracy}
        row |= {f"{of}_norm": by_group.norm(dim=1) for of, by_group in norms.items()}
        row |= {f"group_{of}_norm": by_group for of, by_group in norms.items()}
        evaluated = self.config.training.is_evaluated(self.step)
        tested = self.evaluate(self._test, self._offsets[1]) if evaluated else _not_evaluated(trained)
        row |= {"test_loss": tested.loss, "test_accuracy": tested.accuracy}
        return {name: value.double().cpu().numpy() for name, value in row.items()}

    def _follow_entropy(self) -> None:
        """Solve the attention factors, if there is a curve to follow and it is time to."""
        if self._curve is not None and self.step in self._solution_steps:
            stack, groups = self.parameters, self._seed_groups()
            solved = follow(self._curve, stack, groups, self._train.pairs, self.config, self.step)
            self._solved.append(solved)

    def take_solved(self) -> list[SolvedFactors]:
        """The attention factors solved since the last call, for the record."""
        solved, self._solved = self._solved, []
        return solved

    def _gradients(self) -> Score:
        """Loss and accuracy on the train set; leaves the gradients in `parameters.grad`."""
        self.parameters.grad.zero_()
        n, loss_scale = self._train.answers.shape[1], self.config.model.loss_scale
        scores = []
        for rows in self._seed_groups():
            parts = []
            for part in self._parts(n):
                leaves = self.parameters.leaves(rows)
                logits = self._logits(leaves, rows, part, self._train, self._offsets[0])
                found = outcome(logits.detach(), self._train.answers[rows, part], loss_scale, weight=1 / n)
                gradients = torch.autograd.grad(logits, list(leaves.values()), found.gradient)
                self.parameters.add_gradients(rows, gradients)
                parts.append((found.losses, found.correct))
            scores.append(mean_score(parts))
        return _join(scores)

    @torch.no_grad()
    def evaluate(self, data: Examples, offset: Tensor | None = None) -> Score:
        """Loss and accuracy of every seed on its own examples."""
        scores = []
        for rows in self._seed_groups():
            leaves, parts = self.parameters.leaves(rows), []
            for part in self._parts(data.answers.shape[1]):
                logits, answers = self._logits(leaves, rows, part, data, offset), data.answers[rows, part]
                losses = cross_entropy(logits, answers, self.config.model.loss_scale)
                parts.append((losses, correct(logits, answers)))
            scores.append(mean_score(parts))
        return _join(scores)

    def _parts(self, n: int) -> list[slice]:
        """Ranges of pairs that share a pass: on a CPU few enough that its cache holds what they need."""
        size = _PAIRS_PER_PASS if self.parameters.flat.device.type == "cpu" else n
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _seed_groups(self) -> list[slice]:
        """Seeds that share a forward pass: all of them on a GPU, one by one on a CPU.

        On two CPU cores one batched matrix product over the seeds is slower than one product per seed.
        """
        n = len(self.parameters.flat)
        if self.parameters.flat.device.type == "cpu":
            return [slice(i, i + 1) for i in range(n)]
        return [slice(0, n)]

    def _logits(
        self, leaves: dict[str, Tensor], rows: slice, part: slice, data: Examples, offset: Tensor | None
    ) -> Tensor:
        parameters = {**leaves, **self.parameters.frozen_rows(rows)}
        logits = fast_logits(parameters, data.pairs[rows, part], self.config.model)
        return logits if offset is None else logits - offset[rows, part]

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


def _join(scores: list[Score]) -> Score:
    return Score(torch.cat([s.loss for s in scores]), torch.cat([s.accuracy for s in scores]))


def _not_evaluated(like: Score) -> Score:
    nan = torch.full_like(like.loss, torch.nan)
    return Score(nan, nan)
