"""The command line. Nothing heavy is imported before a command needs it, so that help is instant."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from mech_grok.errors import UserError

app = App(
    name="mech-grok",
    help="Train small transformers on modular arithmetic with normalisation on chosen pathways, probe them, "
    "ablate the pathways, and write an interactive report.",
    version=lambda: __import__("importlib.metadata").metadata.version("mech-grok"),
    help_format="plaintext",
)

Target = Annotated[Path, Parameter(help="A config file (.yaml), a run directory, or a folder of runs.")]
Config = Annotated[Path, Parameter(help="A study's config file, for example configs/quickstart.yaml.")]
Overrides = Annotated[
    tuple[str, ...], Parameter(help="Changes to the config: training.steps=500 model.placement=M ...")
]
Out = Annotated[Path, Parameter(help="Where runs live: OUT/<study>/<cell>/.")]
Resume = Annotated[bool, Parameter(negative="", help="Continue unfinished runs from their last checkpoint.")]
PrintConfig = Annotated[bool, Parameter(negative="", help="Print the effective config as YAML and stop.")]
DryRun = Annotated[bool, Parameter(negative="", help="Say what would be done and stop.")]


@app.command
def run(
    config: Config,
    *overrides: Annotated[str, Parameter(help="Changes to the config: training.steps=500 model.placement=M")],
    out: Out = Path("runs"),
    resume: Resume = False,
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
) -> None:
    """The main job: train, probe and ablate every cell of a config, then one report over them."""
    from mech_grok.config_file import load_study
    from mech_grok.study import run_study

    study = load_study(config, overrides)
    if not _only_shown(study, out, print_config, dry_run):
        print(f"report: {run_study(study, out, resume, _command())}")


@app.command
def train(
    target: Target,
    *overrides: Annotated[str, Parameter(help="Changes to the config: training.steps=500 model.placement=M")],
    out: Out = Path("runs"),
    resume: Resume = False,
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
) -> None:
    """Train every cell of a config, or continue existing runs (with --resume)."""
    from mech_grok.config_file import load_study
    from mech_grok.study import is_config, target_runs, train_study
    from mech_grok.train_stage import train_cell

    if is_config(target):
        study = load_study(target, overrides)
        if _only_shown(study, out, print_config, dry_run):
            return
        runs = train_study(study, out, resume, _command())
    else:
        from mech_grok.run import Run

        paths = target_runs(target, overrides, out)
        runs = [train_cell(path, Run(path).config, resume, _command()) for path in paths]
    for trained in runs:
        print(f"run: {trained.path}")


@app.command
def probe(
    target: Target,
    *overrides: Annotated[str, Parameter(help="Changes to the config, as given to train")],
    probes: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, negative="", help="Which probes; default: all.")
    ] = (),
    out: Out = Path("runs"),
) -> None:
    """Record what the probes see at every checkpoint and seed."""
    from mech_grok.checkpoint_stages import probe_run
    from mech_grok.run import Run
    from mech_grok.study import target_runs

    for path in target_runs(target, overrides, out):
        probe_run(Run(path), probes)
        print(f"probes: {path / 'probes'}")


@app.command
def ablate(
    target: Target,
    *overrides: Annotated[str, Parameter(help="Changes to the config, as given to train")],
    out: Out = Path("runs"),
) -> None:
    """Score bypassing and inserting norms on sets of pathways, at every checkpoint and seed."""
    from mech_grok.checkpoint_stages import ablate_run
    from mech_grok.run import Run
    from mech_grok.study import target_runs

    for path in target_runs(target, overrides, out):
        ablate_run(Run(path))
        print(f"ablations: {path / 'ablations.zarr'}")


@app.command
def report(
    target: Target,
    *overrides: Annotated[str, Parameter(help="Changes to the config, as given to train")],
    out: Out = Path("runs"),
) -> None:
    """Write one interactive page over the runs of a study."""
    from mech_grok.study import target_runs, write_report

    print(f"report: {write_report(target_runs(target, overrides, out))}")


@app.command(name="ls")
def list_runs(
    folder: Annotated[Path, Parameter(help="Where to look.")] = Path("runs"),
) -> None:
    """Runs on disk: placement, seeds, steps done, generalisation step."""
    from mech_grok.listing import print_runs

    print_runs(folder)


def _only_shown(study: object, out: Path, print_config: bool, dry_run: bool) -> bool:
    """Print the config or the plan, if asked to; whether that was all."""
    from mech_grok.config import StudyConfig
    from mech_grok.config_file import to_yaml
    from mech_grok.study import plan

    assert isinstance(study, StudyConfig)
    if print_config:
        print(to_yaml(study), end="")
    if dry_run:
        print("\n".join(plan(study, out)))
    return print_config or dry_run


def _command() -> str:
    """The command that was given, as a shell would take it again."""
    return shlex.join(["mech-grok", *(a for a in sys.argv[1:] if a != "--resume")])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    # Idle OpenMP threads that spin slow everything down many times over when another process wants the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _stop(" ".join(str(error).split()), 2)
    except UserError as error:
        _stop(str(error), 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except BaseException as error:
        code = getattr(error, "exit_code", None)  # a signal's, without importing the training for it
        if code is None:
            raise
        _stop(str(error), code)


def _stop(message: str, code: int) -> None:
    print(f"mech-grok: {message}", file=sys.stderr)
    raise SystemExit(code)
