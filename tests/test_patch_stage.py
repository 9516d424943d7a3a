"""Patching of runs: what is recorded is what `patching` gives, once, whatever stops it; and every refusal."""

import itertools
import shutil
from pathlib import Path

import pytest
import xarray as xr
from test_cli import mistake

from mech_grok import patch_stage
from mech_grok.cli import main
from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.interventions import default_components, patching
from mech_grok.patch_stage import patch_run
from mech_grok.run import Run
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import weights_path

pytestmark = pytest.mark.whole

STEPS = {
    "normed": {"model.placement": "M", "training.seeds": [3, 1], "training.steps": 60},
    "bare": {"model.placement": "off", "training.seeds": [5, 1, 3], "training.steps": 40},
}
"""Two runs that share the seeds 1 and 3 and the checkpoints 0, 20 and 40."""


def config(**settings: object) -> CellConfig:
    tree = {
        "task": {"p": 7},
        "model": {"d_model": 16, "n_heads": 2},
        "training": {"steps": 20, "seeds": [1], "checkpoint_every": 20},
    }
    for key, value in settings.items():
        section, _, leaf = key.partition(".")
        tree[section][leaf] = value
    return CellConfig.model_validate(tree)


def trained(path: Path, **settings: object) -> Run:
    return train_cell(path, config(**settings), resume=False, command="test")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in STEPS.items():
        trained(folder / name, **settings)
    return folder


@pytest.fixture
def runs(originals: Path, tmp_path: Path) -> tuple[Run, Run]:
    """A clean and a corrupted run, without patchings."""
    return tuple(Run(shutil.copytree(originals / name, tmp_path / name)) for name in STEPS)


