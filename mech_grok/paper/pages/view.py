"""Everything that is known of a figure, before it is laid out."""

from collections.abc import Mapping
from dataclasses import dataclass

from mech_grok.paper.compare import figure_rows
from mech_grok.paper.figures import Figure
from mech_grok.paper.measures import Measured
from mech_grok.paper.pages.comparison import Counts, count
from mech_grok.paper.pages.coverage import Coverage, coverage
from mech_grok.paper.pages.curve_figures import curve_figures
from mech_grok.paper.pages.findings import ShownFinding, findings
from mech_grok.paper.pages.milestones import milestones_figure
from mech_grok.paper.pages.onset import onset_figure
from mech_grok.paper.pages.quantities import spoken
from mech_grok.paper.pages.scatter import scatter_figure
from mech_grok.paper.pages.shown import ShownGroup, shown_groups
from mech_grok.paper.pages.wording import counted, listed
from mech_grok.paper.published import Published
from mech_grok.paper.results import Result
from mech_grok.paper.row import Row
from mech_grok.report import section
from mech_grok.report.onset import STRUCTURES
from mech_grok.report.section import Section

_SPOKEN = {"ntk": "Tangent kernel", "lattice": "Ours"}
"""What a figure is called that has no number in the paper."""


@dataclass(frozen=True)
class FigureView:
    """A figure with what was run of it, what was found and how it compares.

    Attributes:
        values: what was published of it.
    """

    figure: Figure
    values: Published
    groups: tuple[ShownGroup, ...]
    coverage: Coverage
    findings: tuple[ShownFinding, ...]
    rows: tuple[Row, ...]

    @property
    def number(self) -> str:
        """`Figure 2`; a name for what has no number in the paper."""
        name = self.figure.name
        return f"Figure {name.removeprefix('fig')}" if name.startswith("fig") else _SPOKEN[name]

    @property
    def file(self) -> str:
        """The name of its page."""
        return f"{self.figure.name}.html"

    @property
    def description(self) -> str:
        """One line on what it shows, plain text."""
        curves = listed(spoken(name) for name in self.figure.curves)
        return f"{curves[0].upper()}{curves[1:]} of {self._cells_text}."

    @property
    def _cells_text(self) -> str:
        cells = self.figure.cells
        if len({cell.placement for cell in cells}) == len(cells):
            return listed(cell.placement.label for cell in cells)
        panels = f" in {counted(len(self.groups), 'panel')}" if len(self.groups) > 1 else ""
        return counted(len(cells), "cell") + panels

    @property
    def command(self) -> str:
        """What runs it."""
        return f"mech-grok reproduce {self.figure.name}"

    @property
    def counts(self) -> Counts:
        """How many of its published values ours agree with."""
        return count(self.rows)


def figure_view(
    figure: Figure, results: Mapping[str, Result], measured: Measured, values: Published
) -> FigureView:
    """What the results say of a figure."""
    return FigureView(
        figure=figure,
        values=values.of(figure.name),
        groups=shown_groups(figure),
        coverage=coverage(figure, results, values),
        findings=tuple(findings(figure, measured)),
        rows=tuple(figure_rows(figure, measured, values)),
    )


def sections(view: FigureView, measured: Measured) -> list[Section]:
    """What is drawn of a figure; sections without a figure are left out."""
    groups, values = view.groups, view.values
    scatter = view.figure.scatter
    related = [scatter_figure(scatter, groups, measured)] if scatter else []
    appearing = [curve for curve in view.figure.curves if curve in STRUCTURES]
    related += [onset_figure(name, groups, measured) for name in appearing]
    found = (
        _section(
            "generalisation", "Generalisation", _GENERALISATION, [milestones_figure(groups, measured, values)]
        ),
        _section(
            "curves",
            "Through training",
            _WITH_PUBLISHED if values.series else _CURVES,
            curve_figures(view.figure.curves, groups, measured, values),
        ),
        _section("relations", "One against the other", _RELATIONS, related),
    )
    return [one for one in found if one.figures]


def _section(
    slug: str, title: str, lead: str, figures: list[section.Figure | None] | list[section.Figure]
) -> Section:
    return Section(slug, title, lead, tuple(figure for figure in figures if figure), ())


_GENERALISATION = (
    "When the test set is answered. Single seeds of one cell can be thousands of steps apart; the published "
    "rule is about the accuracy curve averaged over seeds."
)
_CURVES = "What we measured, as lines."
_WITH_PUBLISHED = f"{_CURVES[:-1]}; what was published stands on top."
_RELATIONS = "The same checkpoints without the clock: what goes with what."
