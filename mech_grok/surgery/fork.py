"""The first checkpoint of a run that begins from another run's."""

import json
from dataclasses import dataclass

from torch import Tensor

from mech_grok.config_file import to_yaml
from mech_grok.run import Run
from mech_grok.surgery.match_scale import match_scale
from mech_grok.surgery.parent import find_parent
from mech_grok.surgery.replay import trainer_at
from mech_grok.surgery.transplant import Transplant, carry_over, empty_state, transplant
from mech_grok.training.checkpoints import write_whole
from mech_grok.training.parameters import ParameterStack


@dataclass(frozen=True)
class Fork:
    """What a run that begins from another one trains on.

    Attributes:
        parameters: of all seeds.
        optimiser_state: AdamW's, as `Update.load_state` takes it.
    """

    parameters: ParameterStack
    optimiser_state: dict[str, Tensor]


def fork(run: Run) -> Fork:
    """The parent's checkpoint under this run's placement, as `run.config.surgery` says.

    Keeps the parent's config and a record of what was done in the run directory (`Run.parent_config`,
    `Run.surgery`).

    Raises:
        UserError: the parent is not there, has no such checkpoint, is damaged, or is too different.
    """
    surgery = run.config.surgery
    assert surgery is not None
    parent = find_parent(run)
    moved = transplant(parent.weights(surgery.step), parent.config.model, run.config)
    gains = match_scale(parent, surgery.step, run.config, moved) if surgery.match_scale else {}
    state, origin = _optimiser_state(run, parent, moved)
    record = {
        "parent": surgery.parent,
        "step": surgery.step,
        "optimiser": origin,
        "kept": moved.kept,
        "new": moved.new,
        "dropped": moved.dropped,
        "gains": gains,
    }
    write_whole(run.path / "parent.yaml", to_yaml(parent.config).encode())
    write_whole(run.path / "surgery.json", json.dumps(record, indent=2).encode())
    return Fork(moved.parameters, state)


def _optimiser_state(run: Run, parent: Run, moved: Transplant) -> tuple[dict[str, Tensor], str]:
    """AdamW's state, and in words where it is from."""
    surgery = run.config.surgery
    assert surgery is not None
    if surgery.optimiser == "reset" or surgery.step == 0:
        return empty_state(moved.parameters), "empty"
    trainer, start = trainer_at(parent, surgery.step)
    state = carry_over(trainer.update.state(), trainer.parameters, moved)
    replayed = f", replayed from step {start}" if start < surgery.step else ""
    return state, f"the parent's at step {surgery.step}{replayed}"
