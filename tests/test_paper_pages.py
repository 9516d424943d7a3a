"""The pages of the paper's figures, from results whose answers are known."""

import base64
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded_page import embedded
from paper_results import CHECKPOINTS, STEPS, result

from mech_grok.generalisation import Happened
from mech_grok.paper.cells import LATTICE, PaperCell
from mech_grok.paper.claims import Claim, Finding
from mech_grok.paper.compare import figure_rows
from mech_grok.paper.curves import CURVES
from mech_grok.paper.figures import FIGURES, find_figure
from mech_grok.paper.limits import STEP_WITHIN
from mech_grok.paper.pages import write, write_pages
from mech_grok.paper.pages.milestones import generalised_steps
from mech_grok.paper.pages.onset import onsets
from mech_grok.paper.pages.quantities import QUANTITIES
from mech_grok.paper.pages.scatter import paths
from mech_grok.paper.pages.shown import chips, shown_groups
from mech_grok.paper.pages.wording import listed, sentence, typeset, value_text, with_labels
from mech_grok.paper.published import published
from mech_grok.paper.results import Result, measured
from mech_grok.report.style import placement_colour

pytestmark = pytest.mark.whole

SEEDS = published().seeds
NEVER = 99_999
M, M_A, A, OFF = find_figure("fig2").cells
STEPS_OF = {M: 800, M_A: 3000, A: 7000, OFF: NEVER}


def all_seeds(cell: PaperCell, first: int, **options: Any) -> Result:
    """Each seed generalises 200 steps after the one before."""
    return result(cell, {seed: first + 200 * i for i, seed in enumerate(SEEDS)}, **options)


BESIDE = ("index.html", "plotly.min.js", "summary.json", "thumbnail.svg")


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    """Figure 2 is complete; of Figure 7 one cell is, of Figure 9 three are over two seeds; and so on."""
    made = [all_seeds(cell, step) for cell, step in STEPS_OF.items()]
    rms = find_figure("fig7").cells[0]
    decays = find_figure("fig9").cells[2:4]
    made += [all_seeds(rms, 1000)]
    made += [result(cell, {456: 5000, 789: NEVER}, find_figure("fig9").curves) for cell in decays]
    return {one.cell: one for one in made}


