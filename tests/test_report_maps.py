"""The report's maps: attention, and frequencies of a and b; circles, key frequencies."""

import base64
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from embedded_page import array_values, embedded
from fake_maps import RNG, P, map_runs, with_maps
from fake_runs import FakeRun, fake_run

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
from mech_grok.report.byte_arrays import rounding_note
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
from mech_grok.report.packing import packed_array, stored_bytes
from mech_grok.report.snapshots import MOST, snapshots


@pytest.fixture(scope="module")
def runs() -> list[FakeRun]:
    return map_runs()


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
    whole = compute_attention_maps(runs)
    assert stored_bytes(whole) == sum(len(packed_array(a)["values"]) for a in whole)
    for budget, kept in ((stored_bytes(whole), MOST), (stored_bytes(whole) - 1, MOST - 1), (10, 0)):
        monkeypatch.setattr(attention_maps, "BYTES", budget)
        found = compute_attention_maps(runs)
        assert stored_bytes(found) <= budget
        assert [len(a.steps) for a in found] == [kept] * (2 if kept else 0)
    monkeypatch.setattr(attention_maps, "MOST", 1)
    monkeypatch.setattr(attention_maps, "BYTES", stored_bytes(whole))
    last = compute_attention_maps(runs)
    assert [a.steps.tolist() for a in last] == [[3000], [3000]]
    assert "at the end" in rounding_note(last)


def test_cells_beyond_four_have_fewer_maps_each(runs: list[FakeRun]) -> None:
    data = runs[0].probe("fourier2d")
    kept = [snapshots(data, runs[0], runs[:1] * cells).sizes["step"] for cells in (1, 4, 7, 80)]
    assert kept == [MOST, MOST, 7, 1]


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


def test_maps_are_on_the_page_once_as_bytes(runs: list[FakeRun], tmp_path: Path) -> None:
    page = study_report(runs, tmp_path, "Maps").read_text("utf-8")
    data = embedded(page)
    info = compute_attention_maps(runs)[1]
    array = data["arrays"]["attention_map:1"]
    codes = array_values(array)
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
