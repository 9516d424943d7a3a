"""The look of every figure: one template, two colour scales, and one colour per placement.

Figures are made in these colours, on white; `theme` knows what each of them is on dark.
"""

from functools import cache

import plotly.graph_objects as go

from mech_grok.placement import Placement, all_placements

INK = "#22272e"
MUTED = "#5f6873"
PALE = "#9aa3ad"  # lines in the background
RULE = "#d5d9de"
GRID = "#eceef0"
MISSING = "#eef0f2"  # behind heat maps: what has no value, told apart from 0
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"

# From white to ink blue, for quantities that start at 0: lightness alone carries the value.
SEQUENTIAL = [
    [0.0, "#ffffff"],
    [0.25, "#d3e0ee"],
    [0.5, "#8fb3d6"],
    [0.75, "#3f7cb5"],
    [1.0, "#0b3a6b"],
]
# Blue to orange through white, for changes of either sign; told apart under every colour blindness.
DIVERGING = [
    [0.0, "#1f5a99"],
    [0.25, "#92b9db"],
    [0.5, "#ffffff"],
    [0.75, "#f1b27c"],
    [1.0, "#b3500f"],
]
# Around once, for angles: what is far apart differs in lightness, or as blue from orange.
CYCLIC = [
    [0.0, "#0b3a6b"],
    [0.25, "#3f9fb5"],
    [0.5, "#d9a02c"],
    [0.75, "#b3500f"],
    [1.0, "#0b3a6b"],
]

# Okabe and Ito's palette for the placements that the paper names (its yellow is too pale for a line),
# then Paul Tol's muted one for the rest; the palest a little darker, for a contrast of 3 on white.
_NAMED_COLOURS = {
    "off": "#3d4148",
    "attn-pre": "#0072b2",
    "pre": "#b5578f",
    "mlp-pre": "#d55e00",
    "attn-pre-qk": "#2e96d1",
    "attn-pre-v": "#009e73",
    "pre-v": "#c78400",
}
_OTHER_COLOURS = (
    "#332288",
    "#3fa08f",
    "#979732",
    "#cc6677",
    "#882255",
    "#117733",
    "#aa4499",
    "#6295ca",
    "#661100",
    "#a58a3c",
    "#5b7a8c",
    "#7a5aa6",
)


@cache
def _colours() -> dict[str, str]:
    others = [p.specifier for p in all_placements() if p.specifier not in _NAMED_COLOURS]
    return {**_NAMED_COLOURS, **dict(zip(others, _OTHER_COLOURS, strict=True))}


def placement_colour(placement: Placement) -> str:
    """The hex colour that stands for a placement in every report."""
    return _colours()[placement.specifier]


def translucent(colour: str, alpha: float) -> str:
    """A hex colour as CSS rgba."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


@cache
def template() -> go.layout.Template:
    """The Plotly template of all figures; given to each one, never set as Plotly's default."""
    axis = {
        "automargin": True,
        "zeroline": False,
        "showline": True,
        "linecolor": RULE,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": RULE,
        "tickfont": {"size": 11.5, "color": MUTED},
        "title": {"font": {"size": 12.5, "color": INK}, "standoff": 8},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12.5, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 12, "r": 22, "t": 14, "b": 12},
            "xaxis": {**axis, "gridcolor": GRID, "showgrid": False},
            "yaxis": {**axis, "gridcolor": GRID, "showline": False, "ticks": ""},
            "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": RULE, "font": {"color": INK, "size": 12}},
            "modebar": {"bgcolor": "rgba(255,255,255,0.85)", "color": MUTED, "activecolor": INK},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        }
    )
