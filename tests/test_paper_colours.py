"""The colours of the paper's pages: those of an order, such as learning rates, stand out and differ."""

from itertools import pairwise

import numpy as np
import pytest

from mech_grok.paper.figure_list import find_figure
from mech_grok.paper.pages.shown import shown_groups
from mech_grok.report.contrast import LEAST, WHITE, contrast
from mech_grok.report.theme import BACKGROUND, dark

NOTICEABLE = 10.0
"""Distance (CIE 1976) between neighbouring colours; 2.3 is just noticeable."""


def lab(colour: str) -> np.ndarray:
    """L*, a*, b* of a hex colour, D65."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
    )
    ratio = to_xyz @ linear / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_lab_by_hand() -> None:
    np.testing.assert_allclose(lab(WHITE), [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.2], atol=0.05)


@pytest.mark.parametrize("figure", ["fig4", "fig5", "lattice"])
def test_an_order_has_colours_that_stand_out_and_differ(figure: str) -> None:
    for group in shown_groups(find_figure(figure)):
        colours = list(dict.fromkeys(cell.colour for cell in group.drawn))
        for shades, background in ((colours, WHITE), ([dark(c) for c in colours], BACKGROUND)):
            assert min(contrast(shade, background) for shade in shades) >= LEAST
            assert all(np.linalg.norm(lab(a) - lab(b)) >= NOTICEABLE for a, b in pairwise(shades))


@pytest.mark.parametrize("figure", ["fig4", "fig5"])
def test_the_colours_of_an_order_are_ordered_in_grey(figure: str) -> None:
    """From dark to light on white, with the value; on dark the other way round."""
    for group in shown_groups(find_figure(figure)):
        shades = {value_of(cell.label): cell.colour for cell in group.drawn}
        colours = [shades[value] for value in sorted(shades)]
        assert len(colours) > 2
        assert all(lab(b)[0] - lab(a)[0] > 4 for a, b in pairwise(colours))
        assert all(lab(a)[0] - lab(b)[0] > 3 for a, b in pairwise(map(dark, colours)))


def value_of(label: str) -> float:
    """0.003 of `lr 0.003 (base)`."""
    return float(label.removesuffix(" (base)").split()[-1])
