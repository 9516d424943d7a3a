"""How the ablation grid is drawn: heat maps of changes of either sign, and curves over a factor.

Both show small and large changes at once: they are linear near 0 and logarithmic beyond.
"""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from mech_grok.report.ablation_arrays import NATS_LINEAR_BELOW, Quantity
from mech_grok.report.checkpoints import StepArray, colour_bar
from mech_grok.report.lines import DASHES
from mech_grok.report.section import Choice, colour_key
from mech_grok.report.style import DIVERGING, MISSING, RULE, template
from mech_grok.report.tables import number

# ---- the signed logarithm -------------------------------------------------------------------------------


def signed_log(change: NDArray[np.floating] | float, linear_below: float) -> NDArray[np.float64]:
    """sign(x) log10(1 + |x| / linear_below): proportional to a small change, else to its logarithm."""
    x = np.asarray(change, np.float64)
    return np.asarray(np.sign(x) * np.log10(1 + np.abs(x) / linear_below))


def signed_log_ticks(limit: float, linear_below: float) -> tuple[float, ...]:
    """The changes at which `DIVERGING` has its five colours, from -limit to limit."""
    half = linear_below * (math.sqrt(1 + limit / linear_below) - 1)
    return -limit, -half, 0.0, half, limit


def signed_log_scale(limit: float, linear_below: float) -> list[list[object]]:
    """`DIVERGING` along the signed logarithm of a change, as stops on the linear scale up to ±limit."""
    shares = np.linspace(-1, 1, 41)
    changes = np.sign(shares) * linear_below * ((1 + limit / linear_below) ** np.abs(shares) - 1)
    colours = sample_colorscale(DIVERGING, list((shares + 1) / 2))
    stops = ((changes / limit + 1) / 2).round(9)  # exactly 0 and 1 at the ends, which plotly insists on
    return [[float(stop), colour] for stop, colour in zip(stops, colours, strict=True)]


def change_choice(label: str, quantity: Quantity, limit: float) -> Choice:
    """A button, and the colours of changes of a quantity up to ±limit that go with it."""
    labels = [number(x) for x in signed_log_ticks(limit, quantity.linear_below)]
    labels[2] = f"{labels[2]} {quantity.units}".strip()
    return Choice(
        label,
        look={
            "zmin": -limit,
            "zmax": limit,
            "colorscale": signed_log_scale(limit, quantity.linear_below),
            "colorbar.title.text": quantity.units,
        },
        colours=colour_key(DIVERGING, *labels),
    )


# ---- heat maps ------------------------------------------------------------------------------------------


def draw_grid(info: StepArray, choices: Sequence[Choice]) -> go.Figure:
    """Heat map intervention x pathway set at the last checkpoint, mean over seeds; a choice per quantity."""
    _, interventions, sets = info.coords
    meta = {"array": info.key, "choices": [[i] for i in range(len(choices))]}
    figure = _heat_map(
        choices[0],
        z=info.mean[-1, 0],
        x=sets,
        y=interventions,
        xgap=2,
        texttemplate="%{z:+.2f}",
        hovertemplate="%{y} on %{x}: %{z:+.4g}<extra></extra>",
        meta=meta,
    )
    figure.update_xaxes(type="category", showline=False, ticks="", tickangle=0 if len(sets) < 4 else -30)
    return figure.update_layout(height=60 + 30 * len(interventions))


def draw_history(
    info: StepArray, shown: Sequence[str], choices: Sequence[Choice], span: tuple[float, float]
) -> go.Figure:
    """Heat map step x pathway set of the first quantity, mean over seeds; a choice for each of `shown`."""
    _, interventions, sets = info.coords
    at = [[0, interventions.index(name)] for name in shown]
    figure = _heat_map(
        choices[0],
        z=info.mean[:, 0, at[0][1]].T,
        x=info.steps,
        y=sets,
        hovertemplate="step %{x:,}, %{y}: %{z:+.4g}<extra></extra>",
        meta={"array": info.key, "choices": at, "names": list(shown), "history": True},
    )
    figure.update_xaxes(title_text="step", tickformat=",", tickangle=0, nticks=5, range=span)
    figure.update_yaxes(title_text="pathways")
    return figure.update_layout(height=84 + 27 * len(sets))


def _heat_map(choice: Choice, **trace: object) -> go.Figure:
    figure = go.Figure(layout={"template": template()})
    look = {key: value for key, value in choice.look.items() if "." not in key}
    bar = colour_bar(str(choice.look["colorbar.title.text"]))
    figure.add_trace(go.Heatmap(ygap=2, colorbar=bar, **look, **trace))
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure.update_layout(plot_bgcolor=MISSING)


# ---- curves over a factor -------------------------------------------------------------------------------


def draw_scale(arrays: Sequence[StepArray], pathways: str, extent: tuple[float, float]) -> go.Figure:
    """Change in loss over the factor on one set of pathways at the last checkpoint, mean over seeds.

    A curve per cell and split; the y axis is a signed logarithm and always spans `extent`, in nats.
    """
    figure = go.Figure(layout={"template": template()})
    for info in arrays:
        sets, splits, _ = info.coords
        if pathways in sets:
            at = sets.index(pathways)
            figure.add_traces([_scale_curve(info, at, splits.index(s), s) for s in ("train", "test")])
    factors = [float(factor) for factor in arrays[0].coords[2]]
    figure.update_xaxes(
        title_text="factor", type="log", tickvals=factors, ticktext=[*map(_fraction, factors)]
    )
    figure.update_xaxes(tickangle=0)
    low, high = (float(signed_log(end, NATS_LINEAR_BELOW)) for end in extent)
    pad = 0.05 * (high - low or 1)
    ticks, labels = _signed_ticks(*extent)
    figure.update_yaxes(title_text="change (nats)", range=[low - pad, high + pad])
    figure.update_yaxes(tickvals=ticks, ticktext=labels)
    figure.add_hline(y=0, line={"color": RULE, "width": 1})
    return figure.update_layout(height=220)


def _scale_curve(info: StepArray, pathways: int, at_split: int, split: str) -> go.Scatter:
    change = info.mean[-1, pathways, at_split]
    return go.Scatter(
        x=info.coords[2],
        y=signed_log(change, NATS_LINEAR_BELOW),
        customdata=change,
        mode="lines+markers",
        name=f"{info.cell.label} {split}",
        line={"color": info.cell.colour, "width": 2.0, "dash": DASHES[split]},
        marker={"size": 5},
        hovertemplate=f"<b>{info.cell.label}</b> {split}<br>times %{{x}}<br>%{{customdata:+.4g}} nats"
        "<extra></extra>",
        meta={
            "array": info.key,
            "at": [pathways, at_split],
            "cell": info.cell.index,
            "linear_below": NATS_LINEAR_BELOW,
        },
    )


def _fraction(factor: float) -> str:
    return f"1/{1 / factor:g}" if 0 < factor < 1 else f"{factor:g}"


def _signed_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Where a signed-log axis has its labels: 0 and, on either side, a few powers of ten up to its end."""
    changes = [*(-x for x in _powers(-low)), 0.0, *_powers(high)]
    ticks = [float(signed_log(x, NATS_LINEAR_BELOW)) for x in changes]
    return ticks, [f"{x:g}".replace("-", "\N{MINUS SIGN}") for x in changes]


def _powers(end: float) -> list[float]:
    """1, 10, ... up to `end`; 0.1 only where 1 is beyond it."""
    if end < 0.1:
        return []
    return [10.0**n for n in range(math.floor(math.log10(end)) + 1)] or [0.1]
