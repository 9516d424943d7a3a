"""The report: its data, its figures, and a page that loads nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.io
import pytest
from embedded_page import array_values, embedded
from fake_runs import TOKENS, FakeRun, fake_run

from mech_grok.placement import all_placements
from mech_grok.report import checkpoints, curves, study_report
from mech_grok.report.by_frequency import Scale, compute_spectrum, draw_bars, draw_history
from mech_grok.report.cells import identify
from mech_grok.report.headline import StepSummary, compute_headline, draw_milestones, step_summary
from mech_grok.report.lines import draw_lines, over_seeds
from mech_grok.report.render import duration
from mech_grok.report.style import placement_colour
from mech_grok.report.tables import number, table_of_lines


@pytest.fixture(scope="module")
def runs() -> list[FakeRun]:
    return [fake_run("mlp-pre", "mlp", late=600), fake_run("off", "", late=9000)]


@pytest.fixture(scope="module")
def page(runs: list[FakeRun], tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("report")
    path = study_report(runs, directory, "Norms & <grokking>", "Two cells.", "mech-grok run a.yaml")
    assert path == directory / "index.html"
    assert sorted(p.name for p in directory.iterdir()) == [
        "index.html",
        "plotly.min.js",
        "summary.json",
        "thumbnail.svg",
    ]
    return path.read_text("utf-8")


class Outline(HTMLParser):
    """What a page consists of: its headings, the things it loads, and how often each tag occurs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.loads: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag != "a":
            self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]


# ---- cells ----------------------------------------------------------------------------------------------


def test_a_cell_has_the_name_and_the_colour_of_its_placement(runs: list[FakeRun]) -> None:
    first, second = identify(runs)
    assert (first.label, first.specifier, second.label) == ("M", "mlp-pre", "No LN")
    assert first.colour == placement_colour(runs[0].config.model.placement)


def test_every_placement_has_a_colour_of_its_own() -> None:
    colours = [placement_colour(p) for p in all_placements()]
    assert len(set(colours)) == len(colours)


def test_cells_of_one_placement_differ_in_label_and_shade() -> None:
    names = ("attn-pre-qk_lr=0.001", "attn-pre-qk_lr=0.01_weight_decay=0.5", "attn-pre-qk", "attn-pre-qk")
    cells = identify([fake_run("attn-pre-qk", "q+k", late=500, steps=200, name=n) for n in names])
    assert [c.label for c in cells] == [
        "A<sup>qk</sup> · lr 0.001",
        "A<sup>qk</sup> · lr 0.01 · weight_decay 0.5",
        "A<sup>qk</sup> (1)",
        "A<sup>qk</sup> (2)",
    ]
    assert len({c.colour for c in cells}) == 4


# ---- curves ---------------------------------------------------------------------------------------------


def test_test_curves_show_evaluated_steps_only(runs: list[FakeRun]) -> None:
    loss, accuracy = curves.compute_learning(runs)
    train, test = loss.curves[:2]
    metrics = runs[0].metrics
    where = metrics["evaluated"].values
    assert (train.split, test.split) == ("train", "test")
    np.testing.assert_array_equal(test.steps, metrics["step"].values[where])
    np.testing.assert_array_equal(test.values, metrics["test_loss"].values[:, where])
    assert np.isfinite(test.values).all()
    assert (loss.log, accuracy.log) == (True, False)


def test_the_mean_over_seeds_leaves_out_what_a_diverged_seed_has_not() -> None:
    values = np.array([[1.0, 1.0, np.nan], [3.0, np.inf, np.nan]])
    mean, low, high = over_seeds(values)
    np.testing.assert_array_equal(mean, np.array([2, 1, np.nan], np.float32))
    np.testing.assert_array_equal(low, np.array([1, 1, np.nan], np.float32))
    np.testing.assert_array_equal(high, np.array([3, 1, np.nan], np.float32))


def test_a_panel_draws_bands_seeds_and_means(runs: list[FakeRun]) -> None:
    loss, _ = curves.compute_learning(runs)
    figure = draw_lines(loss)
    by_kind: dict[object, list] = {}
    for trace in figure.data:
        by_kind.setdefault(trace.meta["seed"], []).append(trace)
    assert {kind: len(traces) for kind, traces in by_kind.items()} == {"band": 4, "mean": 4, 456: 4, 789: 4}
    assert all(t.visible is False for t in by_kind[456])
    assert {t.line.dash for t in by_kind["mean"] if t.meta["split"] == "train"} == {"6px,3px"}
    assert {t.line.dash for t in by_kind["mean"] if t.meta["split"] == "test"} == {"solid"}
    np.testing.assert_allclose(by_kind["mean"][0].y, loss.curves[0].values.mean(0), rtol=1e-5)


