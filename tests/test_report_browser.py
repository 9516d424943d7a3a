"""Using the report in a real Chromium, opened from disk with the network off."""

import base64
import csv
import io
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import Opened, opened, slack
from embedded_page import array_values
from embedded_page import embedded as unpacked
from fake_maps import with_maps
from fake_probes import add_probes
from fake_runs import FakeRun, fake_run

from mech_grok.report import study_report
from mech_grok.report.phases import compute_phases

pytest_plugins = ["report_pages"]
pytestmark = pytest.mark.browser


# ---- opening --------------------------------------------------------------------------------------------


def test_a_page_asks_for_nothing_but_its_own_files(browser: Any, path: Path) -> None:
    with opened(browser, path) as page:
        page.settle()
        page.tab.wait_for_timeout(300)
        asked = {url.partition("?")[0] for url in page.requests if not url.startswith(("data:", "blob:"))}
        assert asked == {path.as_uri(), path.with_name("plotly.min.js").as_uri()}
        assert page.errors == []
        assert page.run("panels.length") > 20


def test_odd_runs_make_whole_pages(browser: Any, tmp_path: Path) -> None:
    """One seed, one checkpoint; a diverged seed; no probes; names that are markup and beyond ASCII."""
    one = fake_run("off", "", late=50, seeds=(7,), steps=60, every=100)
    diverged = fake_run("mlp-pre", "mlp", late=100, seeds=(1, 2), steps=300)
    diverged.diverged = {2: 150}
    for name in ("test_loss", "train_loss"):
        diverged.metrics[name].loc[{"seed": 2, "step": slice(150, None)}] = np.nan
    bare = fake_run("pre", "q+k+v+mlp", late=100, steps=200)
    bare.probes, bare.ablations, bare.environment = {}, None, {}
    odd = fake_run("off", "", late=50, steps=200, name='µ-größe 学<script>window.hacked = 1</script>"&')
    for i, runs in enumerate(([one], [diverged], [bare], [odd], [one, diverged, bare, odd])):
        made = study_report(runs, tmp_path / str(i), "</script><script>window.hacked = 1</script> 学")
        with opened(browser, made) as page:
            page.settle()
            assert page.errors == []
            assert page.run("typeof window.hacked") == "undefined"
            assert page.run("document.querySelector('h1').textContent").endswith("学")


# ---- the slider -----------------------------------------------------------------------------------------

# What every figure that shows one checkpoint looks like: its panels' numbers.
_FIGURES = """() => Object.fromEntries([...document.querySelectorAll("figure")].flatMap((figure) => {
  const own = panels.filter((p) => figure.contains(p.div) && p.arrays.length && !p.training);
  const numbers = own.map((p) => p.div.data.map(({ x, y, z, text }) => [z ? 0 : x, y, z, text]));
  const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);
  return own.length ? [[figure.id, JSON.stringify(numbers, plain)]] : [];
}))"""


def test_the_slider_moves_every_figure_of_a_checkpoint(browser: Any, path: Path) -> None:
    with opened(browser, path) as page:
        page.settle()
        seen = [page.run(_FIGURES)]
        slider = page.tab.locator("#step")
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        page.tab.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + box["height"] / 2)
        page.settle()
        seen.append(page.run(_FIGURES))
        slider.press("Home")
        page.settle()
        seen.append(page.run(_FIGURES))
        assert len(seen[0]) >= 5
        for before, after in ((seen[0], seen[1]), (seen[1], seen[2])):
            assert [figure for figure in before if before[figure] == after[figure]] == []
        assert slider.get_attribute("aria-valuetext") == "step 0"
        slider.press("ArrowRight")
        page.settle()
        assert page.run("state.step") == page.run("report.steps[1]")


def test_time_plots_mark_the_checkpoint_and_a_click_moves_it(page: Opened) -> None:
    page.tab.locator("#step").press("Home")
    page.tab.locator("#step").press("ArrowRight")
    page.settle()
    marked = """() => panels.filter((p) => p.training).map((p) => {
      const { x, left } = axes(p);
      return x.p2d(parseFloat(p.cursors[0].style.left) - left);
    })"""
    plots = page.run("panels.filter((p) => p.training).length")
    assert page.run(marked) == pytest.approx([100.0] * plots, abs=1)
    page.run("document.getElementById('learning-0').emit('plotly_click', { points: [{ x: 730 }] })")
    page.settle()
    assert page.run("state.step") == 700
    assert page.tab.locator("#step-out").text_content() == "step 700"


