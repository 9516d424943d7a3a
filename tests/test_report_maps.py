"""The report's maps, one byte a number: attention, and frequencies of a and b; circles, key frequencies."""

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from fake_runs import FakeRun, Maker, fake_run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mech_grok.probes.fourier2d import fourier_map
from mech_grok.report import attention_maps, study_report
from mech_grok.report.attention_maps import (
    compute_attention_maps,
    draw_attention_maps,
    table_of_attention_maps,
    variance_shares,
)
from mech_grok.report.attention_section import attention
from mech_grok.report.by_frequency import (
    Scale,
    compute_clusters,
    compute_spectrum,
    draw_bars,
    draw_history,
    table_of_frequencies,
)
from mech_grok.report.byte_arrays import MISSING, byte_array, decode, encode, rounding_note
from mech_grok.report.cells import identify
from mech_grok.report.circles import compute_circles, draw_circles, label, table_of_circles
from mech_grok.report.fourier_maps import (
    LEAST,
    compute_fourier_maps,
    draw_fourier_map,
    log_shares,
    table_of_fourier_maps,
)
from mech_grok.report.fourier_section import fourier
from mech_grok.report.key_marks import add_marks, compute_key_frequencies
from mech_grok.report.snapshots import MOST, chosen_seed, snapshots, spread, training_position

P = 11
KEYS = {456: [2, 4], 789: [4, 5]}
RNG = np.random.default_rng(0)


# ---- runs with the probes that these figures show -------------------------------------------------------


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


@pytest.fixture(scope="module")
def runs() -> list[FakeRun]:
    long = with_maps(fake_run("mlp-pre", "mlp", late=600, steps=3000))
    return [long, with_maps(fake_run("off", "", late=9000, steps=3000), keys={}, circles=False)]


# ---- one byte a number ----------------------------------------------------------------------------------


def test_codes_by_hand() -> None:
    maps = np.array([[[-1.0, 0.0, 3.0], [np.nan, 1.0, np.inf]], [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]])
    encoded = encode(maps)
    assert encoded.codes[0].tolist() == [[0, 64, 254], [MISSING, 127, MISSING]]  # 63.5 and 127 of 254
    assert (encoded.low.tolist(), encoded.high.tolist()) == ([-1, 2], [3, 2])
    assert decode(encoded)[1].tolist() == maps[1].tolist()
    nothing = encode(np.full((1, 2, 2), np.nan))
    assert np.isnan(decode(nothing)).all()
    assert nothing.low == nothing.high == 0


@settings(deadline=None, max_examples=50)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.just(np.nan)),
    )
)
def test_what_is_decoded_is_rounded_to_half_a_step(values: np.ndarray) -> None:
    encoded = encode(values)
    decoded = decode(encoded)
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(values))
    step = (encoded.high.astype(float) - encoded.low)[:, None, None] / 254
    allowed = 0.5 * step + 1e-6 * np.abs(values).max(initial=1, where=np.isfinite(values))
    assert (np.abs(decoded - values) <= allowed)[np.isfinite(values)].all()
    for i, one in enumerate(values):  # the ends of each map's range are exact
        if np.isfinite(one).any():
            assert (encoded.low[i], encoded.high[i]) == (np.nanmin(one), np.nanmax(one))


# ---- which seed, which checkpoints ----------------------------------------------------------------------


def test_evenly_placed_checkpoints_stay_evenly_spread() -> None:
    assert spread(np.arange(51.0), MOST) == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 50]
    assert spread(np.arange(4.0), MOST) == [0, 1, 2, 3]
    assert spread(np.arange(9.0), 2) == [0, 8]
    assert spread(np.arange(9.0), 1) == [8]
    assert spread(np.arange(9.0), 0) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=60), st.integers(2, MOST))
def test_no_kept_checkpoint_would_leave_a_smaller_gap_than_one_left(gaps: list[float], most: int) -> None:
    position = np.cumsum(gaps)
    kept = spread(position, most)
    assert kept == sorted(set(kept))
    assert len(kept) == min(most, len(position))
    assert (kept[0], kept[-1]) == (0, len(position) - 1)
    at = position[kept]
    left = np.diff(at)[np.diff(kept) > 1]
    if left.size and len(kept) > 2:
        assert left.max() <= (at[2:] - at[:-2]).min()


def test_half_of_the_checkpoints_are_where_it_generalises() -> None:
    run = fake_run("mlp-pre", "mlp", late=1000, seeds=(1,), steps=10_000, every=100)
    steps = np.arange(0, 10_001, 100)
    position = training_position([run], steps)
    best = np.maximum.accumulate(run.metrics["test_accuracy"].sel(seed=1).values[9::10])
    assert position[50] == pytest.approx(0.5 + best[499], abs=1e-6)
    kept = steps[spread(position, MOST)]
    assert (kept[0], kept[-1], len(kept)) == (0, 10_000, MOST)
    rising = (kept > 600) & (kept < 1500)
    assert rising.sum() >= 4  # a tenth of the time


