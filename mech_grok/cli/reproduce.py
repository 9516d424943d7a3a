"""The command that reproduces the figures of the paper."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mech_grok.cli.app import Cpus, Gpus, Plan, PrintConfig, SweepOut, Workers, app
from mech_grok.errors import UserError

if TYPE_CHECKING:
    import mech_grok.paper.request  # not needed for help
    import mech_grok.study_config

_RESULTS = Path("reports/paper")

Words = Annotated[
    str,
    Parameter(
        name="FIGURE",
        help="Names of figures, such as fig2 [default: all], and changes to what their cells share: "
        "training.device=cuda",
    ),
]
Results = Annotated[
    Path, Parameter(help="Where results and pages are; what is there already is not trained again.")
]
List = Annotated[
    bool,
    Parameter(name="--list", negative="", help="Print the figures, and how many runs of each are there."),
]
TwoSeeds = Annotated[bool, Parameter(negative="", help="Only seeds 456 and 789, not all five.")]
AsIs = Annotated[
    bool, Parameter(negative="", help="Train nothing: add what runs are complete, and write the pages.")
]
Claims = Annotated[
    bool, Parameter(negative="", help="Print every claim and what was found of it, as Markdown, and stop.")
]


@app.command
def reproduce(
    *words: Words,
    list_: List = False,
    results: Results = _RESULTS,
    out: SweepOut = "runs",
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    plan: Plan = False,
    print_config: PrintConfig = False,
    two_seeds: TwoSeeds = False,
    as_is: AsIs = False,
    claims: Claims = False,
) -> None:
    """Figures of arXiv 2602.06702: train what is missing, and write pages with the published numbers.

    Can be stopped and repeated at any time: what is in RESULTS is not trained again, runs or no runs.

    --print-config is a study for mech-grok sweep on other machines; with their runs in OUT, --as-is goes on.
    """
    from mech_grok.paper.reproduce import plan_missing
    from mech_grok.paper.reproduce import reproduce as reproduce_figures
    from mech_grok.paper.request import request
    from mech_grok.sweep.asked import Asked

    _check_one(
        {
            "--list": list_,
            "--plan": plan,
            "--print-config": print_config,
            "--as-is": as_is,
            "--claims": claims,
        }
    )
    asked_for, asked = request(words, two_seeds), Asked("local", workers, cpus, gpus or 0.0)
    if list_:
        print(_list(asked_for, results))
    elif claims:
        print(_claims(asked_for.figures, results))
    elif print_config:
        print(_yaml(asked_for.study), end="")
    elif plan:
        print("\n".join(plan_missing(asked_for, results, out, asked)))
    else:
        command = _command(words, results, out, two_seeds)
        complete = reproduce_figures(asked_for, results, out, None if as_is else asked, command)
        print("\n".join(f"page: {results / page}.html" for page in (*asked_for.figures, "index")))
        if not complete:
            raise SystemExit(1)


def _check_one(modes: dict[str, bool]) -> None:
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise UserError(f"{chosen[0]} and {chosen[1]} are different things to do; give one of them")


def _list(asked_for: "mech_grok.paper.request.Request", results: Path) -> str:
    from mech_grok.paper.figure_list import figure_lines
    from mech_grok.paper.results import load_trainings

    return "\n".join(figure_lines(asked_for.figures, asked_for.seeds, load_trainings(results)))


def _claims(figures: tuple[str, ...], results: Path) -> str:
    from mech_grok.paper.claims_table import claims_table
    from mech_grok.paper.results import load_results, measured

    return claims_table(measured(load_results(results)), figures)


def _yaml(study: "mech_grok.study_config.StudyConfig") -> str:
    from mech_grok.config_file import to_yaml

    return to_yaml(study)


def _command(words: tuple[str, ...], results: Path, out: str, two_seeds: bool) -> str:
    """The command that was given, as a shell would take it again."""
    options = ["--two-seeds"] if two_seeds else []
    options += [] if results == _RESULTS else ["--results", str(results)]
    options += [] if out == "runs" else ["--out", out]
    return shlex.join(["mech-grok", "reproduce", *words, *options])
