"""Made-up values of the probes that the report shows as maps, in the shapes that real ones record."""

import numpy as np
import xarray as xr
from fake_runs import FakeRun, Maker, fake_run

P = 11
KEYS = {456: [2, 4], 789: [4, 5]}
RNG = np.random.default_rng(0)


def with_maps(
    run: FakeRun, p: int = P, *, keys: dict[int, list[int]] = KEYS, circles: bool = True
) -> FakeRun:
    seeds = tuple(int(s) for s in run.metrics["seed"].values)
    steps = run.probes["fourier"]["step"].values
    maker = Maker("", seeds, int(steps[-1]), int(steps[1] - steps[0]), 500, p)
    run.probes = {
        **{name: data for name, data in run.probes.items() if name != "fourier"},
        "fourier": maker.fourier(),
        "attention_map": attention_map(maker, p),
        "key_frequencies": key_frequencies(maker, p, keys),
        "neurons": neurons(maker, p),
        "fourier2d": fourier2d(maker, p),
        "embedding_circles": embedding_circles(maker, p, keys if circles else {}),
    }
    return run


def over_time(maker: Maker, values: np.ndarray) -> np.ndarray:
    """[seed, step, ...]: the same values for all, times a factor of their own."""
    shape = (len(maker.seeds), len(maker.checkpoints))
    factor = 1 - 0.5 * np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)
    return factor.reshape(*shape, *[1] * values.ndim) * values


def attention_map(maker: Maker, p: int) -> xr.Dataset:
    on_a = over_time(maker, 0.8 * RNG.random((1, 4, p, p)))
    on_b = 0.5 * (1 - on_a)
    weights = np.stack([on_a, on_b, 1 - on_a - on_b], axis=4)
    coords = {"layer": [0], "head": range(4), "key": ["a", "b", "="], "a": range(p), "b": range(p)}
    return maker.dataset(coords, attention_map=(("layer", "head", "key", "a", "b"), weights))


def key_frequencies(maker: Maker, p: int, keys: dict[int, list[int]]) -> xr.Dataset:
    mask = np.zeros((len(maker.seeds), len(maker.checkpoints), p // 2 + 1))
    for row, seed in enumerate(maker.seeds):
        mask[row, :, keys.get(seed, [])] = 1
    return maker.dataset({"frequency": range(p // 2 + 1)}, key_frequency_frozen=(("frequency",), mask))


def neurons(maker: Maker, p: int) -> xr.Dataset:
    sizes = over_time(maker, np.arange(2 * (p // 2 + 1)).reshape(2, -1))
    coords = {"layer": [0, 1], "frequency": range(p // 2 + 1)}
    return maker.dataset(coords, neuron_cluster_size=(("layer", "frequency"), sizes))


def fourier2d(maker: Maker, p: int) -> xr.Dataset:
    n = p // 2 + 1
    maps = ("frequency_a", "frequency_b")
    of_pair = {
        "frequency_a": range(n),
        "frequency_b": range(n),
        "layer": [0],
        "head": range(4),
        "key": list("ab="),
    }
    return maker.dataset(
        of_pair,
        logit_fourier=(maps, over_time(maker, RNG.random((n, n)))),
        neuron_fourier=(("layer", *maps), over_time(maker, RNG.random((1, n, n)))),
        attention_fourier=(("layer", "head", "key", *maps), over_time(maker, RNG.random((1, 4, 3, n, n)))),
    )


def embedding_circles(maker: Maker, p: int, keys: dict[int, list[int]]) -> xr.Dataset:
    shape = (len(maker.seeds), len(maker.checkpoints), 4)
    points, frequency = np.full((*shape, 2, p), np.nan), np.full(shape, np.nan)
    for row, seed in enumerate(maker.seeds):
        for i, k in enumerate(keys.get(seed, [])):
            angle = 2 * np.pi * k * np.arange(p) / p
            points[row, :, i] = 3 * np.stack([np.cos(angle), np.sin(angle)])
            frequency[row, :, i] = k
    return maker.dataset(
        {"circle": range(4), "circle_axis": ["cos", "sin"], "number": range(p)},
        embedding_circle=(("circle", "circle_axis", "number"), points),
        embedding_circle_frequency=(("circle",), frequency),
        embedding_circle_share=(("circle",), np.where(np.isnan(frequency), np.nan, 0.875)),
    )


def map_runs() -> list[FakeRun]:
    """Two runs with maps; the second has no key frequencies, and so no circles."""
    long = with_maps(fake_run("mlp-pre", "mlp", late=600, steps=3000))
    return [long, with_maps(fake_run("off", "", late=9000, steps=3000), keys={}, circles=False)]
