"""Surgeries that are refused: no such checkpoint, a damaged parent, or one that differs in too much."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from forks import STEP, alone, cell, child_of, train, train_parents

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.study_config import set_dotted
from mech_grok.surgery.parent import check_surgery
from mech_grok.training.checkpoints import load_tensors, optimiser_path, save_tensors, weights_path

WHAT_MAY_DIFFER = {
    "model.placement": "M",
    "model.attention_factor": 1.5,
    "optimiser.lr": 0.01,
    "optimiser.weight_decay": 0.0,
    "training.steps": 90,
    "training.evaluate_every": 3,
    "training.checkpoint_every": 7,
    "training.follow_entropy": {"of": "x"},
    "training.threads": None,
    "surgery": {"parent": "off", "step": 10, "match_scale": True},
}
"""Setting -> what a run has that begins from one with another value, or with none."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs to begin from."""
    return train_parents(tmp_path_factory.mktemp("runs"), "off")


@pytest.fixture
def parent(home: Path, tmp_path: Path) -> Run:
    """A copy of `off`, alone in its folder."""
    return alone(home, "off", tmp_path)


def complaint(parent: Run, config: CellConfig) -> str:
    """The one line with which training a child of a parent is refused; nothing is checkpointed then."""
    path = parent.path.parent / "child"
    with pytest.raises(UserError) as refused:
        train(path, config)
    assert Run(path).steps == ()
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (25, "no checkpoint at step 25; nearest: 20 and 30"),
        (39, "no checkpoint at step 39; nearest: 30 and 40"),
        (50, "no checkpoint at step 50; nearest: 40 (the last)"),
    ],
)
def test_a_step_without_checkpoint(parent: Run, step: int, message: str) -> None:
    assert message in complaint(parent, child_of(parent, "M", step, training__steps=100))


def test_a_parent_that_is_missing_untrained_or_damaged(parent: Run) -> None:
    elsewhere = child_of(parent, "M", surgery__parent="../nowhere")
    assert "nowhere, and that is no run directory" in complaint(parent, elsewhere)
    shutil.rmtree(parent.path.parent / "child")
    config = child_of(parent, "M")
    weights = weights_path(parent.checkpoint_folder, STEP)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert "step_000020.safetensors: not a whole safetensors file" in complaint(parent, config)
    weights.write_bytes(whole)
    optimiser_path(parent.checkpoint_folder, STEP).write_bytes(b"hello")
    assert "optimiser_000020.safetensors: not a whole" in complaint(parent, config)
    shutil.rmtree(parent.checkpoint_folder)
    assert f"{parent.path}: no checkpoints yet; train it first" in complaint(parent, config)


def test_a_replay_that_does_not_come_out_as_saved(parent: Run) -> None:
    """As on another machine: the stored weights of step 30 are not those that a replay gives."""
    path = weights_path(parent.checkpoint_folder, 30)
    weights = load_tensors(path)
    weights["embed.W_E"][1, 2, 3] += 1e-6
    save_tensors(path, weights)
    environment = parent.path / "environment.json"
    environment.write_text(json.dumps({**json.loads(environment.read_text()), "torch": "1.0"}))
    line = complaint(parent, child_of(parent, "M", 30))
    assert "replayed to step 30, the weights differ from those saved (torch was 1.0, is" in line
    assert "--optimiser reset" in line
    shutil.rmtree(parent.path.parent / "child")
    child = train(parent.path.parent / "child", child_of(parent, "M", 30, surgery__optimiser="reset"))
    assert child.surgery["optimiser"] == "empty"
    assert torch.equal(child.weights(30)["embed.W_E"], weights["embed.W_E"])


def test_no_optimiser_state_to_replay_from(parent: Run) -> None:
    folder = parent.path.parent
    child = train(folder / "first", child_of(parent, "M"))
    for step in (20, 40):
        optimiser_path(child.checkpoint_folder, step).unlink()
    line = complaint(child, child_of(child, "off", 30))
    assert "first: no optimiser state up to step 30; begin with an empty one" in line


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task.p", 13, "task.p: 11 in runs/off, 13 asked for; a run that begins from another one may differ"),
        ("model.d_model", 32, "model.d_model: 16 in runs/off, 32 asked for"),
        ("model.norm", "rms", "model.norm: ln in runs/off, rms asked for"),
        ("model.attention_factor", 2.0, "model.attention_factor: 1.5 in runs/off, 2.0 asked for"),
        ("optimiser.beta2", 0.99, "optimiser.beta2: 0.98 in runs/off, 0.99 asked for"),
        ("training.seeds", [3, 2], "training.seeds: [3, 1] in runs/off, [3, 2] asked for"),
        ("training.dtype", "float32", "training.dtype: float64 in runs/off, float32 asked for"),
        ("surgery.match_scale", True, "match_scale chooses the gain of a new norm; mlp-pre -> off adds none"),
    ],
)
def test_only_the_placement_and_how_training_goes_on_may_differ(
    key: str, value: object, message: str
) -> None:
    parent = cell(model__placement="M", model__attention_factor=1.5)
    tree = parent.model_dump() | {"surgery": {"parent": "off", "step": 10}}
    tree["model"] = tree["model"] | {"placement": "off"}
    changed = CellConfig.model_validate(set_dotted(tree, key, value))
    with pytest.raises(UserError) as refused:
        check_surgery(changed, parent, Path("runs/off"))
    assert message in str(refused.value)


def test_everything_that_may_differ_is_listed() -> None:
    parent = cell()
    child = cell(model__d_model=32, surgery={"parent": "off", "step": 10})
    with pytest.raises(UserError) as refused:
        check_surgery(child, parent, Path("runs/off"))
    listed = str(refused.value).partition("may differ from it in ")[2]
    for key in (*WHAT_MAY_DIFFER, "training.optimiser_state_every", "training.device"):
        assert key in listed


@pytest.mark.parametrize("factor", [None, 1.5])
def test_what_may_differ(factor: float | None) -> None:
    parent = cell(model__attention_factor=factor)
    tree = parent.model_dump()
    for key, value in WHAT_MAY_DIFFER.items():
        tree = set_dotted(tree, key, value)
    check_surgery(CellConfig.model_validate(tree), parent, Path("off"))


@pytest.mark.parametrize(
    ("before", "after"), [("M", "off"), ("off", "mlp-inpnorm"), ("A^v", "A*"), ("M", "M")]
)
def test_match_scale_without_a_gain_to_choose(before: str, after: str) -> None:
    parent = cell(model__placement=before)
    surgery = {"parent": "x", "step": 10, "match_scale": True}
    with pytest.raises(UserError, match="adds none that has a gain of its own"):
        check_surgery(cell(model__placement=after, surgery=surgery), parent, Path("x"))