def test_pointing_at_a_step_marks_it_in_all_time_plots_on_screen(page: Opened) -> None:
    page.tab.locator("#learning-0").scroll_into_view_if_needed()
    where = page.run("""() => { const p = panels.find((p) => p.div.id === "learning-0");
      const box = p.div.getBoundingClientRect(); const { x, left, top } = axes(p);
      return [box.left + left + x.d2p(600), box.top + top + 40]; }""")
    page.tab.mouse.move(*where)
    page.tab.wait_for_function("panels.some((p) => p.cursors && !p.cursors[1].hidden)")
    lines = page.run("""() => panels.filter((p) => p.cursors && isOnScreen(p)).map((p) => {
      const { hidden, textContent, style } = p.cursors[1];
      return [hidden, textContent, axes(p).x.p2d(parseFloat(style.left) - axes(p).left)]; })""")
    assert len(lines) >= 2
    assert [hidden for hidden, _, _ in lines] == [False] * len(lines)
    assert [step for _, _, step in lines] == pytest.approx([600.0] * len(lines), abs=5)
    assert [text for _, text, _ in lines if text] == [f"step {round(lines[0][2])}"]
    assert page.run("state.step") == 1500
    page.tab.mouse.move(2, 2)
    page.tab.wait_for_function("panels.every((p) => !p.cursors || p.cursors[1].hidden)")


def test_a_button_makes_an_axis_linear_and_logarithmic(page: Opened) -> None:
    kind = "panels.find((p) => p.div.id === 'learning-0').div._fullLayout.yaxis.type"
    assert page.run(kind) == "log"
    for scale in ("linear", "log"):
        button = page.tab.locator(f'#figure-learning [data-scale="{scale}"]')
        button.press("Enter")
        assert page.run(kind) == scale
        assert button.get_attribute("aria-pressed") == "true"


# ---- phases ---------------------------------------------------------------------------------------------

_PHASES = """(id) => { const p = panels.find((p) => p.div.id === id);
  const shades = p.div.layout.shapes.filter((shape) => shape.type === "rect");
  return shades.map(({ x0, x1, yref, y0, y1 }) => [x0, x1, yref, y0, y1]); }"""


def test_phases_are_strips_of_all_cells_or_behind_the_curves_of_one(
    page: Opened, runs: list[FakeRun]
) -> None:
    found = compute_phases(runs)
    strips = page.run(_PHASES, "learning-0")
    assert [(a, b) for a, b, *_ in strips] == [s for c in found for s in c.mean.spans]
    assert all(y0 >= 1 for *_, y0, _ in strips)
    page.tab.locator('#figure-learning [data-scale="linear"]').click()
    assert page.run(_PHASES, "learning-0") == strips
    page.tab.select_option("#seed", "789")
    page.settle()
    own = page.run(_PHASES, "learning-0")
    assert [(a, b) for a, b, *_ in own] == [s for c in found for s in c.seeds[789].spans]
    page.tab.locator(".chip").nth(1).click()
    page.tab.mouse.move(2, 2)
    page.tab.locator("#seed").focus()
    page.settle()
    behind = page.run(_PHASES, "learning-0")
    assert [(a, b) for a, b, *_ in behind] == list(found[0].seeds[789].spans)
    assert [shape[2:] for shape in behind] == [["paper", 0, 1]] * len(behind)


def test_pointing_at_a_cell_shades_its_phases(page: Opened, runs: list[FakeRun]) -> None:
    page.tab.locator(".chip").first.focus()
    page.settle()
    shaded = [shape for shape in page.run(_PHASES, "learning-1") if shape[4] == 1]
    assert [(a, b) for a, b, *_ in shaded] == list(compute_phases(runs)[0].mean.spans)
    page.tab.locator("#seed").focus()
    page.settle()
    assert [shape for shape in page.run(_PHASES, "learning-1") if shape[4] == 1] == []


# ---- the numbers ----------------------------------------------------------------------------------------


def downloaded(page: Opened, figure: str) -> list[dict[str, str]]:
    numbers = page.tab.locator(f"#figure-{figure} .numbers")
    numbers.locator("summary").press("Enter")
    with page.tab.expect_download() as waiting:
        numbers.locator(".csv").press("Enter")
    assert waiting.value.suggested_filename == f"{figure}.csv"
    return list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text("utf-8"))))


def test_the_downloaded_curves_are_the_run_s(page: Opened, runs: list[FakeRun]) -> None:
    found: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for row in downloaded(page, "learning"):
        key = row["quantity"].lower(), row["cell"], row["split"], row["seed"]
        found[key][int(row["step"])] = float(row["value"])
    for run in runs:
        evaluated = run.metrics["step"].values[run.metrics["evaluated"].values]
        for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
            split, quantity = name.split("_")
            for seed in (456, 789):
                drawn = found.pop((quantity, run.name, split, str(seed)))
                values = run.metrics[name].sel(seed=seed, step=list(drawn)).values
                np.testing.assert_array_equal(np.array(list(drawn.values()), np.float32), values)
                assert split == "train" or list(drawn) == evaluated.tolist()
    assert not found


