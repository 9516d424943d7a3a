"""The folder of pages: one for each figure, an index, and plotly's script. They open from a file, offline."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mech_grok.paper import limits
from mech_grok.paper.figures import FIGURES
from mech_grok.paper.measures import Measured, whole
from mech_grok.paper.pages.comparison import blocks, csv_rows
from mech_grok.paper.pages.overview import Overview, overview
from mech_grok.paper.pages.provenance import definitions, differences, provenance
from mech_grok.paper.pages.shown import chips
from mech_grok.paper.pages.view import FigureView, figure_view, sections
from mech_grok.paper.pages.wording import counted, typeset
from mech_grok.paper.published import published
from mech_grok.paper.results import Result, measured
from mech_grok.report.render import SCRIPTS, embedded, environment, resource, script_json, write_whole
from mech_grok.report.summary import Entry, Summary, write_summary
from mech_grok.report.thumbnail import ThumbLine, thumb_line

HERE = "mech_grok.paper.pages"


def write_pages(results: Mapping[str, Result], folder: Path) -> Path:
    """Write `index.html`, a page for each figure, and what they need; the path of the first.

    The same results give the same files, byte for byte.

    Args:
        results: cell's name -> what was measured of it; cells may be missing, and so may seeds and curves.
        folder: made if it is not there.
    """
    templates, curves = environment(HERE), measured(results)
    templates.filters["typeset"] = lambda text: Markup(typeset(text))
    views = [figure_view(figure, results, curves, published()) for figure in FIGURES]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "plotly.min.js", get_plotlyjs())
    for view in views:
        write_whole(folder / view.file, _figure_page(templates, view, results, curves))
    write_summary(folder, _summary(overview(views)), _thumbnail(views[0], curves))
    return write_whole(folder / "index.html", _index(templates, views))


def _summary(total: Overview) -> Summary:
    verdicts = [Entry(verdict, counted(n, "claim")) for verdict, n in total.verdicts.items()]
    values = Entry("published values", total.counts.text)
    networks = f"{total.networks} of {total.wanted} networks trained"
    facts = ("arXiv 2602.06702", networks, counted(total.claims, "claim"))
    return Summary(_TITLE, _INDEX, facts, (*verdicts, values), "test accuracy of figure 2's placements")


def _thumbnail(view: FigureView, curves: Measured) -> list[ThumbLine]:
    """Test accuracy of the cells of one figure."""
    cells = [cell for group in view.groups for cell in group.drawn]
    accuracy = [(cell.colour, curves.get((cell.name, "test_accuracy"))) for cell in cells]
    return [thumb_line(colour, whole(curve)) for colour, curve in accuracy if curve is not None]


def _figure_page(
    templates: jinja2.Environment, view: FigureView, results: Mapping[str, Result], curves: Measured
) -> str:
    drawn = sections(view, curves)
    cells = list(chain.from_iterable(group.drawn for group in view.groups))
    names = SCRIPTS if drawn else SCRIPTS[:1]  # of a table alone, the download
    scripts = [*(resource(name) for name in names), resource("comparison.js", HERE)]
    return templates.get_template("figure.html.jinja").render(
        view=view,
        title=Markup(typeset(view.figure.title)),
        description=view.description,
        lede=Markup(typeset(view.description)),
        sections=drawn,
        chips=chips(view.groups),
        seeds=[seed for seed in view.values.seeds if any(seed in s for s in view.coverage.seeds.values())],
        blocks=blocks(view.rows, view.groups, view.values.rules),
        compared=script_json({"rows": csv_rows(view.rows), "name": f"{view.figure.name}-published"}),
        terms=definitions(view.figure, view.values),
        differences=differences(view.figure, results),
        made=provenance(view.groups, results),
        css=_css(),
        scripts=scripts,
        data=embedded(drawn, cells) if drawn else "",
    )


def _index(templates: jinja2.Environment, views: Sequence[FigureView]) -> str:
    return templates.get_template("index.html.jinja").render(
        views=views,
        overview=overview(views),
        values=published(),
        limits=limits,
        title=_TITLE,
        description=_INDEX,
        css=_css(),
        scripts=[],
        data="",
    )


_TITLE = "Every figure, run again"
_INDEX = (
    "The figures of “Explaining Grokking in Transformers through the Lens of Inductive Bias” (Singh, Misra "
    "and Orvieto): every claim checked, and every published number beside ours."
)


def _css() -> Markup:
    return resource("page.css") + resource("paper.css", HERE)
