"""Which seeds and which pairs share a forward pass, and how many passes are worked on at once."""

from typing import NamedTuple

from mech_grok.config import ModelConfig

_MOST_PAIRS = 8192
"""Of one pass on a CPU: its cache then holds what they need."""

_LEAST_PAIRS = 1024
"""Fewer are not worth a pass of their own, nor a thread: what is done once a pass takes longer."""

_EACH_PASS = 400
"""What a pass costs before its first pair, in pairs: 2.2 ms, where one of p = 113 takes 5.6 microseconds."""


class Pass(NamedTuple):
    """One forward pass: of which seeds, by their place in the stack, and of which of their pairs."""

    seeds: slice
    pairs: slice


def seed_groups(n_seeds: int, device: str) -> list[slice]:
    """Seeds that share a pass: all of them on a GPU, one by one on a CPU.

    On a CPU one batched matrix product over seeds is slower than one product per seed.
    """
    if device == "cpu":
        return [slice(i, i + 1) for i in range(n_seeds)]
    return [slice(0, n_seeds)]


def passes(n_seeds: int, n_pairs: int, device: str, at_once: int = 1) -> list[Pass]:
    """The passes over `n_pairs` pairs of every seed, seed by seed.

    On a CPU a seed's pairs are split where the cache asks for it, and where it lets all of the passes that
    are worked on at once end sooner.
    """
    groups = seed_groups(n_seeds, device)
    size = n_pairs if device != "cpu" else -(-n_pairs // _passes_per_seed(n_seeds, n_pairs, at_once))
    return [
        Pass(seeds, slice(start, min(start + size, n_pairs)))
        for seeds in groups
        for start in range(0, n_pairs, size)
    ]


def passes_at_once(n_seeds: int, n_pairs: int, device: str, n_threads: int) -> int:
    """How many passes to work on at once, each on one thread; 1 where all threads share one pass."""
    if device != "cpu" or n_pairs < _LEAST_PAIRS:
        return 1
    return min(n_threads, len(passes(n_seeds, n_pairs, device, n_threads)))


def needs_more_than_a_heap(model: ModelConfig, each: Pass) -> bool:
    """Whether what a pass computes, some eight times the neurons of all layers, outgrows a thread's 64 MiB.

    glibc then asks the system for memory, and gives it back, in every pass.
    """
    positions = 3 * model.n_layers if model.n_layers > 1 else 1
    neurons = (each.pairs.stop - each.pairs.start) * positions * model.d_mlp
    return 4 * neurons > 2**26 // 8


def _passes_per_seed(n_seeds: int, n_pairs: int, at_once: int) -> int:
    fewest = -(-n_pairs // _MOST_PAIRS)
    most = max(fewest, min(n_pairs // _LEAST_PAIRS, fewest + at_once - 1))

    def time_until_done(k: int) -> float:
        one_after_another = -(-n_seeds * k // at_once)
        return one_after_another * (n_pairs / k + _EACH_PASS)

    return min(range(fewest, most + 1), key=time_until_done)
