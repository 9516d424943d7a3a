"""The report of a study: one HTML page, and plotly's script beside it. It opens from a file, offline."""

from collections.abc import Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from mech_grok.config_file import to_yaml
from mech_grok.report.cells import ReadOnce, Run, identify
from mech_grok.report.forks import guests
from mech_grok.report.headline import Headline, compute_headline
from mech_grok.report.phases import NAMES, PHASES, compute_phases
from mech_grok.report.render import SCRIPTS, embedded, environment, resource, write_whole
from mech_grok.report.sections import build_sections
from mech_grok.report.summary import study_summary, write_summary
from mech_grok.report.thumbnail import compute_thumbnail

# What a run records of its surroundings, in the order in which the page shows it.
ENVIRONMENT = ("mech_grok", "python", "torch", "transformer_lens", "platform", "cpu", "threads", "device")


def study_report(
    runs: Sequence[Run], directory: Path, title: str, description: str = "", command: str = ""
) -> Path:
    """Write `index.html`, what it needs and what a gallery shows of it; returns the path of the first.

    Args:
        runs: the cells of the study, in the order in which they are shown; at least one.
        title, description: plain text.
        command: what reproduces the study, plain text.

    Raises:
        ValueError: there are no runs, or one has not been evaluated yet.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    runs = [ReadOnce(run) for run in runs]
    for run in runs:
        if not run.metrics["evaluated"].any():
            raise ValueError(f"run '{run.name}' has no evaluated step yet: train it first")
    directory.mkdir(parents=True, exist_ok=True)
    headlines = compute_headline(runs)
    write_whole(directory / "plotly.min.js", get_plotlyjs())
    write_summary(directory, study_summary(title, description, headlines), compute_thumbnail(runs))
    return write_whole(directory / "index.html", _render(runs, headlines, title, description, command))


def _render(
    runs: Sequence[Run], headlines: Sequence[Headline], title: str, description: str, command: str
) -> str:
    sections = build_sections(runs, headlines)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            description=description,
            command=command,
            headlines=headlines,
            chips=[([h.cell], h.cell.label) for h in headlines],
            sections=sections,
            seeds=_seeds(runs),
            made=list(zip(identify(runs), runs, map(_yaml, runs), strict=True)),
            environment_keys=ENVIRONMENT,
            css=resource("page.css"),
            phase_names=NAMES,
            terms=(*sections[0].definitions, *PHASES, *(t for s in sections[1:] for t in s.definitions)),
            scripts=[resource(name) for name in SCRIPTS],
            data=embedded(sections, (*identify(runs), *guests(runs)), compute_phases(runs)),
        )
    )


def _yaml(run: Run) -> str:
    return to_yaml(run.config)


def _seeds(runs: Sequence[Run]) -> list[int]:
    return list(dict.fromkeys(int(s) for run in runs for s in run.metrics["seed"].values))
