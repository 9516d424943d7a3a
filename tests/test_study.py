"""Studies whose cells build on other runs: what has to be there, in which order, and what is said of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mech_grok.checkpoint_stages import probe_run
from mech_grok.errors import UserError
from mech_grok.origins import parents_first
from mech_grok.run import Run, beside
from mech_grok.study import (
    Target,
    check_startable,
    find_target,
    plan,
    report_target,
    run_target,
    study_target,
    train_target,
)
from mech_grok.study_config import StudyConfig

BASE: dict[str, Any] = {
    "study": "s",
    "task": {"p": 11},
    "model": {"d_model": 16, "n_heads": 2},
    "training": {
        "steps": 20,
        "seeds": [3, 1],
        "checkpoint_every": 5,
        "optimiser_state_every": 10,
        "threads": 1,
    },
}
CHAIN = {
    "off": {"model.placement": "off"},
    "mlp-pre_from=off_at=10": {"model.placement": "M", "surgery": {"parent": "off", "step": 10}},
    "again": {"model.placement": "off", "surgery": {"parent": "mlp-pre_from=off_at=10", "step": 15}},
}


def study(cells: dict[str, Any], **changes: object) -> StudyConfig:
    return StudyConfig.model_validate({**BASE, "cells": cells, **changes})


def child(placement: str = "M", **surgery: object) -> dict[str, Any]:
    return {"model.placement": placement, "surgery": {"parent": "off", "step": 10, **surgery}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs in which the chain was trained, as `s`."""
    root = tmp_path_factory.mktemp("runs")
    train_target(study_target(study(CHAIN), root), resume=False, command="test")
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs")


def test_cells_are_trained_in_order_each_from_the_one_before(trained: Path) -> None:
    runs = [Run(trained / "s" / name) for name in CHAIN]
    assert [run.steps for run in runs] == [(0, 5, 10, 15, 20), (10, 15, 20), (15, 20)]
    assert all(run.is_trained for run in runs)
    assert [run.parent and run.parent.name for run in runs] == [None, "off", "mlp-pre_from=off_at=10"]


def test_a_plan_says_where_cells_begin_and_counts_what_is_trained(trained: Path, tmp_path: Path) -> None:
    new = plan(study_target(study(CHAIN), tmp_path))
    assert new == [
        f"{tmp_path}/s/off: No LN, p = 11, 37 training pairs, 2 seeds x 20 steps, 5 checkpoints [new]",
        f"{tmp_path}/s/mlp-pre_from=off_at=10: M from off at 10, p = 11, 37 training pairs, "
        "2 seeds x 10 steps, 3 checkpoints [new]",
        f"{tmp_path}/s/again: No LN from mlp-pre_from=off_at=10 at 15, p = 11, 37 training pairs, "
        "2 seeds x 5 steps, 2 checkpoints [new]",
    ]
    assert all(line.endswith("[trained]") for line in plan(study_target(study(CHAIN), trained)))
    assert not (tmp_path / "s").exists()


def refused(target: Target) -> str:
    """The one line with which a target is refused, before anything is written."""
    before = {*target.folder.parent.rglob("*")}
    with pytest.raises(UserError) as error:
        train_target(target, resume=False, command="test")
    assert {*target.folder.parent.rglob("*")} == before
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"a": child()}, "s/a: begins from {root}/s/off, which is neither a cell of this study nor a run"),
        ({"a": child(parent="../t/off")}, "s/a: begins from {root}/t/off, which is neither"),
        ({"off": {}, "a": child(step=12)}, "s/off: no checkpoint at step 12; nearest: 10 and 15"),
        ({"off": {}, "a": {**child(), "task.p": 13}}, "task.p: 11 in {root}/s/off, 13 asked for"),
        ({"off": {}, "a": child("off", match_scale=True)}, "off -> off adds none that has a gain of its own"),
        (
            {"a": {"model.attention_factor": 1.0, "training.follow_entropy": {"of": "off"}}},
            "s/a: follows the entropies of {root}/s/off, which is neither a cell of this study nor a run or",
        ),
    ],
)
def test_what_cannot_be_built_on_is_refused_before_anything_is_written(
    tmp_path: Path, cells: dict[str, Any], message: str
) -> None:
    assert message.format(root=tmp_path) in refused(study_target(study(cells), tmp_path))


