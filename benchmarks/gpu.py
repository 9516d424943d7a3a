"""Training on a GPU, row by row: `python benchmarks/gpu.py`; writes `benchmarks/gpu.json`.

The paper's cell without norms: p = 113, tested every ten steps, all metrics every step. Some minutes.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from contestants import Work, cell, our_steps
from goals import Row, seconds_per_step

from mech_grok.config import CellConfig
from mech_grok.environment import describe_environment
from mech_grok.train_stage import repeatable_on_gpu
from mech_grok.training import trainer as training
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import Trainer

STACKS = (1, 5, 25, 125)
STEPS_COMPARED, STEPS_OF_A_RUN = 300, 10_000


def main() -> None:
    """Print the rows and write them down."""
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here")
    repeatable_on_gpu()
    environment = describe_environment("cuda")
    print(f"torch {torch.__version__}, {environment['device']}", flush=True)
    rows = [*step_rows("cuda"), same_bits("cuda"), whole_run("cuda")]
    content = {"environment": environment, "rows": rows}
    (Path(__file__).parent / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")


def stack(n_seeds: int, device: str) -> CellConfig:
    """The cell with so many seeds in one stack."""
    config = cell().model_dump()
    config["training"] |= {"seeds": list(range(1, n_seeds + 1)), "device": device}
    return CellConfig.model_validate(config)


def step_rows(device: str) -> Iterator[dict[str, object]]:
    """Milliseconds of a step of ever more seeds, and what the recording of a step gains."""
    stacks = {f"{n} seeds": our_steps(stack(n, device)) for n in STACKS}
    seconds = seconds_per_step({**stacks, "1 seed, kernel by kernel": _kernel_by_kernel(stack(1, device))})
    for name, each in seconds.items():
        yield _shown({"what": f"step, {name}", "ms": 1e3 * each})
    one, five, many = (seconds[f"{n} seeds"] for n in (1, 5, 25))
    for row in (
        Row("five seeds / one seed", five / one, "<= 3"),
        Row("seed-steps per second, 25 seeds / one seed", 25 * one / many, ">= 2"),
    ):
        yield _shown({"what": row.what, "ratio": row.measured, "goal": row.goal, "pass": row.passes})


def _kernel_by_kernel(config: CellConfig) -> Work:
    with mock.patch.object(training, "captured", lambda work, _: work):
        return our_steps(config)


def same_bits(device: str) -> dict[str, object]:
    """Whether five seeds trained twice are the same to the last bit."""
    ends = []
    for _ in range(2):
        config = stack(5, device)
        trainer = Trainer(config, ParameterStack.initial(config))
        trainer.advance(STEPS_COMPARED)
        ends.append(trainer.parameters.flat)
    same = torch.equal(*ends)
    return _shown({"what": f"two times {STEPS_COMPARED} steps, bit for bit the same", "pass": same})


def whole_run(device: str) -> dict[str, object]:
    """Five seeds for the paper's 10,000 steps, without probes and files."""
    config = stack(5, device)
    trainer = Trainer(config, ParameterStack.initial(config))
    begun = time.monotonic()
    while trainer.step < STEPS_OF_A_RUN:
        rows = trainer.advance(100)
    accuracy = rows["test_accuracy"][:, -1].tolist()
    seconds = time.monotonic() - begun
    what = f"five seeds, {STEPS_OF_A_RUN:,} steps"
    return _shown({"what": what, "s": seconds, "test accuracy at the end": accuracy})


def _shown(row: dict[str, object]) -> dict[str, object]:
    print(", ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
