"""How long training takes: as long as like runs took, else by arithmetic and a product that is timed here."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import torch

from mech_grok.config import CellConfig
from mech_grok.config_file import load_cell
from mech_grok.errors import UserError
from mech_grok.sweep.costs.arithmetic import operations, step_work
from mech_grok.training.checkpoints import saved_steps, weights_path
from mech_grok.training.linear import onednn_takes, product, weight_gradient

Shape = Hashable
"""All of a config, and the threads, on which the time of a step depends."""

_TIMING_S = 0.05
_TIMED_PRODUCT = (512, 128, 512)
"""The paper's largest, on fewer pairs: short enough to be done between two turns of another process."""

_SMALL_OPERATIONS_S = (0.5e-3, 0.8e-3)
"""Seconds of a step and seed, and of each of its layers besides, that remain however small the model is."""

_CHECKPOINT_S = 0.03
"""Seconds to write a checkpoint and its rows of metrics."""


def shape_of(config: CellConfig, threads: int) -> Shape:
    """What cells have in common whose steps take equally long."""
    training, follow = config.training, config.training.follow_entropy
    model = config.model.model_dump(exclude={"init", "init_scale", "readout_scale", "attention_factor"})
    return (
        (config.task.p, config.task.test_fraction),
        tuple(model.items()),
        (len(training.seeds), training.evaluate_every, follow and follow.every),
        (training.dtype, training.device, threads),
    )


def recorded_seconds(roots: Iterable[Path], known: Mapping[Path, CellConfig]) -> dict[Shape, float]:
    """Seconds per step of the runs at `<root>/<study>/<cell>`, the median for each shape.

    Args:
        known: run directory -> config, for those that need not be read.
    """
    found: defaultdict[Shape, list[float]] = defaultdict(list)
    for root in roots:
        for shape, seconds in _timed_runs(root, known):
            found[shape].append(seconds)
    return {shape: statistics.median(times) for shape, times in found.items()}


def _timed_runs(root: Path, known: Mapping[Path, CellConfig]) -> Iterator[tuple[Shape, float]]:
    for record in sorted(root.glob("*/*/environment.json")):
        run = record.parent
        try:
            recorded = json.loads(record.read_text(encoding="utf-8"))
            threads, wall = int(recorded["threads"]), float(recorded["wall_seconds"])
            config = known[run] if run in known else load_cell(run / "config.yaml")
            rows = _timed_rows(record, config)
        except (OSError, ValueError, KeyError, TypeError, UserError):
            continue  # not a run, or a damaged one: it says nothing about time
        if rows > 0 and wall > 0:
            yield shape_of(config, threads), wall / rows


def _timed_rows(record: Path, config: CellConfig) -> int:
    """Steps of a run whose time has been written down: none of one that is running or was killed last."""
    folder = record.with_name("checkpoints")
    last = max(saved_steps(folder), default=-1)
    if last < 0 or weights_path(folder, last).stat().st_mtime > record.stat().st_mtime:
        return 0
    return last - config.first_step


def computed_seconds(config: CellConfig, threads: int) -> float:
    """Seconds per step on this machine's CPU while nothing else runs, by arithmetic.

    Solving for attention factors (`training.follow_entropy`) is not counted.
    """
    of_step, of_layer = _SMALL_OPERATIONS_S
    small = of_step + of_layer * config.model.n_layers
    of_seed = step_work(config) / product_rate(config.training.dtype, threads) + small
    return len(config.training.seeds) * of_seed


def training_seconds(config: CellConfig, threads: int, recorded: Mapping[Shape, float]) -> float | None:
    """Seconds of all of a cell's training; None for a GPU on which no such run has been timed yet."""
    steps = config.training.steps - config.first_step
    if (of_step := recorded.get(shape_of(config, threads))) is not None:
        return steps * of_step
    if config.training.device != "cpu":
        return None
    return steps * computed_seconds(config, threads) + len(config.checkpoint_steps) * _CHECKPOINT_S


@cache
def product_rate(dtype: str, threads: int) -> float:
    """Operations a second of the products that training does, on this machine; takes a third of a second.

    The fastest of many, on one thread or on all of them: threads that have to wait for another process would
    make it a hundredth, which says nothing about the machine once it is quiet.
    """
    return max(_rate_now(dtype, n) for n in {1, threads})


def _rate_now(dtype: str, threads: int) -> float:
    n, d, m = _TIMED_PRODUCT
    x, w, g = (torch.ones(a, b, dtype=getattr(torch, dtype)) for a, b in ((n, d), (d, m), (n, m)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fastest = sum(_fastest(done) for done in _products(x, w, g))
    finally:
        torch.set_num_threads(before)
    return 3 * operations([_TIMED_PRODUCT]) / fastest


def _products(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor) -> tuple[Callable[[], object], ...]:
    """Forward and both gradients, as `mech_grok.training.linear` does them."""
    if onednn_takes(x):
        return lambda: product(x, w), lambda: product(g, w.t()), lambda: weight_gradient(x, g)
    return lambda: x @ w, lambda: g @ w.t(), lambda: x.t() @ g


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of as many repetitions as there is time for."""
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _TIMING_S:
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
