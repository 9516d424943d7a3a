"""Time of a training step, as ratios measured in one run.

    python benchmarks/training_step.py

Rounds of the contestants alternate, so that a machine that slows down slows all of them; each number is the
median over rounds. The work is the paper's: p = 113, 3,831 training pairs, one layer, width 128.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformer_lens import HookedTransformer

from mech_grok.config import CellConfig
from mech_grok.model import GrokTransformer
from mech_grok.training.data import examples
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import Trainer

ROUNDS, STEPS = 5, 10


def cell(seeds: list[int], placement: str = "off") -> CellConfig:
    """The paper's cell, tested every 10 steps."""
    return CellConfig.model_validate({"model": {"placement": placement}, "training": {"seeds": seeds}})


def table_trainer(config: CellConfig) -> Callable[[], object]:
    """Ten steps of the project's trainer: all metrics every step, one test evaluation."""
    trainer = Trainer(config, ParameterStack.initial(config))
    return lambda: trainer.advance(STEPS)


def stock_loop(config: CellConfig, test_every: int) -> Callable[[], object]:
    """Ten steps of a stock HookedTransformer, tested every so often (the paper's code: every step)."""
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
        for step in range(1, STEPS + 1):
            optimiser.zero_grad()
            F.cross_entropy(model(train[0])[:, -1], train[1]).backward()
            optimiser.step()
            if step % test_every == 0:
                with torch.no_grad():
                    F.cross_entropy(model(test[0])[:, -1], test[1])

    return ten_steps


def matrix_products(config: CellConfig) -> Callable[[], object]:
    """Ten times the matrix products of a training step, forward and backward, and nothing else."""
    n, rows = config.task.task.n_train, 2 * config.task.p + 1
    d, m, c = config.model.d_model, config.model.d_mlp, config.task.p + 1
    shapes = [(rows, d, d)] * 2 + [(n, d, d), (n, d, m), (n, m, d), (n, d, c)]
    operands = [(torch.randn(a, b), torch.randn(b, o), torch.randn(a, o)) for a, b, o in shapes]

    def ten_steps() -> None:
        for _ in range(STEPS):
            for x, w, gradient in operands:
                x @ w
                gradient @ w.T
                x.T @ gradient

    return ten_steps


def seconds_per_step(contestants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds per step of each, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(ROUNDS + 1):
        for name, ten_steps in contestants.items():
            start = time.perf_counter()
            ten_steps()
            if round_number:  # the first round warms up
                times[name].append((time.perf_counter() - start) / STEPS)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    """Print the table."""
    seconds = seconds_per_step(
        {
            "one seed, No LN": table_trainer(cell([456])),
            "one seed, M": table_trainer(cell([456], "M")),
            "one seed, M+A*": table_trainer(cell([456], "M+A*")),
            "five seeds, No LN": table_trainer(cell([456, 789, 111, 222, 333])),
            "stock loop, tested every step": stock_loop(cell([456]), test_every=1),
            "stock loop, tested every 10": stock_loop(cell([456]), test_every=10),
            "matrix products alone": matrix_products(cell([456])),
        }
    )
    ours = seconds["one seed, No LN"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, t in seconds.items():
        print(f"{name:30} {1e3 * t:8.1f} ms/step  {t / ours:6.2f} x one seed, No LN")
    print(f"matrix products' share of a step: {seconds['matrix products alone'] / ours:.2f}")


if __name__ == "__main__":
    main()
