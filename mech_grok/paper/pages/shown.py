"""The cells of a figure as its page shows them: one colour and one short label each, panel by panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from plotly.colors import sample_colorscale

from mech_grok.config import CellConfig
from mech_grok.paper.cells import PaperCell, Setting
from mech_grok.paper.figures import Figure, Group
from mech_grok.paper.pages.wording import typeset
from mech_grok.report.cells import Cell
from mech_grok.report.contrast import WHITE, with_contrast
from mech_grok.report.labels import placement_label
from mech_grok.report.style import placement_colour

HUES = 0.74
"""How far along plasma, from indigo to orange, the hues of an order go."""

STRONGEST, FAINTEST = 15.0, 3.2
"""How the first and the last colour of an order stand out from white, those between them evenly so: the order
of the values shows in grey and under every colour blindness, too."""

_SPOKEN = {"optimiser.lr": "lr", "model.readout_scale": "alpha"}


@dataclass(frozen=True)
class ShownCell:
    """A cell in one group of a figure.

    Attributes:
        cell: which.
        drawn: how it is drawn; `label` says only what sets it apart within its group, `index` counts through
            all groups of the page.
        is_base: whether it is the base among cells that vary a number.
    """

    cell: PaperCell
    drawn: Cell
    is_base: bool


@dataclass(frozen=True)
class ShownGroup:
    """A panel's cells; `title` is HTML, empty if the figure has one group."""

    title: str
    cells: tuple[ShownCell, ...]

    @property
    def drawn(self) -> tuple[Cell, ...]:
        """How they are drawn."""
        return tuple(shown.drawn for shown in self.cells)


def shown_groups(figure: Figure) -> tuple[ShownGroup, ...]:
    """The groups of a figure with labels, colours and indices."""
    groups, first = [], 0
    for group in figure.groups:
        groups.append(_shown(group, first))
        first += len(group.cells)
    return tuple(groups)


def by_name(groups: Sequence[ShownGroup]) -> dict[str, ShownCell]:
    """Name -> cell; of one that is in several groups, as the first of them shows it."""
    found: dict[str, ShownCell] = {}
    for shown in (cell for group in groups for cell in group.cells):
        found.setdefault(shown.cell.name, shown)
    return found


def chips(groups: Sequence[ShownGroup]) -> list[tuple[list[Cell], str]]:
    """What a button each hides: cells of the same label and colour, in whichever groups; with the label."""
    alike: dict[tuple[str, str], list[Cell]] = {}
    for cell in (drawn for group in groups for drawn in group.drawn):
        alike.setdefault((cell.label, cell.colour), []).append(cell)
    return [(cells, label) for (label, _), cells in alike.items()]


def _shown(group: Group, first: int) -> ShownGroup:
    key = _varied(group.cells)
    values = {cell: _value(cell, key) for cell in group.cells} if key else {}
    order = sorted(set(values.values()), key=float)
    cells = []
    for index, cell in enumerate(group.cells, first):
        if key is None:
            label, colour = placement_label(cell.placement), placement_colour(cell.placement)
        else:
            label = f"{_SPOKEN.get(key, _leaf(key))} {values[cell]:g}"
            colour = _ordered_colour(order.index(values[cell]), len(order))
        is_base = key is not None and values[cell] == _default(key)
        label += " (base)" if is_base else ""
        cells.append(
            ShownCell(cell, Cell(index, cell.name, label, cell.placement.specifier, colour), is_base)
        )
    return ShownGroup(typeset(group.title), tuple(cells))


def _varied(cells: Sequence[PaperCell]) -> str | None:
    """The first setting in which the cells of one placement differ; None if the placements differ."""
    if len({cell.placement for cell in cells}) > 1 or len(cells) < 2:
        return None
    keys = dict.fromkeys(key for cell in cells for key, _ in cell.settings)
    return next(key for key in keys if len({_value(cell, key) for cell in cells}) > 1)


def _value(cell: PaperCell, key: str) -> Setting:
    return dict(cell.settings).get(key, _default(key))


def _default(key: str) -> Setting:
    section, _, name = key.partition(".")
    return getattr(getattr(CellConfig(), section), name)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


@cache
def _ordered_colour(rank: int, of: int) -> str:
    share = rank / max(of - 1, 1)
    (hue,) = sample_colorscale("plasma", [HUES * share])
    channels = str(hue).removeprefix("rgb(").removesuffix(")").split(",")
    colour = "#" + "".join(f"{round(float(c)):02x}" for c in channels)
    return with_contrast(colour, WHITE, STRONGEST * (FAINTEST / STRONGEST) ** share)
