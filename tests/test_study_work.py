"""Cells of a study that have stages and probes of their own."""

from pathlib import Path
from typing import Any

import pytest

from mech_grok.config_file import read_study, to_yaml
from mech_grok.errors import UserError
from mech_grok.listing import print_runs
from mech_grok.run import Run
from mech_grok.study import find_target, run_target, study_target, train_target
from mech_grok.study_config import STAGES, StudyConfig, Work
from mech_grok.sweep.asked import Asked
from mech_grok.sweep.costs.estimate import costs
from mech_grok.sweep.places.study_place import StudyPlace
from mech_grok.sweep.study_sweep import plan_sweep

pytestmark = pytest.mark.whole

STUDY = """
study: s
task: {p: 11}
model: {d_model: 16, n_heads: 2}
training: {steps: 10, seeds: [3, 1], checkpoint_every: 5, threads: 1}
stages: [train, probe]
probes: [fourier]
cells:
  as the study: {}
  trained: {model.placement: M, stages: [train]}
  other-probes: {probes: [stability, dynamics, stability]}
  all: {optimiser.lr: 0.002, stages: [ablate, train, probe], probes: []}
""".replace("as the study", "as-the-study")
CELLS = ("as-the-study", "trained", "other-probes", "all")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def study(config: Path) -> StudyConfig:
    return read_study(config)


def test_a_cells_own_stages_and_probes_replace_the_studys(study: StudyConfig) -> None:
    assert [study.work_of(name) for name in CELLS] == [
        Work(stages=("train", "probe"), probes=("fourier",)),
        Work(stages=("train",), probes=("fourier",)),
        Work(stages=("train", "probe"), probes=("stability", "dynamics")),
        Work(stages=STAGES, probes=()),
    ]


def test_they_are_no_settings_of_the_cell(study: StudyConfig) -> None:
    cells = study.all_cells()
    assert cells["as-the-study"] == cells["other-probes"]
    assert (cells["all"].optimiser.lr, cells["trained"].model.placement.label) == (0.002, "M")


def test_through_yaml_and_back(study: StudyConfig, tmp_path: Path) -> None:
    (tmp_path / "again.yaml").write_text(to_yaml(study))
    assert read_study(tmp_path / "again.yaml") == study
    assert StudyConfig.model_validate(study.model_dump()) == study


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{stages: [sing]}", "cells.a.stages.0: input should be 'train', 'probe' or 'ablate' (got 'sing')"),
        ("{stages: []}", "cells.a.stages: tuple should have at least 1 item"),
        ("{stages: train}", "cells.a.stages: input should be a valid tuple (got 'train')"),
        ("{probes: [fourrier]}", "cells.a.probes: unknown probe 'fourrier'; did you mean 'fourier'?"),
        ("{probes: 3}", "cells.a.probes: input should be a valid tuple (got 3)"),
        ("{stage: [train]}", "unknown key 'stage'; did you mean"),
    ],
)
def test_mistakes_are_those_of_a_study(tmp_path: Path, cell: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"cells: {{a: {cell}}}")
    with pytest.raises(UserError) as error:
        read_study(path)
    (line,) = str(error.value).splitlines()
    assert message in line


def test_in_a_grid_they_are_no_axes(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("grid: {stages: [[train], [probe]]}")
    with pytest.raises(UserError, match="unknown key 'stages'"):
        read_study(path)


def test_a_grid_has_one_kind_of_work() -> None:
    grid = StudyConfig.model_validate(
        {"study": "s", "grid": {"optimiser.lr": [0.1, 0.2]}, "stages": ["train"]}
    )
    assert [grid.work_of(name) for name in grid.all_cells()] == [Work(stages=("train",))] * 2


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below which the main job was done, but for the ablations."""
    root = tmp_path_factory.mktemp("runs")
    (root / "s.yaml").write_text(STUDY)
    target = find_target(root / "s.yaml", ["cells.all={stages: [train, probe], probes: [fourier]}"], root)
    run_target(target, resume=False, command="test")
    return root


def test_the_main_job_does_with_each_cell_what_it_says(done: Path) -> None:
    recorded = {name: Run(done / "s" / name).probe_names for name in CELLS}
    assert recorded == {
        "as-the-study": ("fourier",),
        "trained": (),
        "other-probes": ("dynamics", "stability"),
        "all": ("fourier",),
    }


def test_each_cell_is_complete_by_its_own_stages(
    done: Path, study: StudyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StudyPlace.below(study, str(done))
    cells = {path: cell for path, cell in place.cells.items() if path.name != "all"}
    assert all(state.is_complete for state in place.states(cells).values())
    print_runs(done)
    assert "study s in" in (out := capsys.readouterr().out)
    assert "4 cells: 4 complete" in out


def test_a_cell_that_is_not_to_be_trained_has_to_be_there(tmp_path: Path) -> None:
    cells: dict[str, Any] = {"a": {}, "b": {"stages": ["probe"], "optimiser.lr": 0.1}}
    small = {"task": {"p": 11}, "training": {"steps": 2}, "stages": ["train"]}
    target = study_target(StudyConfig.model_validate({"study": "t", "cells": cells, **small}), tmp_path)
    with pytest.raises(UserError, match="t/b: not trained yet"):
        run_target(target, resume=False, command="test")
    assert not (tmp_path / "t").exists()


def test_a_cell_is_measured_beside_others_that_are_trained(tmp_path: Path, done: Path) -> None:
    """Its run is there already."""
    study = read_study(done / "s.yaml", ["study=u", "cells={a: {stages: [probe]}, b: {stages: [train]}}"])
    only_a = study.model_copy(update={"cells": {"a": {}}})
    train_target(study_target(only_a, tmp_path), resume=False, command="test")
    run_target(study_target(study, tmp_path), resume=False, command="test")
    assert Run(tmp_path / "u" / "a").probe_names == ("fourier",)
    assert (Run(tmp_path / "u" / "b").is_trained, Run(tmp_path / "u" / "b").probe_names) == (True, ())


def test_a_plan_asks_of_each_cell_what_it_says(study: StudyConfig, tmp_path: Path) -> None:
    lines = plan_sweep(study, str(tmp_path), Asked(workers=1))
    said = [line.partition("; ")[2].partition(" to come")[0] for line in lines[: len(CELLS)]]
    assert said == ["train, probe", "train", "train, probe", "train, probe, ablate"]


def test_only_some_of_the_cells(study: StudyConfig, tmp_path: Path) -> None:
    lines = plan_sweep(study, str(tmp_path), Asked(workers=1, only={"trained"}))
    assert [line for line in lines if ": M, p = 11" in line] == lines[:1]
    assert "s: 1 of 4 cells, 0 complete; 10 steps to train" in lines


def test_each_cell_costs_what_is_done_with_it(study: StudyConfig) -> None:
    cells = {Path("nowhere/s") / name: cell for name, cell in study.all_cells().items()}
    found = costs(cells, {path: study.work_of(path.name) for path in cells}, 1)
    cost = {path.name: found[path] for path in cells}
    assert cost["trained"].probe == 0 < cost["as-the-study"].probe < cost["all"].probe
    assert [name for name in CELLS if cost[name].ablate] == ["all"]
