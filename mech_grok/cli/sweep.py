"""The command that works on many cells of a study at once."""

from typing import Annotated, Literal

from cyclopts import Parameter

from mech_grok.cli.app import Config, Cpus, Gpus, Override, Plan, SweepOut, Workers, app, command_line


@app.command
def sweep(
    study: Config,
    *overrides: Override,
    out: SweepOut = "runs",
    plan: Plan = False,
    engine: Annotated[
        Literal["local", "ray"],
        Parameter(
            help="Processes of this machine, or the Ray cluster at RAY_ADDRESS (else one of this machine)."
        ),
    ] = "local",
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    shard: Annotated[str, Parameter(help="Do only share i of N, as i/N: one task of a Slurm array.")] = "1/1",
) -> None:
    """The same as run, on many workers: every cell of a study that is not complete yet, several at once.

    Can be repeated at any time and run by several machines at once: no cell is trained twice.
    """
    from mech_grok.config_file import read_study
    from mech_grok.sweep.asked import Asked
    from mech_grok.sweep.shards import parse_shard
    from mech_grok.sweep.study_sweep import plan_sweep, sweep_study

    config = read_study(study, overrides)
    asked = Asked(engine, workers, cpus, gpus or 0.0, parse_shard(shard))
    if plan:
        print("\n".join(plan_sweep(config, out, asked)))
    elif not sweep_study(config, out, asked, command_line("sweep", study, overrides, out)):
        raise SystemExit(1)
