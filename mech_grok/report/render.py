"""From sections and a template to a page: the templates' surroundings, and the numbers inside the page."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mech_grok.report.cells import Cell
from mech_grok.report.headline import step_summary
from mech_grok.report.packing import packed_array, stored_once
from mech_grok.report.phase_shapes import SHADING
from mech_grok.report.phases import CellPhases, embedded_phases
from mech_grok.report.section import Panel, Section
from mech_grok.report.tables import number
from mech_grok.report.theme import dark, dark_scale, dark_table

PLOTLY_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,  # plotly 7 offers to upload the figure unless told not to
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "toImage"],
}
HERE = "mech_grok.report"

SCRIPTS = (
    "download.js",
    "inflate.js",
    "arrays.js",
    "colours.js",
    "phases.js",
    "cursor.js",
    "panels.js",
    "deck.js",
    "print.js",
    "page.js",
)
"""What draws the panels of a page and moves them, in the order in which they are read."""


def environment(*packages: str) -> jinja2.Environment:
    """Templates of this package (`shell.html.jinja`, `macros.html.jinja`) and of other packages, by name."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, "") for package in (HERE, *packages)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "duration": duration, "steps": step_summary}
    environment.filters |= {"dark": dark, "dark_scale": dark_scale}
    environment.globals["theme_script"] = resource("theme.js")
    return environment


def resource(name: str, package: str = HERE) -> Markup:
    """A style sheet or script of a package, to be put into a page as it is."""
    return Markup((files(package) / name).read_text("utf-8"))


def embedded(sections: Sequence[Section], cells: Sequence[Cell], phases: Sequence[CellPhases] = ()) -> Markup:
    """All numbers of a page as JSON, packed, safe inside a script element.

    Args:
        cells: those that the traces' `meta` refers to, at their own index.
        phases: what its time plots shade.
    """
    arrays = {a.key: a for section in sections for a in section.arrays}
    panels = {
        f"{figure.slug}-{i}": _drawn(panel)
        for section in sections
        for figure in section.figures
        for i, panel in enumerate(figure.panels)
    }
    looks = {f.slug: [c.look for c in f.choices] for s in sections for f in s.figures if f.choices}
    colours = [c.colour for c in cells]
    parts, (short_panels, short_looks) = stored_once([panels, looks])
    data = {
        "config": PLOTLY_CONFIG,
        "cells": [{"name": c.name, "specifier": c.specifier, "colour": c.colour} for c in cells],
        "phases": embedded_phases(phases),
        "shading": asdict(SHADING),
        "dark": dark_table([panels, looks, colours]),
        "steps": sorted({int(step) for a in arrays.values() for step in a.steps}),
        "arrays": {key: packed_array(a) for key, a in arrays.items()},
        "shared": parts,
        "panels": short_panels,
        "looks": short_looks,
    }
    return script_json(data)


def script_json(data: Mapping[str, object]) -> Markup:
    """JSON that no text in it can end a script element with."""
    return Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def write_whole(path: Path, text: str) -> Path:
    """Write a text file so that a reader finds the old one or the new one; the path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


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


def _number(value: float) -> Markup:
    return Markup(number(value))


def _drawn(panel: Panel) -> dict[str, Any]:
    """A panel's figure as JSON, without the maps that an array of the page has already."""
    drawn = json.loads(panel.figure.to_json() or "")
    for trace in drawn["data"]:
        if trace["type"] == "heatmap" and "array" in trace.get("meta", {}):
            del trace["z"]
    return drawn
