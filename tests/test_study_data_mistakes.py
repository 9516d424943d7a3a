"""What is no study, or a damaged one, is said in one line."""

import shutil
from pathlib import Path

import pytest
from fake_studies import config, write_grid, write_study

from mech_grok import load_study
from mech_grok.config_file import to_yaml
from mech_grok.errors import UserError


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"))


def test_a_name_that_is_not_recorded(grid: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"s: no 'furier' in any cell; did you mean 'fourier'\? recorded: metrics, norms, fourier$",
    ):
        load_study(grid, "furier")
    with pytest.raises(UserError, match=r"no 'ablations' in any cell; recorded: metrics, norms, fourier$"):
        load_study(grid, "ablations")


def test_a_path_that_is_no_study(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "nowhere", r"nowhere: does not exist; give the folder that a study was trained into"),
        (tmp_path, r": has no study.yaml; give the folder"),
        (tmp_path / "file", r"file: is a file; give the folder"),
        (grid / "off_lr=0.001", r"off_lr=0.001: one run, not a study; load_run opens it"),
    ):
        with pytest.raises(UserError, match=message):
            load_study(path)
    (tmp_path / "study.yaml").write_text("grid: [")
    with pytest.raises(UserError, match=r"study.yaml line 1: not YAML"):
        load_study(tmp_path)


def test_a_study_that_has_not_begun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="s: none of its cells has begun; mech-grok sweep trains them"):
        load_study(write_study(tmp_path, config(), lambda name: None))


def test_a_cell_of_another_config_is_refused(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config())
    (folder / "study.yaml").write_text(to_yaml(config(training__steps=8)))
    with pytest.raises(
        UserError,
        match=r"off holds a run of another config than .*s/study.yaml says \(training.steps: 6 there, 8",
    ):
        load_study(folder)


@pytest.mark.parametrize(
    "damage", ["metrics.zarr/zarr.json", "metrics.zarr/step/c/0", "metrics.zarr/train_loss/zarr.json"]
)
def test_damage_that_shows_when_the_study_is_opened(tmp_path: Path, damage: str) -> None:
    folder = write_study(tmp_path, config())
    (folder / "off" / damage).write_text("{")
    with pytest.raises(UserError, match=r"off/metrics.zarr: damaged, or not a Zarr store"):
        load_study(folder)


def test_metrics_that_are_gone(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config())
    shutil.rmtree(folder / "off" / "metrics.zarr")
    with pytest.raises(UserError, match=r"off/metrics.zarr: damaged, or not a Zarr store"):
        load_study(folder)
