"""What the commands share: the application that they belong to, and parameters that mean the same in each."""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(
    name="mech-grok",
    help="Train small transformers on modular arithmetic with normalisation on chosen pathways, probe them, "
    "ablate the pathways, and write an interactive report.",
    version=lambda: __import__("importlib.metadata").metadata.version("mech-grok"),
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

Where = Annotated[Path, Parameter(help="A config file (.yaml), a run directory, or a folder of runs.")]
Config = Annotated[Path, Parameter(help="A study's config file, for example configs/quickstart.yaml.")]
Override = Annotated[str, Parameter(help="Changes to the config: training.steps=500 model.placement=M")]
SameOverride = Annotated[str, Parameter(help="Changes to the config, as given to train.")]
Out = Annotated[Path, Parameter(help="Where runs live: OUT/<study>/<cell>/.")]
Resume = Annotated[bool, Parameter(negative="", help="Continue unfinished runs from their last checkpoint.")]
PrintConfig = Annotated[bool, Parameter(negative="", help="Print the effective config as YAML and stop.")]
DryRun = Annotated[bool, Parameter(negative="", help="Say what would be done and stop.")]
SweepOut = Annotated[
    str,
    Parameter(help="Where runs live: OUT/<study>/<cell>/; a folder, or a URL such as s3://bucket/runs."),
]
Plan = Annotated[bool, Parameter(negative="", help="Say which cells, how long and how much disk, and stop.")]
Workers = Annotated[
    int | None, Parameter(help="Cells at once on this machine. [default: as many as it carries]")
]
Cpus = Annotated[
    int | None, Parameter(help="CPU threads of each cell. [default: cores divided by cells; Ray: 1]")
]
Gpus = Annotated[
    float | None,
    Parameter(help="GPUs of each cell; 0.25: four cells share one. [default: 1 with device cuda]"),
]


def command_line(name: str, target: Path, overrides: tuple[str, ...], out: Path | str) -> str:
    """The command that was given, as a shell would take it again."""
    where = [] if str(out) == "runs" else ["--out", str(out)]
    return shlex.join(["mech-grok", name, str(target), *overrides, *where])
