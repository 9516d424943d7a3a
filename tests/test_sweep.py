"""`mech-grok sweep` with real workers on this machine: everything done once, whatever happens meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mech_grok import load_run, load_study
from mech_grok.cli import main
from mech_grok.config_file import read_study
from mech_grok.study import study_target, train_target
from mech_grok.sweep.places.claim import ClaimRecord, read_claim
from mech_grok.training.checkpoints import load_tensors, saved_steps, weights_path

STUDY = """
study: four
task: {p: 23}
model: {d_model: 32}
training: {steps: 1200, seeds: [3, 1], checkpoint_every: 200, optimiser_state_every: 400, threads: 1}
grid:
  model.placement: [mlp-pre, off]
  optimiser.lr: [1e-3, 3e-3]
stages: [train]
"""
CELLS = ("mlp-pre_lr=0.001", "mlp-pre_lr=0.003", "off_lr=0.001", "off_lr=0.003")
SHORT = ("training.steps=20", "training.checkpoint_every=10", "task.p=11", "model.d_model=16")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with the study in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "four.yaml").write_text(STUDY)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same four cells, trained one after the other by one process that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "four.yaml").write_text(STUDY)
    study = read_study(folder / "four.yaml")
    train_target(study_target(study, folder), resume=False, command="test")
    return folder / "four"


def exit_code(*arguments: str) -> int:
    """Of the command line, run in this process."""
    try:
        main([*arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def assert_same_bits(folder: Path, undisturbed: Path) -> None:
    for name in CELLS:
        ours, theirs = load_run(folder / name), load_run(undisturbed / name)
        for column in theirs.metrics:
            np.testing.assert_array_equal(ours.metrics[column], theirs.metrics[column], err_msg=name)
        assert set(ours.steps) >= set(theirs.steps)  # a signal asks for one more checkpoint
        ours_last, theirs_last = (
            load_tensors(weights_path(r.checkpoint_folder, 1200)) for r in (ours, theirs)
        )
        assert all((ours_last[key] == theirs_last[key]).all() for key in theirs_last)


@pytest.mark.workers
def test_every_cell_is_done_and_a_second_sweep_finds_nothing_to_do(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("sweep", "four.yaml", *SHORT, "stages=[train, probe]", "probes=[attention]")
    assert exit_code(*arguments) == 0
    out = capfd.readouterr().out
    assert "cells: 4 of 4 complete, 0 failed" in out
    assert "report: runs/four/report/index.html" in out
    for name in CELLS:
        run = load_run(f"runs/four/{name}")
        assert run.is_trained
        assert run.probe_names == ("attention",)
        assert run.environment["command"].startswith("mech-grok sweep four.yaml training.steps=20")
        assert "step 20/20" in (run.path / "log.txt").read_text()
        assert read_claim(str(run.path)) is None
    logs = {name: (here / "runs/four" / name / "log.txt").read_bytes() for name in CELLS}

    assert exit_code(*arguments) == 0
    assert "cells: 4 of 4 complete, 0 failed" in capfd.readouterr().out
    assert logs == {name: (here / "runs/four" / name / "log.txt").read_bytes() for name in CELLS}


@pytest.mark.workers
def test_a_cell_that_fails_is_named_with_its_log_and_stops_nobody(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = here / "runs/four/off_lr=0.001"
    assert exit_code("sweep", "four.yaml", *SHORT) == 0
    (bad / "metrics.zarr/zarr.json").write_text("{")
    weights_path(bad / "checkpoints", 20).unlink()
    shutil.rmtree(here / "runs/four/mlp-pre_lr=0.001")
    capfd.readouterr()

    assert exit_code("sweep", "four.yaml", *SHORT) == 1
    out = capfd.readouterr().out
    assert "cells: 3 of 4 complete, 2 of them before, 1 failed" in out
    assert f"failed: runs/four/off_lr=0.001: {bad}/metrics.zarr: damaged" in out
    assert "log: runs/four/off_lr=0.001/log.txt" in out
    assert (bad / "failure.json").exists()
    assert f"failed: {bad}/metrics.zarr: damaged" in (bad / "log.txt").read_text()
    assert load_run(here / "runs/four/mlp-pre_lr=0.001").is_trained

    assert exit_code("ls") == 0
    assert "failed: " in capfd.readouterr().out
    shutil.rmtree(bad)
    assert exit_code("sweep", "four.yaml", *SHORT) == 0
    assert not (bad / "failure.json").exists()


@pytest.mark.workers
def test_shards_share_the_cells_and_the_last_one_writes_the_report(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("sweep", "four.yaml", *SHORT, "--shard", "2/2") == 0
    first = capfd.readouterr().out
    assert "cells: 2 of 2 complete, 0 failed" in first
    assert "no report yet: 2 of 4 cells are not complete, such as " in first
    assert exit_code("sweep", "four.yaml", *SHORT, "--shard", "1/2") == 0
    assert "report: " in capfd.readouterr().out


def test_a_plan_touches_nothing(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code("sweep", "four.yaml", "--plan") == 0
    out = capfd.readouterr().out
    assert all(name in out for name in CELLS)
    assert "4 cells" in out
    assert [path.name for path in here.iterdir()] == ["four.yaml"]


def test_a_plan_for_a_cluster_is_no_promise_of_workers(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code("sweep", "four.yaml", "--plan", "--engine", "ray") == 0
    assert "of one worker in all, shared by those of the cluster; at least " in capfd.readouterr().out


def test_results_behind_a_url(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """They are read as those of a folder are, and so is the state of the study."""
    assert exit_code("train", "four.yaml", *SHORT) == 0
    url = f"file://{here}/runs/four"
    xr.testing.assert_identical(load_study(url).load(), load_study("runs/four").load())
    capfd.readouterr()
    assert exit_code("ls", url) == 0
    assert "study four" in (out := capfd.readouterr().out)
    assert "4 complete" in out


def test_a_damaged_cell_stops_no_other(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its worker says what it is; the plan takes it for one that has not begun."""
    assert exit_code("train", "four.yaml", *SHORT) == 0
    (here / "runs/four/off_lr=0.001/config.yaml").write_text("junk")
    capfd.readouterr()
    assert exit_code("sweep", "four.yaml", *SHORT, "--plan") == 0
    assert "4 cells, 3 complete" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shard", "0/2"), "shard"),
        (("--shard", "half"), "shard"),
        (("--workers", "0"), "workers"),
        (("--cpus", "1000"), "cpus"),
        (("--gpus", "-1"), "--gpus -1: allowed: a fraction of one GPU"),
        (("--gpus", "0.5"), "--gpus 0.5: these cells train on the CPU; set training.device=cuda"),
        (("stages=[sing]",), "stages.0: input should be 'train', 'probe' or 'ablate'"),
        (("stages=[train, probe]", "probes=[attenton]"), "attention"),
        (("--engine", "ray", "--workers", "2"), "--workers is of this machine"),
        (("--engine", "ray", "--cpus", "0"), "--cpus 0: allowed: 1 and more"),
        (("--engine", "ray", "--gpus", "0.5"), "set training.device=cuda"),
        (("--out", "a::b"), "'::' has a meaning in URLs; give the folder another name"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert exit_code("sweep", "four.yaml", *arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert not (here / "runs").exists()


def test_a_damaged_study_file_is_one_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "four.yaml").write_bytes(STUDY.encode()[:-40] + b"\xff: [")
    assert exit_code("sweep", "four.yaml") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "four.yaml" in line


def test_a_run_of_another_config_is_refused_before_anything_runs(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", "four.yaml", *SHORT, "optimiser.lr=1e-3", "study=four") == 0
    before = sorted(here.rglob("*"))
    capfd.readouterr()
    assert exit_code("sweep", "four.yaml", *SHORT, "optimiser.lr=1e-3", "optimiser.weight_decay=0.5") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "optimiser.weight_decay: 1.0 there, 0.5 asked for" in line
    assert sorted(here.rglob("*")) == before


@contextmanager
def started_sweep(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The sweep as a process of its own, which does not outlive the block."""
    command = [sys.executable, "-m", "mech_grok", "sweep", str(folder / "four.yaml")]
    with subprocess.Popen(
        [*command, "--out", str(folder / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def a_worker(folder: Path, step: int) -> ClaimRecord:
    """Somebody who is training a cell, as soon as a checkpoint beyond a step is on disk."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        for name in CELLS:
            run = folder / "runs/four" / name
            record, steps = read_claim(str(run)), saved_steps(run / "checkpoints")
            if record and steps and step <= steps[-1] < 1200:
                return record
        time.sleep(0.01)
    raise AssertionError(f"nobody came beyond step {step}")


@pytest.mark.workers
def test_two_sweeps_at_once_and_a_killed_worker_give_the_same_bits(here: Path, undisturbed: Path) -> None:
    with started_sweep(here) as one, started_sweep(here) as other:
        killed = a_worker(here, step=300)
        os.kill(killed.pid, signal.SIGKILL)
        sweeps = (one, other)
        said = [process.communicate(timeout=240)[0] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], said
    again = "the worker was killed by SIGKILL (out of memory?); given to another worker"
    assert any(again in text for text in said)
    assert all("cells: 4 of 4 complete" in text for text in said)
    assert_same_bits(here / "runs/four", undisturbed)
    for name in CELLS:
        begun = (here / "runs/four" / name / "log.txt").read_text().count("step 1,200/1,200")
        assert begun == 1, f"{name} was trained {begun} times"


@pytest.mark.workers
def test_a_sweep_that_is_stopped_goes_on_as_if_nothing_had_happened(here: Path, undisturbed: Path) -> None:
    with started_sweep(here) as process:
        a_worker(here, step=300)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped by SIGINT; continue with the same command" in said
    done = [load_run(path.parent).steps_done for path in (here / "runs/four").glob("*/config.yaml")]
    assert any(0 < steps < 1200 for steps in done)

    with started_sweep(here) as process:
        worker = a_worker(here, step=700)
        process.kill()  # its workers notice, write a checkpoint and stop
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{worker.pid}"):
        assert time.monotonic() < until, "the worker lives on"
        time.sleep(0.05)

    with started_sweep(here) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert_same_bits(here / "runs/four", undisturbed)
