"""How well a colour stands out from another, and shades of one hue that stand out as asked."""

import colorsys
import math

LEAST = 3.0
"""What WCAG 2.2 asks of marks and lines (1.4.11, non-text contrast)."""

WHITE = "#ffffff"
_FAINTEST, _STRONGEST = 3.1, 13.5  # contrasts on white between which the shades of a hue are


def contrast(one: str, other: str) -> float:
    """The contrast ratio (WCAG 2.2) of two hex colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance (WCAG 2.2) of a hex colour, from 0 to 1."""
    red, green, blue = (_linear(channel) for channel in _channels(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def with_contrast(colour: str, background: str, wanted: float) -> str:
    """The shade of a hex colour, of its hue and saturation, whose contrast on black or white is `wanted`.

    Args:
        background: hex; the shade is lighter than a dark one and darker than a light one.
        wanted: what it is at least, by less than one step of a channel.
    """
    hue, _, saturation = colorsys.rgb_to_hls(*_channels(colour))
    dark = luminance(background) < 0.18  # black and white stand out alike
    near, far = (0.0, 1.0) if dark else (1.0, 0.0)
    for _ in range(24):
        middle = (near + far) / 2
        enough = contrast(_hex(*colorsys.hls_to_rgb(hue, middle, saturation)), background) >= wanted
        near, far = (near, middle) if enough else (middle, far)
    return _hex(*colorsys.hls_to_rgb(hue, far, saturation))


def shade(colour: str, rank: int, of: int) -> str:
    """The `rank`-th of `of` shades of a hex colour, itself the 0th; all stand out from white and differ."""
    if not rank:
        return colour
    own = contrast(colour, WHITE)
    place = math.log(own / _FAINTEST) / math.log(_STRONGEST / _FAINTEST)
    fainter = min(max(round(place * (of - 1)), 0), of - 1)
    places = [_FAINTEST * (own / _FAINTEST) ** (i / fainter) for i in range(fainter)]
    stronger = of - 1 - fainter
    places += [own * (_STRONGEST / own) ** (i / stronger) for i in range(1, stronger + 1)]
    return with_contrast(colour, WHITE, places[rank - 1])


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _hex(red: float, green: float, blue: float) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in (red, green, blue))
