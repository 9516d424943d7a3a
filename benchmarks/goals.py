"""The speed goals, measured and printed row by row: `python benchmarks/goals.py` (`make bench`).

Every number is a ratio of times taken in turns in one run, so that a machine that slows down slows all of
them; each is the median over rounds. Writes `benchmarks/results.json`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import kernel
import torch
from contestants import (
    STEPS,
    Work,
    cell,
    norms_alone,
    on_one_thread,
    our_steps,
    products_alone,
    stock_steps,
)

from mech_grok.environment import describe_environment

HERE = Path(__file__).parent
ROUNDS, SHORT_ROUNDS = 7, 31
NEVER = 10**9
ONE_THREAD = {"step": our_steps, "products": products_alone}


@dataclass(frozen=True)
class Row:
    """One line of the table: a measured number and its goal."""

    what: str
    measured: float
    goal: str
    unit: str = "x"

    @property
    def passes(self) -> bool:
        """Whether the number meets its goal, `>= 10` or `<= 1.3`."""
        relation, bound = self.goal.split()
        return self.measured >= float(bound) if relation == ">=" else self.measured <= float(bound)

    def __str__(self) -> str:
        verdict = "pass" if self.passes else "falls short"
        return f"{self.what:<74} {self.measured:8.3g} {self.unit:<4} {self.goal:>8}  {verdict}"


def main() -> None:
    """Print the table and write it down."""
    environment = describe_environment("cpu")
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {environment.get('cpu', '')}",
        flush=True,
    )
    rows = []
    for measure in (
        training_rows,
        share_rows,
        size_rows,
        deep_rows,
        kernel_rows,
        start_rows,
        memory_rows,
    ):
        for row in measure():
            print(row, flush=True)
            rows.append({**asdict(row), "pass": row.passes})
    (HERE / "results.json").write_text(
        json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n"
    )


def training_rows() -> Iterator[Row]:
    """The paper's cell: one layer, width 128, p = 113, no norm, which leaves the least to do."""
    work = {"stock": stock_steps(cell()), "one": our_steps(cell()), "five": our_steps(cell(seeds=5))}
    seconds = seconds_per_step(work)
    yield Row(
        "stock loop tested every step / our step, tested every 10, all metrics",
        seconds["stock"] / seconds["one"],
        ">= 10",
    )
    yield Row("five seeds / one seed", seconds["five"] / seconds["one"], "<= 5.2")


def share_rows() -> Iterator[Row]:
    """The same cell: what else there is in a step that tests nothing."""
    untested = cell(evaluate_every=NEVER)
    work = {
        "step": our_steps(untested),
        "products": products_alone(untested),
        "norms": norms_alone(untested),
    }
    seconds = seconds_per_step(work, SHORT_ROUNDS)
    share = "the step's matrix products alone / the whole step"
    yield Row(share, seconds["products"] / seconds["step"], ">= 0.65")
    yield Row(
        "norms of gradient, weights and update / the whole step",
        100 * seconds["norms"] / seconds["step"],
        "<= 3",
        "%",
    )
    # Not in turn with two threads: a core that was idle is slow for the first 30 ms.
    work = {name: on_one_thread(make, untested) for name, make in ONE_THREAD.items()}
    seconds = seconds_per_step(work, SHORT_ROUNDS)
    yield Row(f"{share}, one thread", seconds["products"] / seconds["step"], ">= 0.65")


def size_rows() -> Iterator[Row]:
    """Time per training pair at larger p, over that at p = 113."""
    seconds = seconds_per_step(
        {str(p): our_steps(cell(p=p, evaluate_every=NEVER)) for p in (113, 257, 509)}, rounds=4
    )
    per_pair = {p: t / cell(p=int(p)).task.task.n_train for p, t in seconds.items()}
    for p in ("257", "509"):
        yield Row(f"time per training pair, p = {p} / p = 113", per_pair[p] / per_pair["113"], "<= 1.3")


def deep_rows() -> Iterator[Row]:
    """Three layers of width 64."""
    config = cell(n_layers=3, d_model=64)
    seconds = seconds_per_step({"stock": stock_steps(config), "ours": our_steps(config)}, rounds=5)
    yield Row("three layers of width 64: stock loop / our step", seconds["stock"] / seconds["ours"], ">= 3")


def kernel_rows() -> Iterator[Row]:
    """The exact tangent kernels against explicit gradients."""
    for output, found in kernel.compare().items():
        yield Row(f"per-example gradients / exact {output} kernel, N = 1,024", found["ratio"], ">= 30")
        difference = found["largest relative difference"]
        yield Row(f"largest relative difference of the {output} kernels, float64", difference, "<= 1e-8", "")


def start_rows() -> Iterator[Row]:
    """How soon help and the package are there."""
    commands = {
        "mech-grok --help": ([sys.executable, "-m", "mech_grok", "--help"], "<= 0.5"),
        "import mech_grok": ([sys.executable, "-c", "import mech_grok"], "<= 0.3"),
    }
    for name, (command, goal) in commands.items():
        yield Row(name, min(seconds_of(command) for _ in range(3)), goal, "s")


def memory_rows() -> Iterator[Row]:
    """Peak memory of a run of five seeds: nothing in it grows with its steps but the rows on disk."""
    # Not getrusage, which counts what this process, its parent, had in memory when it forked.
    code = (
        "import sys; from mech_grok.cli import main; main(sys.argv[1:]);"
        "print('peak', [x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')][0])"
    )
    overrides = ["training.seeds=[456,789,111,222,333]", "training.steps=20", "training.checkpoint_every=10"]
    with tempfile.TemporaryDirectory() as out:
        study = Path(out) / "memory.yaml"
        study.write_text("study: memory\n")
        command = [sys.executable, "-c", code, "train", str(study), *overrides, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout.rpartition("peak ")[2])
    yield Row("peak memory of a five-seed run at p = 113", peak / 2**20, "<= 2", "GiB")


def seconds_per_step(contestants: dict[str, Work], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds per step of each, measured in turn; printed in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name, ten_steps in contestants.items():
            start = time.perf_counter()
            ten_steps()
            if round_number:  # the first round warms up
                times[name].append((time.perf_counter() - start) / STEPS)
    medians = {name: statistics.median(t) for name, t in times.items()}
    print(", ".join(f"{name} {1e3 * t:.2f} ms" for name, t in medians.items()), flush=True)
    return medians


def seconds_of(command: list[str]) -> float:
    """Wall time of a process."""
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
