"""Results: from runs to small files and back; added to, never lost; the same bytes for the same content."""

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from paper_runs import ENVIRONMENT, diverged, make_run, record, value

from mech_grok.config import CellConfig
from mech_grok.config_file import override_study
from mech_grok.errors import RunBusyError, UserError
from mech_grok.paper.curves import CURVES, METRICS
from mech_grok.paper.gather import check_same_run, gather
from mech_grok.paper.missing import lacking_curves, missing_runs
from mech_grok.paper.results import (
    Result,
    check_same_cell,
    load_result,
    load_results,
    load_trainings,
    measured,
    result_path,
    save_result,
)
from mech_grok.paper.study import paper_runs, paper_study
from mech_grok.paper.zipped_dataset import zipped
from mech_grok.run_lock import locked

SHORT = ["task.p=11", "training.steps=25", "training.checkpoint_every=10"]
CELLS = override_study(paper_study(), SHORT).all_cells()
FIRST, SECOND = (CELLS[f"mlp-pre_seeds={seeds}"] for seeds in ("456-789", "111-222-333"))
METRIC_CURVES = tuple(name for name, curve in CURVES.items() if curve.source == METRICS)


def added(path: Path, config: CellConfig, folder: Path) -> tuple[str, ...]:
    return gather(path, "mlp-pre", config, folder)


def result(folder: Path) -> Result:
    found = load_result(folder, "mlp-pre")
    assert found is not None
    return found


def stored(folder: Path) -> bytes:
    return result_path(folder, "mlp-pre").read_bytes()


def check_values(found: Result, curve: str, seed: int) -> None:
    """Made-up numbers where the curve is measured, nan elsewhere."""
    is_metric = CURVES[curve].source == METRICS
    steps = [1, 10, 20, 25] if is_metric else [0, 10, 20, 25]
    data = found.curves[curve].sel(seed=seed)
    assert data.dropna("step").step.values.tolist() == steps
    expected = np.float32([value(curve, seed, step) for step in steps])
    np.testing.assert_array_equal(data.dropna("step").values, expected)


def test_a_run_becomes_a_result(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST, ["fourier", "attention", "shortcut", "compressibility", "kernel"])
    assert added(run, FIRST, tmp_path) == tuple(CURVES)
    found = result(tmp_path)
    assert found.cell == "mlp-pre"
    assert list(found.curves.data_vars) == list(CURVES)
    assert {str(array.dtype) for array in found.curves.data_vars.values()} == {"float32"}
    assert {array.dims for array in found.curves.data_vars.values()} == {("seed", "step")}
    assert found.curves.step.values.tolist() == [0, 1, 10, 20, 25]
    for curve in CURVES:
        for seed in (456, 789):
            check_values(found, curve, seed)
        expected = CURVES[curve].variable if CURVES[curve].source == METRICS else curve
        assert found.curves[curve].attrs["long_name"] == expected


def test_what_is_said_of_a_training_is_enough_to_repeat_it_and_names_nobody(tmp_path: Path) -> None:
    session = {"step": 10, "cpu": "Xeon", "stack_size": 3, "host": "mine"}
    run = make_run(tmp_path / "run", FIRST, environment={"continued": [session]})
    added(run, FIRST, tmp_path)
    (training,) = result(tmp_path).trainings
    assert training.config == FIRST
    kept = ("mech_grok", "python", "torch", "transformer_lens", "platform", "cpu", "threads", "device")
    expected = {name: ENVIRONMENT[name] for name in (*kept, "wall_seconds")}
    assert training.environment == {**expected, "continued": [{"step": 10, "cpu": "Xeon"}]}
    assert (training.diverged, training.curves, training.seeds) == ({}, METRIC_CURVES, (456, 789))
    assert b"secret" not in stored(tmp_path)
    assert str(tmp_path).encode() not in stored(tmp_path)


def test_plain_xarray_reads_it(tmp_path: Path) -> None:
    added(make_run(tmp_path / "run", FIRST), FIRST, tmp_path)
    with zarr.storage.ZipStore(result_path(tmp_path, "mlp-pre"), mode="r") as store:
        data = xr.open_zarr(store, chunks=None).load()
    assert data.attrs["trainings"][0]["config"] == FIRST.model_dump(mode="json")
    xr.testing.assert_equal(data[list(METRIC_CURVES)], result(tmp_path).curves)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST, ["fourier"])
    for folder in ("one", "other"):
        added(run, FIRST, tmp_path / folder)
    assert stored(tmp_path / "one") == stored(tmp_path / "other")
    save_result(tmp_path / "again", result(tmp_path / "one"))
    assert stored(tmp_path / "again") == stored(tmp_path / "one")
    assert os.listdir(tmp_path / "one" / "cells") == ["mlp-pre.zarr.zip"]


