"""What each probe costs, beyond the forward pass that all share: `python benchmarks/probes.py`.

One trained-size model (p = 113, one layer, width 128), one thread; then all probes over two checkpoints at
once on two threads, as the probe stage does it.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.placement import Placement
from mech_grok.probes import PROBES, Anchor, Anchors, measure
from mech_grok.probes.fast_products import FastProducts
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import observe
from mech_grok.task import Task

P = 113
REPEATS = 3


def main() -> None:
    """Print one line per probe and the total, for two placements."""
    torch.set_num_threads(1)
    with torch.no_grad(), FastProducts():
        report()


def report() -> None:
    """The lines of each placement."""
    for placement in ("off", "pre"):
        print(f"{placement}: seconds per checkpoint and seed")
        seconds = per_probe(placement)
        for name, cost in seconds.items():
            print(f"  {name:<18} {cost:.3f}")
        alone, together = everything(placement)
        print(f"  all of them        {alone:.3f}   (two at once on two threads: {together:.3f} each)")


def per_probe(placement: str) -> dict[str, float]:
    """Seconds of each probe in turn on one observation; what two of them share counts for the first."""
    model, task, split, anchors = setting(placement)
    needs = needs_of(list(PROBES.values()), model)
    times: dict[str, list[float]] = {"shared pass": [], **{name: [] for name in PROBES}}
    for _ in range(REPEATS):
        start = time.perf_counter()
        seen = observe(model, task, split, needs, anchors)
        times["shared pass"].append(time.perf_counter() - start)
        for name, probe in PROBES.items():
            times[name].append(timed(partial(probe.compute, seen)))
    return {name: min(of_probe) for name, of_probe in times.items()}


def everything(placement: str) -> tuple[float, float]:
    """Seconds of all probes at one checkpoint: one at a time, and two at once."""
    settings = [setting(placement) for _ in range(2)]

    def all_probes(model, task, split, anchors) -> None:
        measure(model, task, split, list(PROBES), anchors)

    alone = fastest(lambda: all_probes(*settings[0]))
    with ThreadPoolExecutor(2) as pool:
        together = fastest(lambda: list(pool.map(lambda s: all_probes(*s), settings)))
    return alone, together / 2


def setting(placement: str) -> tuple:
    """A model with clock-like key frequencies given, its task and split, and an initial model."""
    model, initial = (
        GrokTransformer(ModelConfig(placement=Placement.parse(placement)), P, s) for s in (0, 1)
    )
    task = Task("add", P, 0.7)
    split = task.split_indices(0)
    needs = needs_of(list(PROBES.values()), initial)
    anchor = Anchor(lambda: observe(initial, task, split, needs))
    return model, task, split, Anchors(initial=anchor, key_frequencies=(14, 35, 41, 42, 52))


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs, after one to warm up."""
    work()
    return min(timed(work) for _ in range(REPEATS))


def timed(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
