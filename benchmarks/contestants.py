"""What the benchmark times: our step, a stock loop, and the step's products alone."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.config import CellConfig
from mech_grok.model import GrokTransformer
from mech_grok.parallel import Crew
from mech_grok.sweep.costs.arithmetic import forward_products
from mech_grok.training.data import examples
from mech_grok.training.linear import product, weight_gradient
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.passes import passes, passes_at_once
from mech_grok.training.trainer import Trainer
from mech_grok.training.update import Update

STEPS = 10
FIVE_SEEDS = [456, 789, 111, 222, 333]
Work = Callable[[], object]
"""Ten steps of something."""


def cell(seeds: int = 1, p: int = 113, evaluate_every: int = STEPS, **model: object) -> CellConfig:
    """The paper's cell, or one of another size."""
    return CellConfig.model_validate(
        {
            "task": {"p": p},
            "model": model,
            "training": {"seeds": FIVE_SEEDS[:seeds], "evaluate_every": evaluate_every},
        }
    )


def our_steps(config: CellConfig) -> Work:
    """The project's trainer, with all metrics every step."""
    trainer = Trainer(config, ParameterStack.initial(config))
    return lambda: trainer.advance(STEPS)


def stock_steps(config: CellConfig) -> Work:
    """A stock HookedTransformer at the work of the paper's code: step and test evaluation each time."""
    grok = GrokTransformer(config.model, config.task.p)
    model = HookedTransformer(grok.cfg)
    model.load_state_dict(grok.state_dict(), strict=False)
    trained = [p for n, p in model.named_parameters() if n in grok.trained_parameters()]
    optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    train, test = (
        (torch.cat([e.pairs[0], torch.full((e.pairs.shape[1], 1), config.task.p)], dim=1), e.answers[0])
        for e in (examples(config, "train"), examples(config, "test"))
    )

    def ten_steps() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            F.cross_entropy(model(train[0])[:, -1], train[1]).backward()
            optimiser.step()
            with torch.no_grad():
                F.cross_entropy(model(test[0])[:, -1], test[1])

    return ten_steps


def products_alone(config: CellConfig) -> Work:
    """The products of a training step, forward and backward, with the trainer's own kernels and passes."""
    seeds, n = len(config.training.seeds), config.task.task.n_train
    crew = Crew(passes_at_once(seeds, n, "cpu", torch.get_num_threads()))
    counts = [each.pairs.stop - each.pairs.start for each in passes(seeds, n, "cpu", crew.size)]
    operands = [[_operands(*shape) for shape in forward_products(config, count)] for count in counts]

    def ten_steps() -> None:
        for _ in range(STEPS):
            crew.map(_products, operands)

    return ten_steps


def _operands(n: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(n, inputs), torch.randn(inputs, outputs), torch.randn(n, outputs)


def _products(operands: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    for x, w, gradient in operands:
        product(x, w)
        product(gradient, w.t())
        weight_gradient(x, gradient)


def on_one_thread(make: Callable[[CellConfig], Work], config: CellConfig) -> Work:
    """The same work on one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    work = make(config)
    torch.set_num_threads(n_threads)

    def ten_steps() -> None:
        torch.set_num_threads(1)
        work()
        torch.set_num_threads(n_threads)

    return ten_steps


def norms_alone(config: CellConfig) -> Work:
    """What the norms of gradient, weights and update cost every step, with a copy of the weights."""
    seeds, n = len(config.training.seeds), config.task.task.n_train
    crew = Crew(passes_at_once(seeds, n, "cpu", torch.get_num_threads()))
    stack = ParameterStack.initial(config)
    update, before = Update(stack, config.optimiser, crew), stack.flat.clone()

    def ten_steps() -> None:
        with crew.alone():
            for _ in range(STEPS):
                before.copy_(stack.flat)
                update.norms()

    return ten_steps