@pytest.fixture(scope="module")
def folder(results: dict[str, Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    assert write_pages(results, folder) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    write_pages({}, folder)
    return folder


def read(folder: Path, name: str) -> str:
    return (folder / f"{name}.html").read_text("utf-8")


def traces(page: str, panel: str, seed: object) -> list[dict[str, Any]]:
    return [t for t in embedded(page)["panels"][panel]["data"] if t["meta"]["seed"] == seed]


def numbers(values: Any) -> np.ndarray:
    """A trace's x or y: plotly's typed arrays, or a list."""
    if isinstance(values, list):
        return np.array(values)
    return np.frombuffer(base64.b64decode(values["bdata"]), np.dtype(f"<{values['dtype']}"))


class Outline(HTMLParser):
    """Headings, what a page loads, where it links to, its ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {key: value or "" for key, value in attrs}
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if "id" in named:
            self.ids.append(named["id"])
        if tag == "a":
            self.links.append(named["href"])
        else:
            self.loads += [named[key] for key in ("src", "href") if key in named]


# ---- the folder -----------------------------------------------------------------------------------------


def test_every_figure_has_a_page_and_the_index_links_to_it(folder: Path, bare: Path) -> None:
    pages = [f"{figure.name}.html" for figure in FIGURES]
    for where in (folder, bare):
        assert sorted(p.name for p in where.iterdir()) == sorted([*pages, *BESIDE])
        links = Outline(read(where, "index")).links
        assert [link for link in links if link.endswith(".html")] == pages


def test_pages_load_plotly_and_nothing_else_and_are_in_order(folder: Path, bare: Path) -> None:
    for path in (*folder.glob("*.html"), *bare.glob("*.html")):
        page = path.read_text("utf-8")
        outline = Outline(page)
        assert {load for load in outline.loads if not load.startswith("data:")} <= {"plotly.min.js"}
        assert outline.levels[0] == 1
        assert outline.levels.count(1) == 1
        assert all(b <= a + 1 for a, b in pairwise(outline.levels)), path
        assert len(set(outline.ids)) == len(outline.ids)
        assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
        assert path.stat().st_size < 3_000_000


def test_the_same_results_give_the_same_files(
    results: dict[str, Result], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "FIGURES", tuple(map(find_figure, ("fig2", "fig9"))))
    write_pages(dict(reversed(results.items())), tmp_path)
    for name in ("fig2.html", "fig9.html", "plotly.min.js"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_claims_and_environments_are_shown_as_text(
    results: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nasty = '</script><b>&"A^qk'
    claim = Claim(nasty, lambda _: Finding("not confirmed", nasty, 3))
    monkeypatch.setattr(write, "FIGURES", (replace(find_figure("fig2"), title=nasty, claims=(claim,)),))
    write_pages(results, tmp_path)
    for page in (read(tmp_path, "fig2"), read(tmp_path, "index")):
        assert nasty not in page
        assert "</script><b>" not in page
        assert '&lt;/script&gt;&lt;b&gt;&amp;"A<sup>qk</sup>' in page
        assert "not confirmed</span>" in page
    assert "over 3 seeds" in read(tmp_path, "fig2")
    assert "&lt;AMD&gt; &amp; co" in read(tmp_path, "fig2")


# ---- what was published ---------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", ["fig2", "fig6", "ntk", "fig3"])
def test_published_curves_stand_at_the_published_numbers(figure: str, folder: Path, bare: Path) -> None:
    series = published().of(figure).series
    assert series
    for page in (read(folder, figure), read(bare, figure)):
        data = embedded(page)
        drawn = [t for panel in data["panels"].values() for t in panel["data"]]
        marks = [t for t in drawn if t["meta"]["seed"] == "published"]
        found = {(data["cells"][t["meta"]["cell"]]["name"], t["meta"]["quantity"], *t["x"]): t for t in marks}
        for one in series:
            for cell, curve in one.cells.items():
                trace = found[cell, one.quantity, *one.steps]
                assert trace["y"] == list(curve.mean)
                assert trace["mode"] == "markers"
                if curve.low and curve.high:
                    assert trace["customdata"] == [
                        [*ends] for ends in zip(curve.low, curve.high, strict=True)
                    ]
                    bars = trace["error_y"]
                    np.testing.assert_allclose(np.add(trace["y"], bars["array"]), curve.high)
                    np.testing.assert_allclose(np.subtract(trace["y"], bars["arrayminus"]), curve.low)


def test_a_published_peak_stands_at_its_step_and_a_lowest_value_is_a_level(bare: Path) -> None:
    values = {n.quantity: n.cells for n in published().of("fig3").numbers}
    marks = {t["meta"]["quantity"]: t for t in traces(read(bare, "fig3"), "sr-train-0", "published")}
    peak, lowest = marks["sr_train: sr train peak"], marks["sr_train: sr train lowest"]
    assert (peak["x"], peak["y"]) == ([values["sr_train_peak_step"]["off"]], [values["sr_train_peak"]["off"]])
    assert lowest["x"] == [0, 10_000]
    assert lowest["y"] == [values["sr_train_lowest"]["attn-pre-v"]] * 2


def test_published_steps_have_their_limits(folder: Path) -> None:
    steps = published().of("fig2").numbers[0].cells
    data = embedded(read(folder, "fig2"))
    marks = [t for t in data["panels"]["milestones-0"]["data"] if t["meta"]["milestone"] == "published"]
    assert {data["cells"][t["meta"]["cell"]]["name"]: t["x"][0] for t in marks} == steps
    for trace in marks:
        assert trace["error_x"]["array"] == [pytest.approx(STEP_WITHIN * trace["x"][0])]
        assert trace["marker"]["color"] == "#ffffff"


def test_what_did_not_happen_is_said_in_words(bare: Path, folder: Path) -> None:
    words = [t["text"] for t in embedded(read(bare, "fig3"))["panels"]["milestones-0"]["data"] if "text" in t]
    assert words == [["not run"]] * 7 + [["◇ not by 10,000"]]
    drawn = embedded(read(folder, "fig2"))["panels"]["milestones-0"]["data"]
    (never,) = [t for t in drawn if "text" in t]
    assert never["text"] == ["not by 10,000"]
    assert never["customdata"] == [*map(str, SEEDS), "mean"]


# ---- what was measured ----------------------------------------------------------------------------------


def test_seeds_and_mean_generalise_where_they_do(folder: Path) -> None:
    page = read(folder, "fig2")
    drawn = embedded(page)["panels"]["milestones-0"]["data"]
    ours = [t for t in drawn if t["meta"]["milestone"] == "generalised" and t["meta"]["cell"] == 1]
    seeds, mean = ours
    first = STEPS_OF[M_A]
    assert dict(zip(seeds["customdata"], seeds["x"], strict=True)) == {
        str(seed): first + 200 * i for i, seed in enumerate(SEEDS)
    }
    assert mean["x"] == [first + 800]  # the mean of five is 0.995 when the last of them is 1


def test_curves_are_means_of_the_seeds(folder: Path, results: dict[str, Result]) -> None:
    (mean,) = [t for t in traces(read(folder, "fig2"), "c-fourier-0", "mean") if t["meta"]["cell"] == 0]
    rank = results[M.name].curves["c_fourier"].dropna("step")
    np.testing.assert_array_equal(numbers(mean["x"]), CHECKPOINTS)
    np.testing.assert_allclose(numbers(mean["y"]), rank.mean("seed").values, rtol=1e-6)


def test_scatter_pairs_what_was_measured_at_the_same_checkpoint(folder: Path) -> None:
    data = embedded(read(folder, "fig2"))["panels"]["scatter-0"]["data"]
    assert len(data) == 4 * len(SEEDS)
    trace = data[1]  # M's second seed
    steps = CHECKPOINTS[1:]
    assert trace["meta"]["against"] == ["c_fourier", "test_accuracy"]
    assert trace["customdata"] == steps.tolist()
    is_late = steps >= STEPS_OF[M] + 200
    np.testing.assert_allclose(numbers(trace["x"]), np.where(is_late, 0.6, 0.1), rtol=1e-6)
    np.testing.assert_allclose(numbers(trace["y"]), np.where(is_late, 1, 0.5), rtol=1e-6)


def test_what_a_curve_may_not_lose_is_when_its_seeds_and_their_mean_generalised(
    results: dict[str, Result],
) -> None:
    (group,) = shown_groups(find_figure("fig2"))
    found = {cell.name: generalised_steps(cell, measured(results)) for cell in group.drawn}
    assert found[M.name] == {*range(800, 1601, 200)}  # the mean does with the last seed
    assert found[OFF.name] == frozenset()
    assert generalised_steps(group.drawn[0], {}) == frozenset()


def test_onsets_are_those_of_each_seed(folder: Path, results: dict[str, Result]) -> None:
    (group,) = shown_groups(find_figure("fig6"))
    found = onsets("effective_rank", group, measured(results))
    assert len(found) == 4 * len(SEEDS)
    assert {(o.appeared, o.generalised) for o in found if o.cell.name == M.name} == {
        (Happened(step - 200, step), Happened(step - 50, step)) for step in range(800, 1601, 200)
    }
    assert {(o.appeared, o.generalised) for o in found if o.cell.name == OFF.name} == {
        (Happened(10_000, None), Happened(10_000, None))
    }
    assert "first in none of 20 networks; none generalised first; 15 undecided; 5 did neither." in read(
        folder, "fig6"
    )
    assert len(embedded(read(folder, "fig6"))["panels"]["onset-rank-0"]["data"]) == 3 * len(SEEDS)
    assert "5 seeds did not do both" in read(folder, "fig6")
    assert "highest until then" in read(folder, "fig6")


def test_the_onset_of_fourier_structure_is_that_of_each_seed(
    folder: Path, results: dict[str, Result]
) -> None:
    (group,) = shown_groups(find_figure("fig2"))
    found = onsets("c_fourier", group, measured(results))
    concentrated = {o.appeared.by for o in found if o.cell.name == M.name}
    assert concentrated == {*range(800, 1601, 200)}  # 0.1 before, and 0.6 from the seed's own step on
    assert len(embedded(read(folder, "fig2"))["panels"]["onset-fourier-0"]["data"]) == len(
        [o for o in found if o.appeared.by is not None and o.generalised.by is not None]
    )
    assert "below it the network generalises first" in read(folder, "fig2")


def test_diverged_and_single_seeds_are_drawn_as_far_as_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "FIGURES", (find_figure("fig2"),))
    values = np.where(STEPS < 3000, 2.0, np.where(STEPS < 5000, np.inf, np.nan))[None]
    rank = np.full((1, len(STEPS)), np.inf)
    broken = result(M, {456: NEVER}, values={"test_loss": values, "c_fourier": rank}, diverged={456: 3000})
    write_pages({M.name: broken}, tmp_path)
    page = read(tmp_path, "fig2")
    (mean,) = [t for t in traces(page, "test-loss-test-accuracy-0", "mean") if t["meta"]["split"] == "test"]
    assert numbers(mean["x"]).max() == 2950
    assert np.isfinite(numbers(mean["y"])).all()
    assert not traces(page, "test-loss-test-accuracy-0", "band")
    assert not traces(page, "c-fourier-0", "mean")
    assert "scatter-0" not in embedded(page)["panels"]
    assert "seed 456 at 3,000" in page
    assert '<option value="mean">' not in page
    assert "1 of 4 cells · 1 of 5 seeds" in page
    (group,) = shown_groups(find_figure("fig2"))
    assert not paths(("c_fourier", "test_accuracy"), group, measured({M.name: broken}))


# ---- beside the published -------------------------------------------------------------------------------


def test_counts_are_those_of_the_table(folder: Path, results: dict[str, Result]) -> None:
    for name in ("fig2", "fig6", "fig9"):
        page = read(folder, name)
        rows = figure_rows(find_figure(name), measured(results))
        listed_rows = embedded(page, "compared-data")["rows"]
        words = [row["inside"] for row in listed_rows]
        expected = [{True: "inside", False: "outside", None: "not judged"}[row.inside] for row in rows]
        assert words == expected
        said = re.search(r"<p class=\"lead\"><b>(.*?)\.</b>", page)
        assert said
        counted = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z ]+)", said[1])}
        assert counted == {word: words.count(word) for word in set(words)}
        shown = re.findall(r'<span class="judged ([a-z-]+)">', page)
        assert [kind.replace("-", " ") for kind in shown] == words
    assert {"inside", "outside"} <= {
        row["inside"] for row in embedded(read(folder, "fig2"), "compared-data")["rows"]
    }


def test_the_table_has_ours_and_the_published_value(folder: Path) -> None:
    page = unescape(re.sub(r"<[^>]+>", " ", read(folder, "fig2")))
    row = re.search(r"M\+A\*\s+3,800\s+3,297\s+within 25%\s+inside", page)
    assert row
    assert re.search(r"No LN\s+\N{EN DASH}\s+7,763\s+within 25%\s+outside\s+not by step 10,000", page)


# ---- what was not run -----------------------------------------------------------------------------------


def test_a_figure_without_results_says_so_and_shows_what_is_known(bare: Path) -> None:
    for figure in FIGURES:
        page = read(bare, figure.name)
        assert "not run yet" in page
        assert f"<code>mech-grok reproduce {figure.name}</code>" in page
        assert page.count("not known</span>") == len(figure.claims)
        for name in figure.curves:
            assert QUANTITIES[name].definition in page
        values = published().of(figure.name)
        known = [*(s.quantity in figure.curves for s in values.series), *values.numbers]
        assert ('id="report-data"' in page) == any(known)
    assert "Nothing of this has been run yet." in read(bare, "fig6")


def test_a_figure_that_was_partly_run_says_what_is_missing(folder: Path) -> None:
    fig7, fig9, fig2 = (read(folder, name) for name in ("fig7", "fig9", "fig2"))
    assert "2 of 4 cells · 5 seeds · 10,000 steps" in fig7
    assert "Not run at all: M+A* · norm rms; A* · norm rms." in fig7
    assert "3 of 6 cells · 2 to 5 of 5 seeds · 10,000 steps" in fig9
    assert "Seeds 111, 222 and 333 not run: No LN · weight decay 0.5; No LN · weight decay 0.75." in fig9
    assert "What was not run" not in fig2
    assert "4 of 4 cells · 5 seeds · 10,000 steps" in fig2


def test_curves_that_some_cells_lack_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "FIGURES", (find_figure("fig2"),))
    lean = {cell.name: all_seeds(cell, 800, curves=("test_accuracy", "test_loss")) for cell in (M, M_A)}
    write_pages(lean, tmp_path)
    page = read(tmp_path, "fig2")
    assert "C<sub>Fourier</sub> not measured, or not for all seeds: all 2 cells." in page


# ---- cells, colours, words ------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("figure", ["fig4", "fig5", "fig9", "ntk"])
def test_cells_that_vary_a_number_get_lighter_with_it(figure: str) -> None:
    for group in shown_groups(find_figure(figure)):
        value = [float(re.search(r"[\d.]+", c.label)[0]) for c in group.drawn]  # pyright: ignore
        light = [luminance(c.colour) for c in group.drawn]
        assert np.argsort(value).tolist() == np.argsort(light).tolist()
        assert len(set(light)) == len(light)
        assert 1.05 / (max(light) + 0.05) > 2.2  # contrast with white
        (base,) = [c.drawn.label for c in group.cells if c.is_base]
        assert base.endswith("1 (base)") or base == "lr 0.001 (base)"


def test_the_base_is_the_heavy_line(folder: Path) -> None:
    means = traces(read(folder, "fig9"), "effective-rank-0", "mean")
    assert {t["meta"]["cell"]: t["line"]["width"] for t in means} == {2: 2.0, 3: 2.0, 4: 3.4}


def test_placements_keep_their_colours_in_every_group() -> None:
    groups = shown_groups(find_figure("lattice"))
    for group in groups:
        assert [c.colour for c in group.drawn] == [placement_colour(p) for p in LATTICE]
    buttons = chips(groups)
    assert len(buttons) == 16
    assert [[c.index for c in cells] for cells, _ in buttons] == [[i, i + 16] for i in range(16)]
    rms = shown_groups(find_figure("fig7"))[0]
    assert [c.label for c in rms.drawn] == ["M", "M+A*", "A*", "No LN"]


def test_every_curve_has_a_name_and_a_definition() -> None:
    assert set(QUANTITIES) == set(CURVES)
    assert all(q.title and q.unit and q.definition for q in QUANTITIES.values())


def test_words() -> None:
    assert typeset("A^qk & C_Fourier < alpha^2, `a b`") == (
        "A<sup>qk</sup> &amp; C<sub>Fourier</sub> &lt; alpha<sup>2</sup>, <code>a b</code>"
    )
    cells = find_figure("fig4").cells
    assert with_labels("swapped: off and off_weight_decay=0.5 (pre)", cells) == (
        "swapped: No LN and No LN · weight decay 0.5 (pre)"
    )
    assert [value_text(v) for v in (None, 954, 7763.0, 0.25234, -1.5, 3.05e-7, "off", float("nan"))] == [
        "&ndash;",
        "954",
        "7,763",
        "0.2523",
        "&minus;1.5",
        "3.05 &times; 10<sup>&minus;7</sup>",
        "off",
        "&ndash;",
    ]
    assert (listed([1]), listed([1, 2, 3])) == ("1", "1, 2 and 3")
    assert (sentence(""), sentence("a b")) == ("", "A b.")
