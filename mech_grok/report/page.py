"""The report of a study: one HTML page, and plotly's script beside it. It opens from a file, offline."""

import base64
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mech_grok.config_file import to_yaml
from mech_grok.report.cells import ReadOnce, Run, identify
from mech_grok.report.checkpoints import StepArray
from mech_grok.report.forks import guests
from mech_grok.report.headline import compute_headline, step_summary
from mech_grok.report.section import Section
from mech_grok.report.sections import build_sections
from mech_grok.report.tables import number

PLOTLY_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,  # plotly 7 offers to upload the figure unless told not to
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "toImage"],
}
# What a run records of its surroundings, in the order in which the page shows it.
ENVIRONMENT = ("mech_grok", "python", "torch", "transformer_lens", "platform", "cpu", "threads", "device")


def study_report(
    runs: Sequence[Run], directory: Path, title: str, description: str = "", command: str = ""
) -> Path:
    """Write `index.html` and `plotly.min.js` into `directory` and return the path of the first.

    Args:
        runs: the cells of the study, in the order in which they are shown; at least one.
        title, description: plain text.
        command: what reproduces the study, plain text.

    Raises:
        ValueError: there are no runs, or one has not been evaluated yet.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    runs = [ReadOnce(run) for run in runs]
    for run in runs:
        if not run.metrics["evaluated"].any():
            raise ValueError(f"run '{run.name}' has no evaluated step yet: train it first")
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "plotly.min.js", get_plotlyjs())
    return _write(directory / "index.html", _render(runs, title, description, command))


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def _render(runs: Sequence[Run], title: str, description: str, command: str) -> str:
    headlines = compute_headline(runs)
    sections = build_sections(runs, headlines)
    resources = files("mech_grok.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "duration": duration, "steps": step_summary}
    return environment.from_string((resources / "page.html.jinja").read_text("utf-8")).render(
        title=title,
        description=description,
        command=command,
        headlines=headlines,
        sections=sections,
        seeds=_seeds(runs),
        made=list(zip(identify(runs), runs, map(_yaml, runs), strict=True)),
        environment_keys=ENVIRONMENT,
        css=Markup((resources / "page.css").read_text("utf-8")),
        scripts=[Markup((resources / name).read_text("utf-8")) for name in ("download.js", "page.js")],
        data=Markup(_embedded(runs, sections)),
    )


def _number(value: float) -> Markup:
    return Markup(number(value))


def _yaml(run: Run) -> str:
    return to_yaml(run.config)


def duration(seconds: float | None) -> str:
    """Wall time in words: `41 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds is None:
        return "not recorded"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _seeds(runs: Sequence[Run]) -> list[int]:
    return list(dict.fromkeys(int(s) for run in runs for s in run.metrics["seed"].values))


def _embedded(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """All numbers of the page as JSON, arrays in base64, safe inside a script element."""
    arrays = {a.key: a for section in sections for a in section.arrays}
    panels = {
        f"{figure.slug}-{i}": json.loads(panel.figure.to_json() or "")
        for section in sections
        for figure in section.figures
        for i, panel in enumerate(figure.panels)
    }
    data = {
        "config": PLOTLY_CONFIG,
        "cells": [{"name": c.name, "specifier": c.specifier} for c in (*identify(runs), *guests(runs))],
        "steps": sorted({int(step) for a in arrays.values() for step in a.steps}),
        "arrays": {key: _array(a) for key, a in arrays.items()},
        "panels": panels,
        "looks": {f.slug: [c.look for c in f.choices] for s in sections for f in s.figures if f.choices},
    }
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _array(a: StepArray) -> dict[str, object]:
    return {
        "cell": a.cell.index,
        "seeds": a.seeds,
        "steps": a.steps.tolist(),
        "dims": a.dims,
        "coords": a.coords,
        "shape": a.values.shape,
        "values": base64.b64encode(a.values.astype("<f4").tobytes()).decode(),
    }
