"""How the report looks in a real Chromium: light, dark, on paper, on a telephone, and to a screen reader."""

from pathlib import Path
from typing import Any

import pytest
from browsers import Opened, opened
from paper_results import result

from mech_grok.paper.figures import find_figure
from mech_grok.paper.pages import write_pages
from mech_grok.report.theme import BACKGROUND, dark

pytest_plugins = ["report_pages"]
pytestmark = pytest.mark.browser


@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Any, path: Path, width: int, theme: str) -> None:
    with opened(browser, path, width=width, color_scheme=theme) as page:
        page.settle()
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("panels.filter((p) => p.div.scrollWidth > p.div.clientWidth + 1).length") == 0


# ---- colours and paper ---------------------------------------------------------------------------------


_LOOK = """() => { const p = panels.find((p) => p.div.id === "learning-0");
  const mean = p.div.data.find((t) => t.meta.seed === "mean");
  return { page: getComputedStyle(document.body).backgroundColor, line: mean.line.color,
    grid: p.div._fullLayout.yaxis.gridcolor, axis: p.div.querySelector(".ytick text").style.fill,
    hover: p.div._fullLayout.hoverlabel.bgcolor, modebar: p.div._fullLayout.modebar.color,
    swatch: getComputedStyle(document.querySelector(".chip .swatch")).backgroundColor }; }"""


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_light_and_dark_follow_the_system_until_a_reader_chooses(browser: Any, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        page.settle()
        there = page.run(_LOOK)
        orange = dark("#d55e00")
        assert (there["page"], there["line"], there["swatch"]) == (rgb(BACKGROUND), orange, rgb(orange))
        page.tab.locator('[data-choose-theme="light"]').press("Enter")
        page.settle()
        light = page.run(_LOOK)
        assert (light["page"], light["line"]) == ("rgb(255, 255, 255)", "#d55e00")
        assert [key for key in there if there[key] == light[key]] == []
        pressed = '[data-choose-theme][aria-pressed="true"]'
        assert page.tab.locator(pressed).text_content() == "light"
        page.tab.reload()
        page.settle()
        assert page.run(_LOOK)["line"] == "#d55e00"
        page.tab.locator('[data-choose-theme="system"]').click()
        page.settle()
        assert page.run(_LOOK) == there
        assert page.errors == []


def test_choices_keep_their_colours_in_the_dark(browser: Any, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        page.settle()
        buttons = page.tab.locator("#figure-interaction [data-choice]")
        ends = []
        for i in range(2):
            buttons.nth(i).click()
            page.settle()
            ends.append(page.run("panels.find((p) => p.div.id === 'interaction-0').div.data[0].colorscale"))
            assert [ends[i][0][1], ends[i][-1][1]] == ["rgb(108, 178, 242)", "rgb(245, 164, 90)"]
        page.tab.locator('[data-choose-theme="light"]').click()
        page.settle()
        light = page.run("panels.find((p) => p.div.id === 'interaction-0').div.data[0].colorscale")
        assert [light[0][1], light[-1][1]] == ["rgb(31, 90, 153)", "rgb(179, 80, 15)"]


def test_a_page_without_memory_can_still_be_dark(browser: Any, report: Path) -> None:
    forbid = """Object.defineProperty(window, "localStorage", {
      get() { throw new DOMException("no", "SecurityError"); } })"""
    with opened(browser, report, script=forbid, color_scheme="light") as page:
        page.settle()
        page.tab.locator('[data-choose-theme="dark"]').click()
        page.settle()
        assert page.run(_LOOK)["page"] == rgb(BACKGROUND)
        assert page.errors == []


def test_images_and_paper_are_light(browser: Any, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        page.settle()
        image = page.run("JSON.parse(JSON.stringify(onWhite(document.getElementById('learning-0'))))")
        assert image["layout"]["paper_bgcolor"] == "#fff"
        assert "#d55e00" in {t["line"].get("color") for t in image["data"]}
        assert any(shape["type"] == "rect" for shape in image["layout"]["shapes"])
        assert page.run(_LOOK)["line"] == dark("#d55e00")
        page.run("dispatchEvent(new Event('beforeprint'))")
        page.tab.emulate_media(media="print")
        paper = page.run(_LOOK)
        assert (paper["page"], paper["line"]) == ("rgb(255, 255, 255)", "#d55e00")
        widths = (
            "panels.filter((p) => !p.box.hidden).map((p) => [p.div._fullLayout.width, p.div.clientWidth])"
        )
        assert all(drawn == room <= 680 for drawn, room in page.run(widths))
        hidden = (
            "(query) => [...document.querySelectorAll(query)].every((e) => e.getClientRects().length === 0)"
        )
        assert page.run(hidden, "#step, #play, .choice, .choices, .numbers, .modebar, .contents")
        page.tab.emulate_media(media="screen")
        page.run("dispatchEvent(new Event('afterprint'))")
        page.settle()
        assert page.run(_LOOK)["line"] == dark("#d55e00")
        assert all(drawn == pytest.approx(room, abs=1) for drawn, room in page.run(widths))
        assert page.tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")
        assert page.errors == []


# ---- for everyone ---------------------------------------------------------------------------------------


def violations(page: Opened) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    found = axe.run(page.tab, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['target']}" for v in found if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, path: Path, theme: str) -> None:
    with opened(browser, path, color_scheme=theme) as page:
        page.settle()
        page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert violations(page) == []


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = find_figure("fig2").cells
    results = [result(cell, {456: 800 + 1000 * i, 789: 99_999}) for i, cell in enumerate(cells[:3])]
    return write_pages({one.cell: one for one in results}, tmp_path_factory.mktemp("paper"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "fig2"])
def test_the_paper_s_pages_are_for_everyone_too(browser: Any, paper: Path, name: str, theme: str) -> None:
    with opened(browser, paper.with_name(f"{name}.html"), color_scheme=theme) as page:
        if name != "index":
            page.settle()
        assert page.run("getComputedStyle(document.body).backgroundColor") == (
            rgb(BACKGROUND) if theme == "dark" else "rgb(255, 255, 255)"
        )
        assert violations(page) == []
        assert page.errors == []


def test_every_plot_is_an_image_with_a_name(page: Opened) -> None:
    named = page.run("""() => panels.map((p) => [...p.div.querySelectorAll(".main-svg")].map((svg) =>
      [svg.getAttribute("role"), svg.getAttribute("aria-label"), svg.getAttribute("aria-hidden")]))""")
    for first, *others in named:
        assert first[0] == "img"
        assert first[1].startswith("Plot: ")
        assert {hidden for *_, hidden in others} == {"true"}
