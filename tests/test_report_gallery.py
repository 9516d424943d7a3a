"""The gallery over reports: what each leaves beside its page, and the page over all of them."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mech_grok.errors import UserError
from mech_grok.report import study_report
from mech_grok.report.gallery import exhibits, write_gallery
from mech_grok.report.summary import plain, read_summary
from mech_grok.report.thumbnail import EDGE, HEIGHT, WIDTH, ThumbLine, draw_thumbnail
from tests.fake_runs import fake_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two reports and a gallery over them."""
    root = tmp_path_factory.mktemp("reports")
    both = [fake_run("mlp-pre", "mlp", late=600), fake_run("off", "", late=9000)]
    study_report(both, root / "b" / "deep", "Zwei <b>Läufe</b>", "norms & none")
    study_report(both[:1], root / "a", "one")
    write_gallery(root)
    return root


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_the_summary_says_when_each_cell_generalised(folder: Path) -> None:
    summary = read_summary(folder / "b" / "deep" / "summary.json")
    assert (summary.title, summary.description) == ("Zwei <b>Läufe</b>", "norms & none")
    assert summary.facts == ("2 cells", "2 seeds", "1,500 steps")
    m, off = summary.entries
    assert (m.label, off.label, off.text) == ("M", "No LN", "not by step 1,500")
    assert re.fullmatch(r"generalised at \d{3}", m.text)


def test_every_report_is_shown_with_links_that_lead_there(folder: Path) -> None:
    page = (folder / "index.html").read_text("utf-8")
    assert [e.page for e in exhibits(folder)] == ["a/index.html", "b/deep/index.html"]
    for link in re.findall(r'(?:href|src)="([^"#:]+)"', page):
        assert (folder / link).exists(), link
    assert "Zwei &lt;b&gt;Läufe&lt;/b&gt;" in page
    assert "<b>Läufe" not in page
    assert "norms &amp; none" in page
    assert "http" not in re.sub(r"https?://www\.w3\.org\S*", "", page)


def test_written_twice_it_is_the_same_and_does_not_show_itself(folder: Path) -> None:
    before = (folder / "index.html").read_bytes()
    (folder / "summary.json").write_text("{}")
    assert write_gallery(folder).read_bytes() == before


def test_the_picture_is_the_mean_test_accuracy_on_one_axis_of_steps() -> None:
    lines = [
        ThumbLine("#112233", np.array([0, 50, 100]), np.array([0.0, 0.5, 1.0])),
        ThumbLine("#445566", np.array([0, 50]), np.array([1.0, 0.0])),
    ]
    paths = ElementTree.fromstring(draw_thumbnail(lines)).findall("{*}path")[1:]
    assert [path.get("stroke") for path in paths] == ["#112233", "#445566"]
    first, second = (points(path.get("d") or "") for path in paths)
    assert first == [(EDGE, HEIGHT - EDGE), (WIDTH / 2, HEIGHT / 2), (WIDTH - EDGE, EDGE)]
    assert second == [(EDGE, EDGE), (WIDTH / 2, HEIGHT - EDGE)]


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    line = ThumbLine("#112233", np.array([0, 1, 2, 3]), np.array([0.0, np.nan, 1.0, 1.0]))
    path = ElementTree.fromstring(draw_thumbnail([line])).findall("{*}path")[1].get("d") or ""
    assert re.sub(r"[\d. ]", "", path) == "MML"


def test_labels_lose_their_markup() -> None:
    assert plain("A<sup>qk</sup> · lr &lt; 1") == "A^qk · lr < 1"


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder; give one that has reports below it"):
        write_gallery(tmp_path / "none")
    with pytest.raises(UserError, match="no reports below it"):
        write_gallery(tmp_path)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "index.html").touch()
    for text in ("", "[]", json.dumps({"title": "t"})):
        (tmp_path / "r" / "summary.json").write_text(text)
        with pytest.raises(UserError, match="not the summary of a report; write the report again"):
            write_gallery(tmp_path)