def test_a_spike_does_not_turn_training_back() -> None:
    run = fake_run("off", "", late=100, seeds=(1,), steps=1000)
    run.metrics["test_accuracy"].loc[{"step": 700}] = 0.0
    assert (np.diff(training_position([run], np.arange(0, 1001, 100))) > 0).all()


def test_a_diverged_seed_does_not_count_as_generalised() -> None:
    run = fake_run("off", "", late=100, seeds=(1, 2), steps=1000)
    run.metrics["test_accuracy"].loc[{"seed": 2}] = np.nan
    assert training_position([run], np.array([1000]))[0] == pytest.approx(1.5, abs=0.01)


def test_the_seed_shown_is_one_that_all_cells_have() -> None:
    first = fake_run("mlp-pre", "mlp", late=600, seeds=(1, 2, 3), steps=100)
    second = fake_run("off", "", late=600, seeds=(2, 3), steps=100)
    assert [chosen_seed(run, [first, second]) for run in (first, second)] == [2, 2]
    second.diverged = {2: 50}
    assert [chosen_seed(run, [first, second]) for run in (first, second)] == [3, 3]
    second.diverged = {2: 50, 3: 50}
    assert [chosen_seed(run, [first, second]) for run in (first, second)] == [1, 2]
    few = snapshots(first.probe("fourier"), first, [first, second], most=1)
    assert (few["seed"].values.tolist(), few["step"].values.tolist()) == ([1, 2, 3], [100])
    second.diverged = {}
    assert snapshots(first.probe("fourier"), first, [first, second])["seed"].values.tolist() == [2, 1, 3]


def test_cells_of_one_length_show_the_same_steps(runs: list[FakeRun]) -> None:
    first, second = compute_attention_maps(runs)
    assert first.steps.tolist() == second.steps.tolist()
    assert len(first.steps) == MOST < runs[0].probe("fourier").sizes["step"]


# ---- attention by a and b -------------------------------------------------------------------------------


def test_attention_maps_are_those_of_the_probe(runs: list[FakeRun]) -> None:
    info = compute_attention_maps(runs)[0]
    assert info.seeds == (456,)
    assert info.coords[2] == ("a", "b")
    exact = runs[0].probe("attention_map")["attention_map"].sel(step=info.steps, key=["a", "b"])[:1].values
    assert np.abs(info.values - exact).max() <= np.ptp(exact, (-2, -1)).max() / 508 * 1.0001
    figure = draw_attention_maps(info)
    assert len(figure.data) == 4
    for head, trace in enumerate(figure.data):
        np.testing.assert_array_equal(trace.z, info.values[0, -1, 0, head, 0])
        assert trace.meta["choices"] == [[0, head, 0], [0, head, 1], [0, head, "rest"]] * 2
    titles = {axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())}
    assert titles == {None, "a", "b"}
    assert len(attention_maps.CHOICES) == 6


