"""A small picture of a report: the test accuracy of its cells, as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mech_grok.report.cells import Run, identify
from mech_grok.report.curves import evaluated
from mech_grok.report.lines import over_seeds
from mech_grok.report.render import environment
from mech_grok.report.thinning import evenly_spaced

WIDTH, HEIGHT, EDGE = 320, 180, 12
"""Pixels; the edge is free."""
MOST_POINTS = 120  # of a line; more cannot be told apart


@dataclass(frozen=True)
class ThumbLine:
    """One line of the picture.

    Attributes:
        colour: hex.
        steps: [step].
        accuracy: [step], 0 to 1; nan where there is none.
    """

    colour: str
    steps: np.ndarray
    accuracy: np.ndarray


def compute_thumbnail(runs: Sequence[Run]) -> list[ThumbLine]:
    """Test accuracy of each cell, mean over seeds."""
    cells = zip(identify(runs), runs, strict=True)
    return [thumb_line(cell.colour, evaluated(run)["test_accuracy"]) for cell, run in cells]


def thumb_line(colour: str, accuracy: xr.DataArray) -> ThumbLine:
    """The line of a (seed, step) array."""
    steps = accuracy["step"].values
    keep = evenly_spaced(len(steps), MOST_POINTS)
    mean = over_seeds(accuracy.transpose("seed", "step").values)[0]
    return ThumbLine(colour, steps[keep], mean[keep])


def draw_thumbnail(lines: Sequence[ThumbLine]) -> str:
    """The SVG file's text; all lines share one axis of steps."""
    last = max((int(line.steps[-1]) for line in lines if line.steps.size), default=1)
    paths = [(line.colour, _path(line, last)) for line in lines]
    template = environment().get_template("thumbnail.svg.jinja")
    return template.render(width=WIDTH, height=HEIGHT, edge=EDGE, paths=paths)


def _path(line: ThumbLine, last: int) -> str:
    """`M12 168L20.5 160...`, a new `M` after a gap."""
    x = EDGE + (WIDTH - 2 * EDGE) * line.steps / max(last, 1)
    y = HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * line.accuracy
    parts, is_drawing = [], False
    for across, up in zip(x, y, strict=True):
        if np.isfinite(up):
            parts.append(f"{'L' if is_drawing else 'M'}{across:.1f} {up:.1f}")
        is_drawing = bool(np.isfinite(up))
    return "".join(parts)
