"""Figures of a report as SVG, PNG or PDF files, for papers and slides."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import plotly.graph_objects as go

from mech_grok.errors import UserError
from mech_grok.report.cells import Run
from mech_grok.report.one_figure import find_figure, plotly_figure, report_figures

FORMATS = (".svg", ".png", ".pdf")
SHARPNESS = 2
"""Pixels of a PNG per pixel of the page."""


def export_figures(runs: Sequence[Run], wanted: Sequence[Path]) -> list[Path]:
    """Write figures of the report over some runs; returns the files.

    Args:
        wanted: `<folders>/<figure>.<svg|png|pdf>`, or a folder, which gets every figure as SVG.

    Raises:
        UserError: a figure or format is unknown, Kaleido is not installed, or finds no browser.
    """
    figures = report_figures(runs)
    chosen = {}
    for path in wanted:
        if path.suffix in FORMATS:
            chosen[path] = find_figure(figures, path.stem)
        elif path.suffix and not path.is_dir():
            raise UserError(f"{path}: cannot write {path.suffix} files; allowed: {', '.join(FORMATS)}")
        else:
            chosen |= {path / f"{name}.svg": figure for name, figure in figures.items()}
    for path, figure in chosen.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(plotly_figure(figure), path)
    return list(chosen)


def _write(figure: go.Figure, path: Path) -> None:
    if not find_spec("kaleido"):
        raise UserError(
            "exporting figures takes Kaleido, which is not installed: pip install 'mech-grok[export]'"
        )
    try:
        figure.update_layout(paper_bgcolor="#ffffff").write_image(
            path, scale=SHARPNESS if path.suffix == ".png" else 1
        )
    except RuntimeError as error:
        if "Chrome" not in str(error):
            raise
        raise UserError(
            f"{path}: exporting figures takes Chrome or Chromium, and none was found: install one, or name "
            "its program in BROWSER_PATH"
        ) from None
