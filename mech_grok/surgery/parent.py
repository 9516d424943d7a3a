"""Whether a run can begin from a checkpoint of another one."""

from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.config_difference import differing
from mech_grok.errors import UserError
from mech_grok.run import Run, beside
from mech_grok.surgery.transplant import new_affines
from mech_grok.training.checkpoints import check_step

_MAY_DIFFER = (
    "model.placement",
    "optimiser.lr",
    "optimiser.weight_decay",
    "training.steps",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.optimiser_state_every",
    "training.follow_entropy",
    "training.device",
    "training.threads",
    "surgery",
)
"""What a run may have otherwise than its parent; a section stands for all that is in it."""


def find_parent(run: Run) -> Run:
    """The run that another one is to begin from, with the checkpoint that it asks for.

    Raises:
        UserError: it is not there, not trained that far, or too different.
    """
    surgery = run.config.surgery
    assert surgery is not None
    path = beside(run.path, surgery.parent)
    if run.parent is None:
        raise UserError(f"{run.path}: begins from {path}, and that is no run directory")
    check_surgery(run.config, run.parent.config, path)
    check_step(path, run.parent.steps, surgery.step)
    return run.parent


def check_surgery(child: CellConfig, parent: CellConfig, parent_path: Path) -> None:
    """Refuse a surgery between two configs that is none.

    Raises:
        UserError: more differs than the placement and how training goes on, or there is no gain that could
            be chosen to match a scale.
    """
    for key, there, asked in differing(parent, child):
        if not (_may_differ(key) or (key == "model.attention_factor" and None in (there, asked))):
            raise UserError(
                f"{key}: {there} in {parent_path}, {asked} asked for; a run that begins from another one may "
                f"differ from it in {', '.join(_MAY_DIFFER)}, and model.attention_factor where one has none"
            )
    if child.surgery and child.surgery.match_scale and not new_affines(parent.model, child.model):
        raise UserError(
            f"surgery.match_scale chooses the gain of a new norm; {parent.model.placement} -> "
            f"{child.model.placement} adds none that has a gain of its own"
        )


def _may_differ(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in _MAY_DIFFER)