def patched(*arguments: object) -> xr.Dataset:
    """`patching` of three components, which is all that most of these tests need."""
    model = arguments[0]
    chosen = ("embed", "L0H1", "everything")
    return patching(*arguments, {label: default_components(model)[label] for label in chosen})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_stage, "patching", patched)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every pair of models that is patched."""
    made: list[int] = []

    def counting(*arguments: object) -> xr.Dataset:
        made.append(1)
        return patched(*arguments)

    monkeypatch.setattr(patch_stage, "patching", counting)
    return made


def assert_recorded(runs: tuple[Run, Run], name: str, checkpoints: dict[int, tuple[int, int]]) -> None:
    """The results at each step are those of these checkpoints, checked on one seed after the other."""
    clean, corrupted = runs
    recorded = corrupted.patching(name)
    assert list(recorded["step"].values) == list(checkpoints)
    assert recorded["loss_recovered"].dims == ("seed", "step", "component", "split")
    seeds = itertools.cycle(recorded["seed"].values.tolist())
    for seed, (step, (of_clean, of_corrupted)) in zip(seeds, checkpoints.items(), strict=False):
        models = clean.model(seed, of_clean), corrupted.model(seed, of_corrupted)
        found = recorded.sel(seed=seed, step=step, drop=True)
        assert (found["clean_step"], found["corrupted_step"]) == (of_clean, of_corrupted)
        expected = patched(*models, corrupted.config.task.task, corrupted.split(seed))
        xr.testing.assert_equal(found.drop_vars(["clean_step", "corrupted_step"]), expected)
        assert found["loss"].attrs == expected["loss"].attrs


def test_at_every_step_and_seed_that_both_have(runs: tuple[Run, Run]) -> None:
    path = patch_run(*runs)
    assert path == runs[1].path / "patching" / "normed.zarr"
    assert runs[1].patching_names == ("normed",)
    assert list(runs[1].patching("normed")["seed"].values) == [1, 3]
    assert_recorded(runs, "normed", {s: (s, s) for s in (0, 20, 40)})


@pytest.mark.parametrize(
    ("fixed", "name", "checkpoints"),
    [
        ({"clean_step": 60}, "normed_clean-step=60", {s: (60, s) for s in (0, 20, 40)}),
        pytest.param(
            {"step": 40},
            "normed_step=40",
            {s: (s, 40) for s in (0, 20, 40, 60)},
            marks=pytest.mark.slow,
        ),
        ({"clean_step": 60, "step": 20}, "normed_clean-step=60_step=20", {20: (60, 20)}),
    ],
)
def test_a_step_that_is_given_fixes_the_checkpoint_of_its_run(
    runs: tuple[Run, Run], fixed: dict[str, int], name: str, checkpoints: dict[int, tuple[int, int]]
) -> None:
    assert patch_run(*runs, **fixed).stem == name
    assert_recorded(runs, name, checkpoints)


def test_the_last_model_into_every_checkpoint_of_its_own_run(runs: tuple[Run, Run]) -> None:
    clean, _ = runs
    patch_run(clean, clean, clean_step=60)
    found = clean.patching("normed_clean-step=60")
    assert_recorded((clean, clean), "normed_clean-step=60", {s: (60, s) for s in (0, 20, 40, 60)})
    everything = found["loss_recovered"].sel(component="everything", split="train")
    assert (everything.sel(step=[0, 20, 40]) == 1).all()
    assert found["loss_recovered"].sel(step=60).isnull().all()


def test_what_is_there_is_kept_and_what_is_lacking_comes(
    runs: tuple[Run, Run], calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    clean, corrupted = runs
    hidden = weights_path(clean.checkpoint_folder, 40).rename(clean.path / "hidden")
    patch_run(clean, corrupted)
    assert len(calls) == 4
    assert_recorded(runs, "normed", {s: (s, s) for s in (0, 20)})
    hidden.rename(weights_path(clean.checkpoint_folder, 40))
    patch_run(clean, corrupted)
    assert len(calls) == 6
    assert_recorded(runs, "normed", {s: (s, s) for s in (0, 20, 40)})
    capsys.readouterr()
    path = patch_run(clean, corrupted)
    assert len(calls) == 6
    assert capsys.readouterr().out == f"{path}: there already\n"


def test_a_stage_that_was_stopped_goes_on(runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def stopping(*arguments: object) -> xr.Dataset:
        made.append(1)
        if len(made) > 4:
            raise KeyboardInterrupt
        return patched(*arguments)

    monkeypatch.setattr(patch_stage, "patching", stopping)
    with pytest.raises(KeyboardInterrupt):
        patch_run(*runs)
    monkeypatch.setattr(patch_stage, "patching", patched)
    assert 0 < runs[1].patching("normed").sizes["step"] < 3
    patch_run(*runs)
    assert_recorded(runs, "normed", {s: (s, s) for s in (0, 20, 40)})


def test_another_run_of_the_same_name_is_not_mixed_in(runs: tuple[Run, Run], tmp_path: Path) -> None:
    clean, corrupted = runs
    patch_run(clean, corrupted, step=40)
    other = trained(tmp_path / "elsewhere" / "normed", **{"model.placement": "q"})
    message = r"taken from another run \(model.placement: mlp-pre there, q asked for\); delete it"
    with pytest.raises(UserError, match=message):
        patch_run(other, corrupted, step=40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task.p": 11}, "bare has p 11, .*normed has 7; patching needs the same p, operation, "),
        ({"task.operation": "subtract"}, "bare has operation subtract, .*normed has add"),
        ({"task.test_fraction": 0.5}, "bare has test_fraction 0.5, .*normed has 0.7"),
        ({"model.d_model": 32}, "bare has d_model 32, .*normed has 16"),
        ({"model.n_layers": 2}, "bare has n_layers 2, .*normed has 1"),
        ({"model.n_heads": 4}, "bare has n_heads 4, .*normed has 2"),
        ({"training.seeds": [8, 9]}, r"no seed in both .*bare \(8, 9\) and .*normed \(3, 1\)"),
        ({"training.data_seed": 4}, "seed 3 is split by data_seed 4 in .*bare, by 3 in .*normed"),
        ({"training.steps": 1}, "no checkpoints yet; train it first"),
    ],
)
def test_runs_that_do_not_fit_are_refused_before_anything_is_written(
    originals: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    """The configs alone decide, so that the other run needs none of its weights."""
    corrupted = Run(shutil.copytree(originals / "normed", tmp_path / "normed"))
    clean = Run(shutil.copytree(originals / "bare", tmp_path / "bare"))
    clean.config = config(**{"training.seeds": [3, 1], **settings})
    if "steps" in "".join(settings):
        shutil.rmtree(clean.checkpoint_folder)
    with pytest.raises(UserError, match=message):
        patch_run(clean, corrupted)
    assert not (corrupted.path / "patching").exists()


def test_runs_without_a_common_checkpoint_are_refused(runs: tuple[Run, Run]) -> None:
    clean, corrupted = runs
    for step in (0, 20, 40):
        weights_path(clean.checkpoint_folder, step).unlink()
    with pytest.raises(
        UserError, match="have no checkpoint step in common; give --clean-step, --step or both"
    ):
        patch_run(clean, corrupted)


@pytest.fixture
def here(runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs[0].path.parent)


@pytest.mark.usefixtures("here")
def test_the_command_patches_every_component_and_prints_where_the_results_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patch_stage, "patching", patching)
    main(["patch", "normed", "--into", "bare", "--clean-step", "60", "--step", "40"])
    path = "bare/patching/normed_clean-step=60_step=40.zarr"
    assert capsys.readouterr().out.splitlines()[-1] == f"patching: {path}"
    found = Run("bare").patching(Path(path).stem)
    assert list(found["component"].values) == list(default_components(Run("bare").model()))
    assert found.attrs["clean"] == "normed"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["normed", "--into", "bare", "--step", "30"],
            "bare: no checkpoint at step 30; nearest: 20 and 40",
        ),
        (
            ["normed", "--into", "bare", "--clean-step", "70"],
            "normed: no checkpoint at step 70; nearest: 60 (the last)",
        ),
        (
            ["bare", "--into", "./bare"],
            "bare: patching a checkpoint into itself changes nothing; give --clean-step",
        ),
        (["bare", "--into", "nowhere"], "nowhere: not a run directory (it has no config.yaml)"),
        (["bare"], "--into"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in mistake(capsys, "patch", *arguments)


def test_a_patching_that_is_not_there(runs: tuple[Run, Run]) -> None:
    _, corrupted = runs
    with pytest.raises(
        UserError, match=r"no patching 'x' here; recorded: none\. mech-grok patch CLEAN --into"
    ):
        corrupted.patching("x")


def test_help_needs_nothing_heavy() -> None:
    from test_imports import loaded_after

    loaded = loaded_after("from mech_grok.cli import main; main(['patch', '--help'])")
    assert not loaded & {"torch", "transformer_lens", "xarray", "zarr", "numpy"}
