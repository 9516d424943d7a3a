"""What every colour of a page becomes on a dark background.

Figures carry the colours of `style`. The page looks each of them up in the table made here, so a figure needs
no second drawing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from plotly.colors import sample_colorscale

from mech_grok.report.contrast import WHITE, contrast, with_contrast
from mech_grok.report.style import DIVERGING, GRID, INK, MISSING, MUTED, PALE, RULE, SEQUENTIAL

BACKGROUND = "#14171b"

# From the background to pale blue: what is near 0 recedes, as it does on white.
SEQUENTIAL_DARK = ["#14171b", "#1f3b57", "#2f6596", "#64a3dc", "#d9eafa"]
DIVERGING_DARK = ["#6cb2f2", "#2a5d8c", "#14171b", "#8a4a14", "#f5a45a"]

_NEUTRAL = {
    WHITE: BACKGROUND,
    INK: "#e4e7eb",
    MUTED: "#a3acb7",
    PALE: "#69727c",
    RULE: "#3d444d",
    GRID: "#272c32",
    MISSING: "#2a3037",
}
_SCALES = ((SEQUENTIAL, SEQUENTIAL_DARK), (DIVERGING, DIVERGING_DARK))
_STOPS = {str(stop[1]): dark for light, darks in _SCALES for stop, dark in zip(light, darks, strict=True)}
_COLOUR = re.compile(r"#[0-9a-f]{6}|rgba?\([\d., ]+\)")


def dark_table(drawn: object) -> dict[str, str]:
    """Every colour in figures as JSON -> what it is on dark, in the same notation."""
    return {colour: dark(colour) for colour in sorted(set(_colours(drawn)))}


def dark(colour: str) -> str:
    """What a colour is on dark.

    Neutral colours and those of the two scales have their own. Any other keeps its hue, and stands out from
    the dark background the more the more it does from white, so that shades that differ there differ here.

    Args:
        colour: `#rrggbb`, `rgba(r,g,b,alpha)`, or `rgb(r, g, b)`, which is how Plotly writes the colours
            between the stops of a scale.
    """
    if colour.startswith("#"):
        return _NEUTRAL.get(colour) or _STOPS.get(colour) or _mirrored(colour)
    red, green, blue, *alpha = colour[colour.index("(") + 1 : -1].split(",")
    channels = [float(channel) for channel in (red, green, blue)]
    if not alpha:
        return _on_scale(channels) or dark(_hex(channels))
    there = ",".join(str(int(channel)) for channel in _rgb(dark(_hex(channels))))
    return f"rgba({there},{alpha[0].strip()})"


def dark_scale(colours: Sequence[str]) -> list[str]:
    """The colours of a colour key on dark."""
    return [dark(colour) for colour in colours]


def _mirrored(colour: str) -> str:
    return with_contrast(colour, BACKGROUND, 4.5 * (contrast(colour, WHITE) / 3) ** 0.55)


def _on_scale(channels: Sequence[float]) -> str | None:
    """The colour at the same place of the dark scale; None if it is on neither scale."""
    for light, darks in _SCALES:
        ends = [_rgb(str(colour)) for _, colour in light]
        for i, (start, stop) in enumerate(pairwise(ends)):
            share = _share_between(start, stop, channels)
            if share is not None:
                (colour,) = sample_colorscale(darks, [(i + share) / (len(darks) - 1)])
                return str(colour)
    return None


def _share_between(start: Sequence[float], stop: Sequence[float], point: Sequence[float]) -> float | None:
    """How far along the way from one colour to another a third is; None if it is not on the way."""
    way = [b - a for a, b in zip(start, stop, strict=True)]
    gone = [p - a for a, p in zip(start, point, strict=True)]
    share = sum(w * g for w, g in zip(way, gone, strict=True)) / sum(w * w for w in way)
    off = max(abs(g - share * w) for w, g in zip(way, gone, strict=True))
    return min(1.0, max(0.0, share)) if off < 1 and -0.01 < share < 1.01 else None


def _colours(drawn: object) -> Iterator[str]:
    if isinstance(drawn, Mapping):
        drawn = list(drawn.values())
    if isinstance(drawn, str):
        if _COLOUR.fullmatch(drawn):
            yield drawn
    elif isinstance(drawn, Sequence):
        for part in drawn:
            yield from _colours(part)


def _rgb(colour: str) -> list[float]:
    return [float(int(colour[i : i + 2], 16)) for i in (1, 3, 5)]


def _hex(channels: Sequence[float]) -> str:
    return "#" + "".join(f"{round(channel):02x}" for channel in channels)
