"""Single figures of a report: by name, with all panels in one Plotly figure, and as files."""

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from mech_grok.errors import UserError
from mech_grok.report.cells import identify
from mech_grok.report.export import export_figures
from mech_grok.report.one_figure import Shown, find_figure, plotly_figure, report_figures
from mech_grok.report.phase_shapes import phase_key, phase_shapes
from mech_grok.report.phases import NAMES, CellPhases, Spans, compute_phases
from mech_grok.report.tile import tiled
from tests.fake_runs import fake_run

RUNS = [fake_run("mlp-pre", "mlp", late=600), fake_run("off", "", late=9000)]


@cache
def figures_of(cells: int) -> dict[str, Shown]:
    """The figures of the first of `RUNS`, or of both."""
    return report_figures(RUNS[:cells])


def lines(*heights: float) -> go.Figure:
    return go.Figure(go.Scatter(x=[0, 1], y=heights, name="one"), layout={"height": 200})


def domains(figure: go.Figure, letter: str) -> list[tuple[float, ...]]:
    axes = figure.select_xaxes() if letter == "x" else figure.select_yaxes()
    return [tuple(axis.domain) for axis in axes]


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[1] - 1e-9 and other[0] < one[1] - 1e-9


def test_panels_have_axes_of_their_own_and_do_not_overlap() -> None:
    whole = tiled([lines(1, 2), lines(3, 4), lines(5, 6)], ["a", "b", "c"], 2, 400)
    assert [(t.xaxis, t.yaxis) for t in whole.data] == [("x", "y"), ("x2", "y2"), ("x3", "y3")]
    boxes = list(zip(domains(whole, "x"), domains(whole, "y"), strict=True))
    for i, (x, y) in enumerate(boxes):
        assert all(not (overlap(x, u) and overlap(y, v)) for u, v in boxes[:i])
        assert 0 <= x[0] < x[1] <= 1
        assert 0 <= y[0] < y[1] <= 1
    assert boxes[0][1] == boxes[1][1] != boxes[2][1]  # two a row
    assert [a.text for a in whole.layout.annotations] == ["<b>a</b>", "<b>b</b>", "<b>c</b>"]


def test_a_panel_of_several_axes_keeps_their_places() -> None:
    inner = make_subplots(rows=1, cols=2, shared_yaxes=True)
    inner.add_trace(go.Scatter(x=[0], y=[0]), row=1, col=1)
    inner.add_trace(go.Scatter(x=[0], y=[1]), row=1, col=2)
    whole = tiled([lines(1, 2), inner], ["", ""], 2, 400)
    first, left, right = domains(whole, "x")
    assert first[1] < left[0] < left[1] < right[0] < right[1] == pytest.approx(1)
    assert whole.layout.yaxis3.matches == "y2"
    assert whole.layout.xaxis3.anchor == "y3"


def test_shapes_and_annotations_move_with_their_panel() -> None:
    marked = lines(1, 2).add_hline(y=1.5, annotation_text="here")
    marked.add_annotation(x=1, y=0, xref="paper", yref="paper", text="corner", showarrow=False)
    whole = tiled([lines(1, 2), marked], ["", ""], 2, 400)
    (shape,) = whole.layout.shapes
    assert (shape.xref, shape.yref, shape.y0) == ("x2 domain", "y2", 1.5)
    corner = next(a for a in whole.layout.annotations if a.text == "corner")
    assert (corner.x, corner.y) == (whole.layout.xaxis2.domain[1], whole.layout.yaxis2.domain[0])


def test_a_name_is_in_the_legend_once() -> None:
    whole = tiled([lines(1, 2).update_traces(showlegend=True)] * 2, ["", ""], 2, 400)
    assert [trace.showlegend for trace in whole.data] == [True, False]


def test_every_figure_of_a_report_can_be_had_alone() -> None:
    for name, shown in figures_of(2).items():
        whole, figure = plotly_figure(shown), shown.figure
        own = [trace for trace in whole.data if trace.legend != "legend2"]  # that explains the phases
        assert len(own) == sum(len(panel.figure.data) for panel in figure.panels), name
        assert figure.title in whole.layout.title.text
        entries = [trace.name for trace in whole.data if trace.showlegend]
        assert len(set(entries)) == len(entries), name
        assert None not in entries, name


def test_the_title_says_which_checkpoint_and_seeds_are_shown() -> None:
    figures = figures_of(2)
    assert figures["patterns"].when == "step 1,500, mean over seeds"
    assert figures["learning"].when == ""
    assert "<sup>step 1,500, mean over seeds</sup>" in plotly_figure(figures["patterns"]).layout.title.text


def test_the_numbers_are_those_of_the_page() -> None:
    shown = figures_of(2)["attention-entropy"]
    (panel,) = shown.figure.panels
    whole = plotly_figure(shown).to_plotly_json()["data"]
    theirs_all = panel.figure.to_plotly_json()["data"]
    for ours, theirs in zip(whole[: len(theirs_all)], theirs_all, strict=True):
        assert (ours["x"], ours["y"], ours.get("name")) == (theirs["x"], theirs["y"], theirs.get("name"))


