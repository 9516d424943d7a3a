"""One surgery on one run: the run that begins from it, and a report over both futures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mech_grok.config import CellConfig, SurgeryConfig
from mech_grok.config_difference import first_difference
from mech_grok.config_file import validate_cell
from mech_grok.errors import UserError
from mech_grok.placement import Placement
from mech_grok.study import Target

if TYPE_CHECKING:
    import mech_grok.run


def fork_target(parent: Path, placement: str, surgery: dict[str, Any], steps: int | None) -> Target:
    """The run that begins from a checkpoint of another one, beside it.

    Args:
        parent: the other run's directory.
        placement: what the new run is trained under, by any of its names.
        surgery: `step`, `optimiser`, `match_scale` of `SurgeryConfig`.
        steps: where it ends, counted from the parent's first step; None for the parent's last.

    Raises:
        UserError: there is no such run, step or placement, nothing is left to train, or the run is there
            already with other settings.
    """
    from mech_grok.origins import check_origins
    from mech_grok.run import Run

    parent = parent if parent.name not in ("", "..") else parent.resolve()
    run = Run(parent)
    tree = run.config.model_dump()
    tree["model"]["placement"] = _placement(placement)
    tree["training"]["steps"] = _last_step(run, surgery["step"], steps)
    tree["surgery"] = {"parent": parent.name, **surgery}
    cell = validate_cell(tree, str(parent))
    path = parent.parent / fork_name(cell)
    there = first_difference(Run(path).config, cell) if (path / "config.yaml").is_file() else None
    if there:
        raise UserError(f"{path}: done with other settings ({there}); ask for the same, or move it away")
    check_origins({path: cell})
    return Target(path, {path: cell})


def _last_step(run: "mech_grok.run.Run", at: int, steps: int | None) -> int:
    """Where the new run ends, which is beyond the checkpoint that it begins from."""
    from mech_grok.training.checkpoints import check_step

    last = run.config.training.steps if steps is None else steps
    if at >= last:
        check_step(run.path, run.steps, at)
        ends = f"--steps {steps}" if steps is not None else f"step {last:,}, the last of {run.path}"
        raise UserError(f"nothing to train from --at {at} to {ends}; give --steps above {at}")
    return last


def _placement(name: str) -> Placement:
    try:
        return Placement.parse(name)
    except ValueError as error:
        raise UserError(f"--to: {error}") from None


def fork_name(cell: CellConfig) -> str:
    """`mlp-pre_from=off_at=500`, and what of `SurgeryConfig` is not as by default."""
    assert cell.surgery is not None
    parts = {"from": Path(cell.surgery.parent).name, "at": cell.surgery.step}
    for key in ("optimiser", "match_scale"):
        value = getattr(cell.surgery, key)
        if value != SurgeryConfig.model_fields[key].default:
            parts[key] = value
    return "_".join([cell.model.placement.specifier, *(f"{key}={value}" for key, value in parts.items())])


def report_fork(target: Target) -> Path:
    """One report over a run and the one that it began from, in the new run's `report/`; returns its path."""
    from mech_grok.report import study_report
    from mech_grok.run import Run

    (path,) = target.cells
    run = Run(path)
    both = [r for r in (run.parent, run) if r is not None and r.is_evaluated]
    return study_report(
        both,
        path / "report",
        title=run.name,
        description="",
        command=run.environment.get("command", ""),
    )