PANELS = [
    (curves.compute_learning, ["loss (nats)", "accuracy"]),
    (curves.compute_head_averaged_entropy, ["entropy (nats)"]),
    (curves.compute_head_entropies, ["entropy (nats)"] * 4),
    (curves.compute_concentration, ["C<sub>Fourier</sub>", "variance", "variance"]),
    (curves.compute_attribution, ["logit"] * 7),
    (curves.compute_shortcut, ["loss (nats)"] * 3),
    (curves.compute_dynamics, ["weight norm (L2)", "gradient norm (L2)", "update norm (L2)"]),
]


@pytest.mark.parametrize(("compute", "titles"), PANELS, ids=lambda x: getattr(x, "__name__", ""))
def test_every_panel_names_its_axes(runs: list[FakeRun], compute: Any, titles: list[str]) -> None:
    panels = compute(runs)
    figures = [draw_lines(p) for p in panels]
    assert [f.layout.yaxis.title.text for f in figures] == titles
    assert {f.layout.xaxis.title.text for f in figures} == {"step"}
    assert all({c.cell.index for c in p.curves} == {0, 1} for p in panels)
    assert table_of_lines(panels).rows


def test_entropies_are_shown_against_ln_3(runs: list[FakeRun]) -> None:
    heads = curves.compute_head_entropies(runs)
    expected = runs[0].probe("attention")["entropy_per_head"].sel(split="all", head=2, layer=0, query="=")
    np.testing.assert_array_equal(heads[2].curves[0].values, expected.values)
    assert heads[2].title == "Layer 0, head 2"
    assert [shape.y0 for shape in draw_lines(heads[2]).layout.shapes] == [pytest.approx(np.log(3))]


def test_attribution_panels_share_one_scale(runs: list[FakeRun]) -> None:
    panels = curves.compute_attribution(runs)
    assert [p.title for p in panels][3:] == [
        "Layer 0, head 3",
        "Layer 0, MLP",
        "Token embedding",
        "Position embedding",
    ]
    low, high = panels[0].y_range or (0, 0)
    assert {p.y_range for p in panels} == {(low, high)}
    assert all(low < c.values.min() and c.values.max() < high for p in panels for c in p.curves)


def test_scale_removed_loss_stands_beside_the_plain_one(runs: list[FakeRun]) -> None:
    test, train, switch = curves.compute_shortcut(runs)
    plain, removed = test.curves[:2]
    data = runs[0].probe("shortcut").sel(split="test")
    np.testing.assert_array_equal(plain.values, data["loss"].values)
    np.testing.assert_array_equal(removed.values, data["sr_loss"].values)
    assert (plain.reference, removed.reference) == (True, False)
    assert {c.split for c in train.curves} == {"train"}
    assert {c.split for c in switch.curves} == {"train", "test"}


# ---- checkpoints ----------------------------------------------------------------------------------------


def test_patterns_are_drawn_per_head_at_the_last_checkpoint(runs: list[FakeRun]) -> None:
    info = checkpoints.compute_patterns(runs)[0]
    assert info.values.shape == (2, 16, 1, 4, 3, 3)
    figure = checkpoints.draw_patterns(info)
    assert len(figure.data) == 4
    for head, trace in enumerate(figure.data):
        np.testing.assert_allclose(trace.z, info.values[:, -1, 0, head].mean(0), rtol=1e-5)
        assert (trace.zmin, trace.zmax, list(trace.x)) == (0, 1, TOKENS)
        assert trace.meta == {"array": "pattern:0", "at": [0, head]}
    titles = {axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())}
    assert titles == {None, "key", "query"}


def test_spectra_share_one_scale(runs: list[FakeRun]) -> None:
    spectra = compute_spectrum(runs)
    assert [s.values.shape for s in spectra] == [(2, 16, 57)] * 2
    top = checkpoints.largest([s.values for s in spectra])
    assert top == max(float(s.values.max()) for s in spectra)
    span = checkpoints.time_span(spectra)
    assert span == (-50, 1550)
    scale = Scale("norm", "norm", top, span)
    bars, history = draw_bars(spectra[0], scale), draw_history(spectra[0], scale)
    assert bars.layout.xaxis.title.text == history.layout.yaxis.title.text == "frequency k"
    assert history.layout.xaxis.title.text == "step"
    assert history.data[0].zmax == top
    np.testing.assert_array_equal(np.asarray(history.data[0].z)[:, -1], bars.data[0].y)


# ---- headline -------------------------------------------------------------------------------------------


def test_the_headline_has_the_last_values_and_the_steps(runs: list[FakeRun]) -> None:
    grokked, not_yet = compute_headline(runs)
    last = runs[0].metrics["test_loss"].values[:, -1]
    assert grokked.final["test_loss"].mean == pytest.approx(last.mean())
    assert (grokked.final["test_loss"].low, grokked.final["test_loss"].high) == (last.min(), last.max())
    assert all(grokked.steps.accuracy.values())
    assert set(not_yet.steps.accuracy.values()) == {None}
    assert len(draw_milestones((grokked, not_yet)).data) == 6