def test_means_of_every_split_are_in_the_legend() -> None:
    whole = plotly_figure(figures_of(2)["learning"])
    entries = [t.name for t in whole.data if t.showlegend and t.legend is None]
    assert sorted(entries) == ["M test", "M train", "No LN test", "No LN train"]


def rectangles(whole: go.Figure, axis: str) -> list[tuple[float, float]]:
    return [(s.x0, s.x1) for s in whole.layout.shapes if s.type == "rect" and s.xref == axis]


def test_phases_are_shaded_behind_the_curves_of_one_cell() -> None:
    (found,) = compute_phases(RUNS[:1])
    shown = figures_of(1)
    whole = plotly_figure(shown["learning"])
    for axis, panel in (("x", whole.layout.yaxis), ("x2", whole.layout.yaxis2)):
        assert rectangles(whole, axis) == list(found.mean.spans)
        heights = {(s.y0, s.y1) for s in whole.layout.shapes if s.type == "rect" and s.xref == axis}
        assert heights == {tuple(panel.domain)}
    assert {s.fillcolor for s in whole.layout.shapes if s.type == "rect"} == {found.cell.colour}
    assert [t.name for t in whole.data if t.legend == "legend2"] == list(NAMES)
    assert shown["patterns"].phases == ([],)


def test_phases_of_several_cells_are_strips_above_the_axes() -> None:
    found = compute_phases(RUNS)
    whole = plotly_figure(figures_of(2)["learning"])
    assert rectangles(whole, "x2") == [span for cell in found for span in cell.mean.spans]
    strips = [s for s in whole.layout.shapes if s.type == "rect" and s.xref == "x2"]
    assert {s.yanchor for s in strips} == {whole.layout.yaxis2.domain[1]}
    high, low = ({(s.y0, s.y1) for s in strips if s.fillcolor == c.cell.colour} for c in found)
    ((top, _),), ((bottom, below),) = high, low
    assert 0 < bottom < below < top
    history = plotly_figure(figures_of(2)["spectrum-history"])
    assert rectangles(history, "x2") == list(found[1].mean.spans)  # a map has the strip of its own cell


def test_phases_are_in_the_rows_of_their_cells() -> None:
    found = compute_phases(RUNS)
    whole = plotly_figure(figures_of(2)["milestones"])
    assert rectangles(whole, "x") == [span for cell in found for span in cell.mean.spans]
    assert {s.y0 for s in whole.layout.shapes if s.type == "rect"} == {-0.34, 1 - 0.34}


def test_the_circuit_has_a_line_where_it_is_known() -> None:
    cell = identify(RUNS[:1])[0]
    known = CellPhases(cell, Spans(((0, 100), (100, 600)), 300), {})
    panel = figures_of(1)["learning"].figure.panels[0]
    shapes = phase_shapes(panel, {}, [known])
    assert [(s["x0"], s["x1"]) for s in shapes if s["type"] == "line"] == [(300, 300)]
    assert [t.name for t in phase_key(shapes)] == [*NAMES, "circuit forms"]
    assert phase_shapes(panel, {}, []) == phase_key([]) == []


def test_names_are_forgiving_and_wrong_ones_are_told_the_nearest() -> None:
    figures = figures_of(2)
    assert find_figure(figures, "attention_entropy") is figures["attention-entropy"]
    with pytest.raises(UserError, match="unknown figure 'atention'; did you mean 'attention-entropy'"):
        find_figure(figures, "atention")


def test_formats_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"learning\.gif: cannot write \.gif files; allowed: \.svg, \.png"):
        export_figures(RUNS, [tmp_path / "learning.gif"])


def test_without_a_browser_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido", reason="Kaleido is not installed")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="takes Chrome or Chromium, and none was found"):
        export_figures(RUNS, [tmp_path / "learning.svg"])
    assert list(tmp_path.iterdir()) == []


def test_without_kaleido_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mech_grok.report.export.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mech-grok\[export\]'"):
        export_figures(RUNS, [tmp_path / "learning.svg"])


@pytest.mark.browser
def test_files_are_written_in_every_format(tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="Kaleido is not installed")
    if not any(map(shutil.which, ("chromium", "google-chrome", "chrome", "chromium-browser"))):
        pytest.skip("no Chromium is installed")
    wanted = [tmp_path / f"sub/learning{suffix}" for suffix in (".svg", ".png", ".pdf")]
    assert export_figures(RUNS, wanted) == wanted
    svg, png, pdf = (path.read_bytes() for path in wanted)
    assert (svg[:4], png[:8], pdf[:5]) == (b"<svg", b"\x89PNG\r\n\x1a\n", b"%PDF-")
    assert b"Loss and accuracy" in svg
    assert int.from_bytes(png[16:20], "big") == 2 * 1040  # two panels of 520 pixels, twice as sharp