def test_entries_are_sorted_not_compressed_twice_and_of_no_time() -> None:
    data = xr.Dataset({name: ("step", np.arange(3.0)) for name in "ba"}, {"step": [1, 2, 3]})
    with zipfile.ZipFile(io.BytesIO(zipped(data))) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("backwards", [False, True])
def test_runs_over_other_seeds_join_in_published_order(tmp_path: Path, backwards: bool) -> None:
    groups = [
        (make_run(tmp_path / "a", FIRST, ["fourier"]), FIRST),
        (make_run(tmp_path / "b", SECOND), SECOND),
    ]
    for run, config in reversed(groups) if backwards else groups:
        added(run, config, tmp_path)
    found = result(tmp_path)
    assert found.curves.seed.values.tolist() == [456, 789, 111, 222, 333]
    assert [training.seeds for training in found.trainings] == [(456, 789), (111, 222, 333)]
    for seed in (456, 789, 111, 222, 333):
        check_values(found, "test_loss", seed)
    check_values(found, "c_fourier", 789)
    assert found.curves.c_fourier.sel(seed=[111, 222, 333]).isnull().all()
    assert list(found.curves.data_vars) == [*METRIC_CURVES, "c_fourier"]


def test_a_probe_that_is_recorded_later_is_added_to_its_training(tmp_path: Path) -> None:
    at_once, later = tmp_path / "at once", tmp_path / "later"
    run = make_run(tmp_path / "run", FIRST, ["fourier"])
    assert added(run, FIRST, later) == (*METRIC_CURVES, "c_fourier")
    record(run, FIRST, "shortcut", until=25)
    assert added(run, FIRST, later) == ("sr_train",)
    assert added(run, FIRST, later) == ()
    added(run, FIRST, at_once)
    assert stored(later) == stored(at_once)


def test_a_probe_counts_when_it_is_recorded_at_every_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST)
    record(run, FIRST, "fourier", until=20)
    assert added(run, FIRST, tmp_path) == METRIC_CURVES
    record(run, FIRST, "fourier", until=25)
    assert added(run, FIRST, tmp_path) == ("c_fourier",)


def test_a_second_training_of_the_same_cell_adds_only_what_was_missing(tmp_path: Path) -> None:
    """What is there stays, also what the second one does not have, and each says what is from it."""
    added(make_run(tmp_path / "first", FIRST, ["fourier"]), FIRST, tmp_path)
    other = make_run(tmp_path / "other", FIRST, ["attention"], environment={"cpu": "Xeon"})
    store = xr.load_dataset(other / "metrics.zarr", engine="zarr", consolidated=False)
    (store + 5).to_zarr(other / "metrics.zarr", mode="w", consolidated=False, zarr_format=3)
    before = result(tmp_path)
    assert added(other, FIRST, tmp_path) == ("attention_entropy",)
    found = result(tmp_path)
    xr.testing.assert_identical(found.curves[list(before.curves.data_vars)], before.curves)
    check_values(found, "attention_entropy", 456)
    assert [(t.environment["cpu"], t.curves) for t in found.trainings] == [
        ("EPYC", (*METRIC_CURVES, "c_fourier")),
        ("Xeon", ("attention_entropy",)),
    ]


@pytest.mark.parametrize("done", [-1, 0, 10, 20])
def test_an_unfinished_run_is_not_gathered(tmp_path: Path, done: int) -> None:
    run = make_run(tmp_path / "run", FIRST, ["fourier"], done=done)
    assert added(run, FIRST, tmp_path) == ()
    assert load_results(tmp_path) == {}


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST)
    with locked(run), pytest.raises(RunBusyError):
        added(run, FIRST, tmp_path)
    assert added(run, FIRST, tmp_path) == METRIC_CURVES


def test_a_curve_that_this_version_does_not_know_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST)
    added(run, FIRST, tmp_path)
    known = result(tmp_path)
    newer = known.curves.assign(of_tomorrow=known.curves.test_loss * 2)
    save_result(tmp_path, replace(known, curves=newer))
    record(run, FIRST, "fourier", until=25)
    added(run, FIRST, tmp_path)
    found = result(tmp_path).curves
    assert list(found.data_vars) == [*METRIC_CURVES, "c_fourier", "of_tomorrow"]
    xr.testing.assert_equal(found.of_tomorrow.dropna("step"), newer.of_tomorrow.dropna("step"))


def test_nothing_is_gathered_from_nowhere(tmp_path: Path) -> None:
    assert added(tmp_path / "run", FIRST, tmp_path) == ()
    assert load_results(tmp_path) == load_results(tmp_path / "nowhere") == {}
    assert load_result(tmp_path, "mlp-pre") is None