def test_the_downloaded_spectra_are_the_run_s(page: Opened, runs: list[FakeRun]) -> None:
    rows = [row for row in downloaded(page, "spectrum") if row["quantity"] == "embedding_spectrum"]
    for run in runs:
        values = np.array([float(row["value"]) for row in rows if row["cell"] == run.name], np.float32)
        spectrum = run.probe("fourier")["embedding_spectrum"].transpose("seed", "step", "frequency")
        np.testing.assert_array_equal(values, spectrum.values.astype(np.float32).ravel())


def test_what_a_page_stores_packed_comes_back(page: Opened, report: Path) -> None:
    data = unpacked(report.read_text("utf-8"))
    for key in ("change:0", "pattern:1", "log10_share:1", "embedding_circle:0"):
        array = data["arrays"][key]
        plain = "(key) => Array.from(valuesOf(report.arrays[key]), (x) => Number.isNaN(x) ? null : x)"
        values = page.run(plain, key)
        found = np.array(values, float).reshape(array["shape"])
        expected = array_values(array)
        if "low" in array:
            low, high = (np.frombuffer(base64.b64decode(array[end]), "<f4") for end in ("low", "high"))
            ends = [end.reshape(*array["shape"][:-2], 1, 1) for end in (low, high)]
            decoded = ends[0] + expected / 254 * (ends[1] - ends[0])
            expected = np.where(expected == 255, np.nan, decoded)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    panels = {key: page.run("(key) => restored(report.panels[key])", key) for key in data["panels"]}
    assert panels == data["panels"]


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE])
def test_what_zlib_deflates_is_inflated(page: Opened, level: int, strategy: int) -> None:
    """Stored blocks, and those of fixed and of their own codes; runs as long as they can be, and far back."""
    rng = np.random.default_rng(level)
    noise = rng.integers(0, 256, 40_000).astype(np.uint8).tobytes()
    same = """([packed, whole]) => {
      const [raw, found] = [bytes(whole), inflate(bytes(packed), bytes(whole).length)];
      return found.every((x, i) => x === raw[i]); }"""
    few = rng.binomial(40, 0.1, 90_000).astype(np.uint8).tobytes()
    for raw in (b"", b"a", b"a" * 100_000, noise, noise[:32_000] * 2, few):
        packer = zlib.compressobj(level, strategy=strategy)
        text = base64.b64encode(packer.compress(raw) + packer.flush()).decode()
        assert page.run(same, [text, base64.b64encode(raw).decode()])


# ---- speed ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """51 checkpoints, five seeds, every section."""
    seeds = (456, 789, 111, 222, 333)
    made = fake_run("mlp-pre", "mlp", late=3000, seeds=seeds, steps=10_000, every=200, evaluate_every=50)
    run = with_maps(add_probes(made), 113, keys={seed: [2, 4, 5] for seed in seeds})
    return study_report([run], tmp_path_factory.mktemp("long"), "Long")


def test_a_long_page_is_small_and_soon_there(browser: Any, long_report: Path) -> None:
    """Interactive: the deck answers, and what is on screen is drawn. The median of three."""
    assert long_report.stat().st_size < 6e6
    ready = """async () => { while (!state.seed || !panels.filter(isOnScreen).every((p) => p.drawn))
      await new Promise(requestAnimationFrame); return performance.now(); }"""
    taken = []
    for _ in range(3):
        with opened(browser, long_report) as page:
            taken.append(page.run(ready))
    assert np.median(taken) < 2000 * slack()


def test_the_slider_of_a_long_page_answers_at_once(browser: Any, long_report: Path) -> None:
    """From the slider's event to the frame with the last panel on screen, at every figure it moves."""
    move = """async (i) => { const start = performance.now();
      slider.value = (17 * i) % report.steps.length; slider.dispatchEvent(new Event("input"));
      while ([...waiting].some(isOnScreen)) await new Promise(requestAnimationFrame);
      return performance.now() - start; }"""
    with opened(browser, long_report) as page:
        page.settle()
        figures = page.run(
            "[...new Set(panels.filter((p) => !p.training).map((p) => p.div.closest('figure').id))]"
        )
        for figure in figures:
            page.run("(id) => document.getElementById(id).scrollIntoView()", figure)
            page.settle()
            assert page.median_ms(move, 7) < 100 * slack(), figure
