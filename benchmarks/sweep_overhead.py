"""What a cell of a sweep costs beyond its training: `python benchmarks/sweep_overhead.py local` (or `ray`).

Sweeps a study of small cells (p = 23, training alone, one thread each) and reads from `environment.json` when
each training began and ended. A worker's pause between two cells is the overhead of a cell: the end of one
process, the scheduler's look, the start of the next, the claim on the cell, the layout of its arrays. What
comes before the first training and after the last one is paid once, however many cells there are.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STUDY = """
study: overhead
task: {p: 23}
model: {d_model: 32}
training: {seeds: [456], checkpoint_every: 100}
stages: [train]
"""


@dataclass(frozen=True)
class Training:
    """When a cell was trained, in seconds since the epoch."""

    began: float
    ended: float


def main() -> None:
    """Run one sweep and print where its time went."""
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        run_sweep(Path(folder), arguments)
        ended = time.time()
        trainings = [training(path) for path in Path(folder).glob("overhead/*/environment.json")]
    assert len(trainings) == arguments.cells
    print("\n".join(lines(arguments.engine, arguments.workers, began, trainings, ended)))


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=("local", "ray"))
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="for Ray: the cores of its nodes")
    parser.add_argument("--steps", type=int, default=400, help="of each cell")
    arguments = parser.parse_args()
    if arguments.cells <= arguments.workers:
        parser.error("a pause needs more cells than workers")
    return arguments


def run_sweep(folder: Path, arguments: argparse.Namespace) -> None:
    """`mech-grok sweep` over as many cells, which differ in the learning rate only."""
    study = folder / "overhead.yaml"
    rates = [1e-4 * (i + 1) for i in range(arguments.cells)]
    study.write_text(STUDY + f"grid: {{optimiser.lr: {rates}}}\n")
    command = [sys.executable, "-m", "mech_grok", "sweep", str(study), f"training.steps={arguments.steps}"]
    command += ["--out", str(folder), "--engine", arguments.engine, "--cpus", "1"]
    command += ["--workers", str(arguments.workers)] if arguments.engine == "local" else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def training(environment: Path) -> Training:
    """When a cell was trained: the file is written as its training ends."""
    ended = environment.stat().st_mtime
    return Training(ended - json.loads(environment.read_text())["wall_seconds"], ended)


def lines(engine: str, workers: int, began: float, trainings: list[Training], ended: float) -> list[str]:
    """Where the time of a sweep went; its process ran from `began` to `ended`."""
    begins = sorted(t.began for t in trainings)
    ends = sorted(t.ended for t in trainings)
    seconds = [t.ended - t.began for t in trainings]
    pauses = [begin - end for begin, end in zip(begins[workers:], ends[:-workers], strict=True)]
    mean, most = statistics.mean(pauses), max(pauses)
    others = (workers * (ended - began) - sum(seconds)) / len(trainings)
    return [
        f"{engine}: {len(trainings)} cells on {workers} workers, {ended - began:.1f} s in all",
        f"  before the first training       {begins[0] - began:7.2f} s",
        f"  training of a cell              {statistics.median(seconds):7.2f} s (median)",
        f"  overhead of a cell              {mean:7.2f} s (mean; at most {most:.2f})",
        f"  after the last training         {ended - ends[-1]:7.2f} s, most of it the report",
        f"  all but training, per cell      {others:7.2f} s of a worker's time, start and end included",
    ]


if __name__ == "__main__":
    main()