def test_a_parent_on_disk_outside_the_study(root: Path) -> None:
    """It may be anywhere; only the checkpoints that are there count."""
    shutil.copytree(root / "s" / "off", root / "t" / "parent")
    shutil.rmtree(root / "s")
    cells = {"near": child(parent="../t/parent"), "far": child(parent=str(root / "t" / "parent"))}
    target = study_target(study(cells), root)
    check_startable(target, resume=False)
    near, far = train_target(target, resume=False, command="test")
    assert near.metrics.identical(far.metrics)
    (root / "t" / "parent" / "checkpoints" / "step_000010.safetensors").unlink()
    later = study_target(study({"late": child(parent="../t/parent")}), root)
    assert "t/parent: no checkpoint at step 10; nearest: 5 and 15" in refused(later)


def test_a_child_that_has_begun_needs_its_parent_no_more(root: Path) -> None:
    name = "mlp-pre_from=off_at=10"
    untouched = Run(root / "s" / name).metrics
    (root / "s" / name / "checkpoints" / "step_000020.safetensors").unlink()
    (root / "s" / name / "checkpoints" / "step_000015.safetensors").unlink()
    shutil.rmtree(root / "s" / "off")
    (run,) = train_target(find_target(root / "s" / name, (), root), resume=True, command="test")
    assert run.metrics.identical(untouched)


def test_a_folder_of_runs_is_taken_parents_first(root: Path) -> None:
    target = find_target(root, (), root)
    assert [path.name for path in target.cells] == list(CHAIN)
    backwards = dict(reversed(target.cells.items()))
    assert list(parents_first(backwards)) == list(target.cells)


def test_a_followed_run_gets_its_attention_probe_and_only_that(root: Path) -> None:
    follower = {"model.attention_factor": 1.0, "training.follow_entropy": {"of": "off", "every": 5}}
    target = study_target(study({"off": CHAIN["off"], "off_entropy=off": follower}), root)
    train_target(target, resume=False, command="test")
    assert Run(root / "s" / "off").probe_names == ("attention",)
    assert Run(root / "s" / "off_entropy=off").is_trained


def test_where_another_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert beside(Path("runs/s/a"), "off") == Path("runs/s/off")
    assert beside(Path("runs/s/a"), "../t/off") == Path("runs/t/off")
    assert beside(Path("runs/s/a"), "/x/off") == Path("/x/off")
    assert beside(Path("."), "off") == tmp_path.parent / "off"


def test_probes_of_a_child_begin_with_what_it_began_with(root: Path) -> None:
    run = Run(root / "s" / "mlp-pre_from=off_at=10")
    probe_run(run, ["dynamics", "kernel"])
    for data in (run.probe("dynamics"), run.probe("kernel")):
        assert list(data.step.values) == [10, 15, 20]
    moved = run.probe("dynamics").moved_norm
    assert (moved.sel(step=10) == 0).all()
    assert (moved.sel(step=20) > moved.sel(step=15)).all()
    drift = run.probe("kernel").ntk_drift
    assert (drift.sel(step=10) == 0).all()
    assert (drift.sel(step=20) > 0).all()
    weights = [run.weights(step) for step in (10, 20)]
    expected = sum((weights[1][n] - weights[0][n])[0].double().square().sum() for n in weights[0]) ** 0.5
    assert float(moved.sel(step=20, seed=3)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.slow
def test_a_report_over_parent_and_child(root: Path) -> None:
    page = report_target(find_target(root, (), root)).read_text()
    assert "mlp-pre_from=off_at=10" in page


def test_a_report_needs_an_evaluated_step(root: Path) -> None:
    """A child that has only begun has none."""
    run = root / "s" / "again"
    (run / "checkpoints" / "step_000020.safetensors").unlink()
    with pytest.raises(UserError, match="again: no evaluated training step recorded yet; train it first"):
        report_target(find_target(run, (), root))


@pytest.mark.slow
def test_the_main_job_on_a_study_of_cells(tmp_path: Path) -> None:
    target = study_target(study(CHAIN), tmp_path)
    assert run_target(target, resume=False, command="test").is_file()
    for name in CHAIN:
        run = Run(tmp_path / "s" / name)
        assert run.probe("attention").step.values[0] == run.config.first_step
        assert run.ablations is not None