def test_step_summaries_count_the_censored_seeds() -> None:
    assert step_summary({1: 900, 2: 1010}, 1500) == StepSummary("955", "900 to 1,010", "2 seeds")
    assert step_summary({1: 900}, 1500) == StepSummary("900", reached="1 seed")
    assert step_summary({1: 900, 2: None}, 1500) == StepSummary(
        "900", reached="1 seed", censored="not by step 1,500", missing="1 of 2 seeds"
    )
    assert step_summary({1: None, 2: None}, 1500) == StepSummary(
        censored="not by step 1,500", missing="2 of 2 seeds"
    )


def test_numbers_and_durations_in_words() -> None:
    assert [number(x) for x in (0.0, 1234.0, -0.25)] == ["0", "1.23 &times; 10<sup>3</sup>", "&minus;0.25"]
    assert number(3.05e-7) == "3.05 &times; 10<sup>&minus;7</sup>"
    assert number(float("nan")) == "&ndash;"
    assert [duration(s) for s in (None, 41.4, 725.0, 12_000.0)] == [
        "not recorded",
        "41 s",
        "12 min 5 s",
        "3 h 20 min",
    ]


# ---- the page -------------------------------------------------------------------------------------------


def test_the_page_loads_its_script_and_nothing_else(page: str) -> None:
    outline = Outline(page)
    assert [load for load in outline.loads if not load.startswith(("#", "data:"))] == ["plotly.min.js"]
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert style
    assert not re.search(r"url\(|@import", style[1])


def test_the_page_has_no_cloud_button(page: str) -> None:
    config = embedded(page)["config"]
    assert config["showSendToCloud"] is False
    assert config["displaylogo"] is False


def test_headings_are_in_order_and_every_figure_has_a_caption_and_a_table(page: str) -> None:
    outline = Outline(page)
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.counts["figure"] == outline.counts["figcaption"] == 19
    assert page.count('<details class="numbers">') == 19
    assert '<html lang="en">' in page
    assert "<title>Norms &amp; &lt;grokking&gt; · mech_grok report</title>" in page


def test_the_page_says_how_it_was_made(page: str) -> None:
    for text in ("mech-grok run a.yaml", "placement: mlp-pre", "3.9.0", "12 min 34 s", "arXiv 2602.06702"):
        assert text in page
    assert "not by step 1,500 (2 of 2 seeds)" in page


def test_the_numbers_are_embedded_once_and_exactly(page: str, runs: list[FakeRun]) -> None:
    data = embedded(page)
    array = data["arrays"]["pattern:1"]
    values = array_values(array)
    np.testing.assert_array_equal(values, runs[1].probe("attention")["pattern"].values)
    assert data["steps"] == list(range(0, 1501, 100))
    shown = {t["meta"]["array"] for p in data["panels"].values() for t in p["data"] if "array" in t["meta"]}
    assert shown == set(data["arrays"])


def test_what_a_run_lacks_has_no_section(tmp_path: Path) -> None:
    bare = fake_run("off", "", late=500, seeds=(7,), steps=60)
    bare.probes, bare.ablations, bare.environment = {}, None, {}
    page = study_report([bare], tmp_path, "Bare").read_text("utf-8")
    sections = re.findall(r'<h2 id="([\w-]+)"', page)
    assert sections == ["summary", "learning-curves", "dynamics", "made"]
    assert embedded(page)["steps"] == []
    assert "not recorded" in page


def test_cells_may_differ_in_length_seeds_and_probes(tmp_path: Path) -> None:
    long = fake_run("pre", "q+k+v+mlp", late=100, seeds=(1, 2, 3), steps=400)
    short = fake_run("mlp-pre", "mlp", late=100, seeds=(9,), steps=200, every=50)
    short.probes = {"fourier": short.probes["fourier"]}
    short.diverged = {9: 150}
    short.metrics["test_loss"].loc[{"step": slice(150, None)}] = np.nan
    page = study_report([long, short], tmp_path, "Mixed").read_text("utf-8")
    data = embedded(page)
    assert data["steps"] == [0, 50, 100, 150, 200, 300, 400]
    assert {"pattern:0", "embedding_spectrum:0", "embedding_spectrum:1"} <= set(data["arrays"])
    assert "pattern:1" not in data["arrays"]
    assert "seed 9 at step 150" in page


@pytest.mark.usefixtures("page")
def test_the_report_leaves_plotly_as_it_was() -> None:
    assert plotly.io.templates.default == "plotly"


def test_a_report_needs_a_run_that_has_been_evaluated(runs: list[FakeRun], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        study_report([], tmp_path, "None")
    empty = fake_run("off", "", late=500, steps=20)
    empty.metrics = empty.metrics.isel(step=slice(0, 0))
    with pytest.raises(ValueError, match="'off' has no evaluated step"):
        study_report([empty], tmp_path, "Empty")
    assert list(tmp_path.iterdir()) == []
