"""What the page is made of: sections of figures of panels, and the two kinds of figure built from data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import plotly.graph_objects as go

from mech_grok.report.byte_arrays import ByteArray
from mech_grok.report.cells import Cell
from mech_grok.report.checkpoints import StepArray
from mech_grok.report.lines import Lines, draw_lines, thinning_note
from mech_grok.report.tables import Table, table_of_lines

Width = Literal["small", "medium", "maps", "large", "single", "full"]
Scale = Literal["log", "linear", "common"]
Shows = Literal["training", "checkpoint"]
AnyArray = TypeVar("AnyArray", StepArray, ByteArray)

BAND = "Lines are means over seeds, bands run from the lowest to the highest seed."


@dataclass(frozen=True)
class ColourKey:
    """A colour scale from its low to its high end, and labels (HTML) spread evenly along it."""

    scale: tuple[str, ...]
    labels: tuple[str, ...]


def colour_key(scale: Sequence[Sequence[object]], *labels: str) -> ColourKey:
    """The key of a Plotly colour scale whose stops are evenly spaced."""
    return ColourKey(tuple(str(colour) for _, colour in scale), labels)


@dataclass(frozen=True)
class Choice:
    """One of the buttons that decide which part of its arrays a figure shows.

    The n-th choice of a figure is the n-th entry of `choices` in the `meta` of its traces.

    Attributes:
        label: what the button says.
        look: properties of the traces that go with it, such as the ends of the colour scale.
        colours: what the colours then stand for.
    """

    label: str
    look: Mapping[str, object]
    colours: ColourKey


@dataclass(frozen=True)
class Panel:
    """One Plotly figure.

    Attributes:
        title: HTML, above the panel; empty where the axis says it all.
        cell: the cell whose colour marks it and with which it is hidden, None if it shows several.
        shows: `training` if its x axis is the training step, `checkpoint` if it shows the selected one.
    """

    figure: go.Figure
    title: str = ""
    cell: Cell | None = None
    shows: Shows = "training"


@dataclass(frozen=True)
class Figure:
    """Panels in a grid, with a caption (HTML) and a table.

    Attributes:
        title: plain text, or markup.
        width: the least width of a panel, which decides how many stand side by side.
        key: marks to explain: `train`, `test`, `reference`, `target`, or the milestones.
        scale: the y scale that a button can change, as it starts, or None for no button.
        colours: what the colours of its heat maps stand for.
        choices: what buttons choose between, the first one shown at first; each has its own colours.
    """

    slug: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    table: Table
    width: Width = "medium"
    key: tuple[str, ...] = ()
    scale: Scale | None = None
    colours: ColourKey | None = None
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading, how to read what follows (HTML), figures, the definitions (term, HTML) of what they show.

    Attributes:
        arrays: what the checkpoint slider and the seed selector pick from.
    """

    slug: str
    title: str
    lead: str
    figures: tuple[Figure, ...]
    definitions: tuple[tuple[str, str], ...]
    arrays: tuple[StepArray | ByteArray, ...] = ()


def lines_figure(
    slug: str,
    title: str,
    caption: str,
    panels: Sequence[Lines],
    *,
    width: Width = "medium",
    scale: Scale | None = None,
    reference: str = "reference",
) -> Figure:
    """The figure of a set of panels of curves.

    Args:
        scale: gives it a button, starting there.
        reference: what the key calls the dotted curves.
    """
    heading = len(panels) > 1
    return Figure(
        slug=slug,
        title=title,
        caption=" ".join(filter(None, (caption, thinning_note(panels)))),
        panels=tuple(Panel(_sized(draw_lines(p), width), p.title if heading else "", p.cell) for p in panels),
        table=table_of_lines(panels),
        width=width,
        key=_line_styles(panels, reference),
        scale=scale,
    )


def _sized(figure: go.Figure, width: Width) -> go.Figure:
    if width == "small":
        figure.update_xaxes(nticks=3)
    return figure.update_layout(
        height={"small": 210, "medium": 280, "maps": 280, "large": 320, "single": 320, "full": 320}[width]
    )


def _line_styles(panels: Sequence[Lines], reference: str) -> tuple[str, ...]:
    used = {reference if c.reference else c.split for p in panels for c in p.curves}
    styles = tuple(s for s in ("test", "train", reference) if s in used)
    return styles if len(used) > 1 else ()


def panels_of(
    arrays: Sequence[AnyArray], draw: Callable[[AnyArray], go.Figure], *, shows: Shows
) -> tuple[Panel, ...]:
    """One panel per cell, titled with the cell."""
    return tuple(Panel(draw(a), a.cell.label, a.cell, shows) for a in arrays)
