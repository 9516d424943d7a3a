"""The commands on cells and runs: the main job, its stages one by one, and what is done with trained runs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mech_grok.cli.app import (
    Config,
    DryRun,
    Out,
    Override,
    PrintConfig,
    Resume,
    SameOverride,
    Where,
    app,
    command_line,
)
from mech_grok.errors import UserError

if TYPE_CHECKING:
    from mech_grok.study import Target


@app.command
def run(
    config: Config,
    *overrides: Override,
    out: Out = Path("runs"),
    resume: Resume = False,
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
) -> None:
    """The main job: train, probe and ablate every cell of a config, then one report over them."""
    from mech_grok.config_file import read_study
    from mech_grok.study import run_target, study_target

    target = study_target(read_study(config, overrides), out)
    if _goes_on(target, print_config, dry_run):
        print(f"report: {run_target(target, resume, command_line('run', config, overrides, out))}")


@app.command
def train(
    target: Where,
    *overrides: Override,
    out: Out = Path("runs"),
    resume: Resume = False,
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
) -> None:
    """Train every cell of a config, or continue existing runs (with --resume)."""
    from mech_grok.study import find_target, train_target

    found = find_target(target, overrides, out)
    if _goes_on(found, print_config, dry_run):
        for trained in train_target(found, resume, command_line("train", target, overrides, out)):
            print(f"run: {trained.path}")


@app.command
def probe(
    target: Where | None = None,
    *overrides: SameOverride,
    probes: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, negative="", help="Which probes; default: all.")
    ] = (),
    list_: Annotated[
        bool,
        Parameter(name="--list", negative="", help="Print the probes (--probes: with definitions) and stop."),
    ] = False,
    out: Out = Path("runs"),
) -> None:
    """Record what the probes see at every checkpoint and seed; what is there already is kept."""
    if list_:
        from mech_grok.probes.catalogue import catalogue

        print(catalogue(probes))
        return
    if target is None:
        raise UserError("probe needs a config file, a run directory or a folder of runs; --list needs none")
    from mech_grok.study import find_target, recorded_runs

    runs = recorded_runs(find_target(target, overrides, out))
    from mech_grok.checkpoint_stages import probe_run

    for recorded in runs:
        probe_run(recorded, probes)
        print(f"probes: {recorded.path / 'probes'}")


@app.command
def ablate(target: Where, *overrides: SameOverride, out: Out = Path("runs")) -> None:
    """Score every intervention on sets of pathways, at every checkpoint and seed; what is there is kept."""
    from mech_grok.study import find_target, recorded_runs

    runs = recorded_runs(find_target(target, overrides, out))
    from mech_grok.checkpoint_stages import ablate_run

    for recorded in runs:
        ablate_run(recorded)
        print(f"ablations: {recorded.path / 'ablations.zarr'}")


@app.command
def report(
    target: Where,
    *overrides: SameOverride,
    export: Annotated[
        tuple[Path, ...],
        Parameter(
            negative="",
            consume_multiple=True,
            help="Write figures instead: files such as entropy.svg, learning.pdf, patterns.png; or a folder, "
            "for all of them as SVG.",
        ),
    ] = (),
    out: Out = Path("runs"),
) -> None:
    """Write one interactive page over runs, into `report/` of their study or of the folder named."""
    from mech_grok.study import evaluated_runs, find_target, report_target

    found = find_target(target, overrides, out)
    if not export:
        print(f"report: {report_target(found)}")
        return
    from mech_grok.report.export import export_figures

    print("\n".join(f"figure: {path}" for path in export_figures(evaluated_runs(found), export)))


@app.command
def surgery(
    parent: Annotated[Path, Parameter(name="RUN", help="The run directory to begin from.")],
    /,
    *,
    at: Annotated[int, Parameter(help="The checkpoint to begin from: its step.")],
    to: Annotated[str, Parameter(help="The placement to go on with, such as mlp-pre or M.")],
    optimiser: Annotated[
        Literal["keep", "reset"], Parameter(help="Keep AdamW's state, or begin with an empty one.")
    ] = "keep",
    match_scale: Annotated[
        bool,
        Parameter(negative="", help="Give new norms the gain that keeps the mean length of what is read."),
    ] = False,
    steps: Annotated[
        int | None, Parameter(help="The step to train to, counted from RUN's first. [default: RUN's last]")
    ] = None,
    resume: Resume = False,
    dry_run: DryRun = False,
) -> None:
    """Train on from a checkpoint of a run under another placement, and report both futures."""
    from mech_grok.fork_run import fork_target, report_fork
    from mech_grok.study import train_target

    settings = {"step": at, "optimiser": optimiser, "match_scale": match_scale}
    target = fork_target(parent, to, settings, steps)
    if _goes_on(target, print_config=False, dry_run=dry_run):
        options = ["--at", str(at), "--to", to, "--optimiser", optimiser]
        options += ["--match-scale"] if match_scale else []
        options += [] if steps is None else ["--steps", str(steps)]
        (run,) = train_target(target, resume, shlex.join(["mech-grok", "surgery", str(parent), *options]))
        print(f"run: {run.path}")
        print(f"report: {report_fork(target)}")


@app.command(name="ls")
def list_runs(folder: Annotated[str, Parameter(help="Where to look: a folder or a URL.")] = "runs") -> None:
    """Studies with the state of every cell, and other runs: placement, seeds, steps, generalisation step."""
    from mech_grok.listing import print_runs
    from mech_grok.sweep.places.mirror import fetch
    from mech_grok.sweep.places.remote import is_remote

    print_runs(fetch(folder) if is_remote(folder) else Path(folder))


@app.command
def patch(
    clean: Annotated[Path, Parameter(help="The run directory that activations are taken from.")],
    /,
    *,
    into: Annotated[Path, Parameter(help="The run directory whose models they are put into.")],
    clean_step: Annotated[int | None, Parameter(help="The one checkpoint to take them from.")] = None,
    step: Annotated[int | None, Parameter(help="The one checkpoint to put them into.")] = None,
) -> None:
    """Patch each component of one run's models into another's, or into other checkpoints of the same run.

    Without --clean-step and --step at every checkpoint step that both have; what is there already is kept.
    """
    from mech_grok.run import Run

    donor, receiver = Run(clean), Run(into)
    from mech_grok.patch_stage import patch_run

    print(f"patching: {patch_run(donor, receiver, clean_step, step)}")


def _goes_on(target: "Target", print_config: bool, dry_run: bool) -> bool:
    """Print the config, if asked to, else what will be done; whether it is then to be done."""
    from mech_grok.config_file import to_yaml
    from mech_grok.progress import say
    from mech_grok.study import plan

    if print_config:
        configs = [target.study] if target.study else target.cells.values()
        print("---\n".join(map(to_yaml, configs)), end="")
    if dry_run or not print_config:
        say("\n".join(plan(target)))
    return not (print_config or dry_run)


@app.command
def gallery(
    folder: Annotated[Path, Parameter(help="Has reports below it, at any depth.")] = Path("reports"),
) -> None:
    """Write one page over all reports below a folder, with a picture of each."""
    from mech_grok.report.gallery import write_gallery

    print(f"gallery: {write_gallery(folder)}")