def test_a_seed_that_diverged_is_recorded(tmp_path: Path) -> None:
    run = diverged(make_run(tmp_path / "run", FIRST), seed=789, step=12)
    assert added(run, FIRST, tmp_path) == METRIC_CURVES
    found = result(tmp_path)
    assert found.trainings[0].diverged == {789: 12}
    check_values(found, "train_loss", 456)
    assert found.curves.train_loss.sel(seed=789).dropna("step").step.values.tolist() == [1, 10]
    assert added(run, FIRST, tmp_path) == ()  # nan is what was measured


def test_a_run_of_another_config_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST)
    other = FIRST.model_copy(update={"optimiser": FIRST.optimiser.model_copy(update={"lr": 0.5})})
    for refused in (lambda: added(run, other, tmp_path), lambda: check_same_run(run, other)):
        with pytest.raises(UserError) as error:
            refused()
        assert str(error.value) == (
            f"{run} holds a run of another config (optimiser.lr: 0.001 there, 0.5 asked for); choose another "
            "study=NAME or --out"
        )
    assert load_results(tmp_path) == {}


def test_a_result_of_another_config_is_refused(tmp_path: Path) -> None:
    added(make_run(tmp_path / "run", FIRST), FIRST, tmp_path)
    path, trainings = result_path(tmp_path, "mlp-pre"), load_trainings(tmp_path)["mlp-pre"]
    longer = SECOND.model_copy(update={"training": SECOND.training.model_copy(update={"steps": 50})})
    with pytest.raises(UserError) as error:
        check_same_cell(path, trainings, longer)
    assert str(error.value) == (
        f"{path} holds another config (training.steps: 25 there, 50 asked for); give another --results"
    )


def test_what_it_was_trained_on_is_no_other_config(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST)
    on = {"device": "cuda", "threads": 7, "optimiser_state_every": 500}
    elsewhere = FIRST.model_copy(update={"training": FIRST.training.model_copy(update=on)})
    assert added(run, elsewhere, tmp_path) == METRIC_CURVES
    check_same_cell(result_path(tmp_path, "mlp-pre"), load_trainings(tmp_path)["mlp-pre"], elsewhere)


def test_a_probe_without_the_variable_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FIRST, ["fourier"])
    shutil.rmtree(run / "probes" / "fourier.zarr" / "c_fourier")
    with pytest.raises(UserError, match=r"probes/fourier\.zarr: has no c_fourier; delete it to have it"):
        added(run, FIRST, tmp_path)


def rewritten(path: Path, change: dict[str, bytes | None]) -> None:
    """The same file, with entries replaced or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()} | change
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)


@pytest.mark.parametrize(
    "damage", ["half", "empty", "text", "no group", "no trainings", "a config", "a chunk"]
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    added(make_run(tmp_path / "run", FIRST), FIRST, tmp_path)
    path = result_path(tmp_path, "mlp-pre")
    group = json.loads(zipfile.ZipFile(path).read("zarr.json"))
    if damage in ("half", "empty", "text"):
        content = path.read_bytes()
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    elif damage == "no group":
        rewritten(path, {"zarr.json": None})
    elif damage == "a chunk":
        rewritten(path, {"test_loss/c/0/0": b"junk"})
    else:
        training = group["attributes"]["trainings"][0]
        group["attributes"]["trainings"] = [training | {"config": {"task": {"p": 2}}}]
        if damage == "no trainings":
            del group["attributes"]["trainings"]
        rewritten(path, {"zarr.json": json.dumps(group).encode()})
    with pytest.raises(UserError) as error:
        load_results(tmp_path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: damaged, or not a result (")
    assert line.endswith("restore it, or delete it to have it made again")
    if damage != "a chunk":
        with pytest.raises(UserError, match="damaged"):
            load_trainings(tmp_path)


def test_what_is_lacking_goes_by_seeds_and_curves(tmp_path: Path) -> None:
    added(make_run(tmp_path / "run", FIRST, ["fourier"]), FIRST, tmp_path)
    trainings = load_trainings(tmp_path)
    assert lacking_curves(trainings["mlp-pre"], (456,), ["c_fourier", "sr_train"]) == ("sr_train",)
    assert lacking_curves(trainings["mlp-pre"], (456, 111), ["c_fourier"]) == ("c_fourier",)
    assert lacking_curves((), (456,), CURVES) == tuple(CURVES)
    runs = paper_runs(["fig2"])
    assert {run.name for run in runs} - {run.name for run in missing_runs(runs, trainings)} == {
        "mlp-pre_seeds=456-789"
    }
    assert missing_runs(paper_runs(["fig3"]), trainings) == paper_runs(["fig3"])


def test_all_curves_for_comparing(tmp_path: Path) -> None:
    added(make_run(tmp_path / "run", FIRST, ["fourier"]), FIRST, tmp_path)
    found = measured(load_results(tmp_path))
    assert set(found) == {("mlp-pre", curve) for curve in (*METRIC_CURVES, "c_fourier")}
    assert found["mlp-pre", "c_fourier"].dims == ("seed", "step")