def test_fewer_checkpoints_where_many_cells_share_the_bytes(
    runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 2 * 4 * 2 * P * P  # bytes of a checkpoint of two cells
    for given_bytes, kept in ((5 * one, 5), (one, 1), (one - 1, None)):
        monkeypatch.setattr(attention_maps, "BYTES", given_bytes)
        found = compute_attention_maps(runs)
        assert [len(a.steps) for a in found] == ([kept] * 2 if kept else [])
        if kept == 1:
            assert found[0].steps.tolist() == [3000]
            assert "at the end" in rounding_note(found)


def test_what_decides_a_weight() -> None:
    a, b = (RNG.standard_normal(9) for _ in range(2))
    a, b = a - a.mean(), b - b.mean()
    assert variance_shares(np.add.outer(a, 0 * b)) == pytest.approx((1, 0))
    assert sum(variance_shares(np.add.outer(a, b))) == pytest.approx(1)
    assert variance_shares(np.multiply.outer(a, b)) == pytest.approx((0, 0), abs=1e-12)
    assert all(math.isnan(x) for x in variance_shares(np.full((3, 3), 0.25)))


def test_the_table_of_weights_adds_up(runs: list[FakeRun]) -> None:
    table = table_of_attention_maps(compute_attention_maps(runs))
    assert len(table.rows) == 2 * 4 * 3
    assert sum(float(row[3]) for row in table.rows[:3]) == pytest.approx(1, abs=0.01)


# ---- two-dimensional transforms -------------------------------------------------------------------------


def norms_of(logits: np.ndarray, steps: int = 1) -> xr.Dataset:
    """As the probe has them, of logits (a, b, c)."""
    norms = fourier_map(torch.as_tensor(logits.reshape(P * P, -1)), P).square().sum(-1).sqrt().numpy()
    n = P // 2 + 1
    coords = {"seed": [1], "step": range(steps), "frequency_a": range(n), "frequency_b": range(n)}
    maps = ("seed", "step", "frequency_a", "frequency_b")
    return xr.Dataset(
        {
            "logit_fourier": (maps, norms[None, None]),
            "neuron_fourier": ((*maps[:2], "layer", *maps[2:]), norms[None, None, None]),
            "attention_fourier": (
                (*maps[:2], "layer", "head", "key", *maps[2:]),
                0 * norms[None, None, None, None, None],
            ),
        },
        coords,
    )


def test_a_network_that_adds_is_a_dot_on_the_diagonal() -> None:
    a, b, c = np.meshgrid(*[np.arange(P)] * 3, indexing="ij")
    shares = log_shares(norms_of(np.cos(2 * np.pi * 3 * (a + b - c) / P))).sel(of="logits").values[0, 0]
    expected = np.full_like(shares, LEAST)
    expected[3, 3], expected[0, 0] = 0, np.nan
    np.testing.assert_allclose(shares, expected, atol=1e-9)


def test_shares_of_noise_are_those_of_the_fast_fourier_transform() -> None:
    logits = RNG.standard_normal((P, P, 4))
    power = (np.abs(np.fft.fft2(logits, axes=(0, 1))) ** 2).sum(-1)
    folded = np.zeros((P // 2 + 1, P // 2 + 1))
    for i, j in np.ndindex(P, P):
        folded[min(i, P - i), min(j, P - j)] += power[i, j]
    folded[0, 0] = 0
    found = log_shares(norms_of(logits)).values[0, 0]
    for of in range(2):
        share = np.nan_to_num(10 ** found[of])
        np.testing.assert_allclose(share, folded / folded.sum(), atol=1e-12)
    assert np.isnan(found[2]).all()  # nothing varies


def test_fourier_maps_have_axes_choices_and_marks(runs: list[FakeRun]) -> None:
    info, keys = compute_fourier_maps(runs)[0], compute_key_frequencies(runs)[0]
    assert info.coords[0] == ("logits", "neurons", "attention")
    figure = draw_fourier_map(info, keys)
    heat, top, right = figure.data
    np.testing.assert_array_equal(heat.z, info.values[0, -1, 0])
    assert heat.meta["choices"] == [[0], [1], [2]]
    assert (list(top.x), list(right.y)) == ([2, 4], [2, 4])  # of the seed shown
    assert list(top.customdata) == ["seed 456", "seed 456"]
    assert top.meta == {"array": "key_frequency:0", "marks": "x", "level": 5.5, "of": "log10_share:0"}
    assert figure.layout.xaxis.title.text == "frequency of b"
    assert figure.layout.yaxis.title.text == "frequency of a"
    assert len(draw_fourier_map(info).data) == 1
    table = table_of_fourier_maps([info])
    assert [row[1] for row in table.rows] == ["logits", "neurons", "attention"]


# ---- by frequency ---------------------------------------------------------------------------------------


def test_key_frequencies_are_marked_with_the_seeds_that_have_them(runs: list[FakeRun]) -> None:
    keys = compute_key_frequencies(runs)
    assert keys[0].values.shape == (2, 1, P // 2 + 1)
    spectrum = compute_spectrum(runs)[0]
    scale = Scale("norm", "norm", 2.0, (0.0, 3000.0))
    bars, history = draw_bars(spectrum, scale, keys[0]), draw_history(spectrum, scale, keys[0])
    for figure, along in ((bars, "x"), (history, "y")):
        marks = figure.data[1]
        assert list(marks[along]) == [2, 4, 5]
        assert list(marks.customdata) == ["1 of 2 seeds", "2 of 2 seeds", "1 of 2 seeds"]
        assert list(marks.marker.opacity) == [0.7, 1.0, 0.7]
    np.testing.assert_array_equal(np.asarray(history.data[0].z)[:, -1], bars.data[0].y)
    assert len(draw_bars(spectrum, scale).data) == 1
    table = table_of_frequencies([spectrum], keys)
    assert [row[-1] for row in table.rows] == ["2, 4", "4, 5"]
    assert table_of_frequencies([spectrum], {}).header[-1] == "no. 6"


def test_no_marks_without_key_frequencies(runs: list[FakeRun]) -> None:
    figure = draw_bars(compute_spectrum(runs)[1], Scale("norm", "norm", 2.0, (0.0, 1.0)))
    add_marks(figure, compute_key_frequencies(runs)[1], "top", 1.0)
    assert len(figure.data[1].x) == 0


def test_clusters_are_counted_over_layers(runs: list[FakeRun]) -> None:
    info = compute_clusters(runs)[0]
    sizes = runs[0].probe("neurons")["neuron_cluster_size"].values
    np.testing.assert_allclose(info.values, sizes[:, :, 0] + sizes[:, :, 1], rtol=1e-6)


# ---- circles --------------------------------------------------------------------------------------------


def test_circles_are_drawn_as_colour_wheels(runs: list[FakeRun]) -> None:
    (info,) = compute_circles(runs)  # the other cell has none
    assert info.summary.snaps
    assert info.points.steps.tolist() == info.summary.steps.tolist()
    figure = draw_circles(info)
    points, words = figure.data[0], figure.data[1]
    angle = np.arctan2(points.y, points.x) % (2 * np.pi)
    off = (angle - 2 * np.pi * np.asarray(points.marker.color) / P + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(off).max() < 0.02  # the rounding of the map
    assert np.hypot(points.x, points.y) == pytest.approx(3, abs=0.03)
    assert words.text[0] == "k = 2, 88%"
    assert figure.data[5].text[0] == "no key frequency"
    assert figure.layout.xaxis3.title.text == "along the cosine"
    assert figure.layout.yaxis.title.text == "along the sine"
    assert label(3.0, math.nan) == "k = 3, no plane"
    assert table_of_circles([info]).rows[1][1:] == ("789", "4: 0.875", "5: 0.875", "&ndash;", "&ndash;")


# ---- the page -------------------------------------------------------------------------------------------


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_maps_are_on_the_page_once_as_bytes(runs: list[FakeRun], tmp_path: Path) -> None:
    page = study_report(runs, tmp_path, "Maps").read_text("utf-8")
    data = embedded(page)
    info = compute_attention_maps(runs)[1]
    array = data["arrays"]["attention_map:1"]
    codes = np.frombuffer(base64.b64decode(array["values"]), np.uint8).reshape(array["shape"])
    np.testing.assert_array_equal(codes, info.encoded.codes)
    low, high = (np.frombuffer(base64.b64decode(array[end]), "<f4") for end in ("low", "high"))
    decoded = low[:, None, None] + codes.reshape(-1, P, P) / 254 * (high - low)[:, None, None]
    np.testing.assert_allclose(decoded.reshape(info.values.shape), info.values, rtol=1e-6)
    assert (array["snaps"], array["seeds"]) == (True, [456])
    traces = [t for panel in data["panels"].values() for t in panel["data"] if "array" in t["meta"]]
    assert not any("z" in t for t in traces)
    named = {t["meta"].get(role) for t in traces for role in ("array", "summary", "points", "of")} - {None}
    assert named == set(data["arrays"])
    assert "Seed 456 only, whichever is selected, at 13 checkpoints" in page
    for slug in ("attention-maps", "neuron-clusters", "embedding-circles", "fourier-maps"):
        assert f'id="figure-{slug}"' in page


def test_sections_need_no_other_probe(runs: list[FakeRun]) -> None:
    run = fake_run("off", "", late=600, steps=1500)
    maps = with_maps(fake_run("off", "", late=600, steps=1500)).probes
    run.probes = {name: maps[name] for name in ("attention_map", "fourier2d")}
    sections = attention([run]), fourier([run])
    assert [[f.slug for f in s.figures] for s in sections if s] == [["attention-maps"], ["fourier-maps"]]
    run.probes = {}
    assert attention([run]) is fourier([run]) is None


def test_a_page_of_four_cells_stays_small(tmp_path: Path) -> None:
    """Of the size of a paper's runs, every map being noise: 51 checkpoints, p = 113."""
    placements = {"off": "", "mlp-pre": "mlp", "attn-pre-v": "v", "attn-pre-qk": "q+k"}
    runs = [
        fake_run(*names, late=2000, seeds=(456,), steps=10_000, every=200) for names in placements.items()
    ]
    path = study_report([with_maps(run, 113) for run in runs], tmp_path, "Four")
    assert path.stat().st_size < 6_000_000


def test_a_byte_array_keeps_labels(runs: list[FakeRun]) -> None:
    cell = identify(runs)[0]
    data = runs[0].probe("attention_map")["attention_map"].isel(seed=[1], step=[0, 3])
    info = byte_array("x", cell, data)
    assert (info.key, info.seeds, info.steps.tolist()) == ("x:0", (789,), [0, 300])
    assert info.dims == ("layer", "head", "key", "a", "b")
    assert info.coords[2] == ("a", "b", "=")
