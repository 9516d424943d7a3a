"""What `ls` says of studies and runs, made here file by file: nothing is trained."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mech_grok.array_store import StepStore
from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.errors import UserError
from mech_grok.listing import print_runs
from mech_grok.progress import Status
from mech_grok.study_config import STAGES, StudyConfig
from mech_grok.sweep.display.condition import Condition, condition
from mech_grok.sweep.places.claim import Claim, claimed

SETTINGS = {
    "task": {"p": 11},
    "training": {"steps": 12, "seeds": [3, 1], "checkpoint_every": 6, "evaluate_every": 3},
}
CONFIG = CellConfig.model_validate({**SETTINGS, "model": {"placement": "M"}})
PROBES = ("attention", "progress")
"""The second one reads the last checkpoint."""


def make_run(path: Path, config: CellConfig = CONFIG, steps_done: int = 12) -> Path:
    """A run of two seeds, the first of which generalises at step 6, with a checkpoint every 6 steps."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config))
    for step in range(0, steps_done + 1, 6):
        (path / "checkpoints" / f"step_{step:06d}.safetensors").touch()
    steps = np.arange(1, 13)
    row = np.where(steps >= 6, 1.0, 0.1)
    columns = ("train_loss", "train_accuracy", "grad_norm", "weight_norm", "update_norm", "test_loss")
    xr.Dataset(
        {
            **{name: (("seed", "step"), np.ones((2, 12))) for name in columns},
            "test_accuracy": (("seed", "step"), np.stack([row, np.full(12, 0.1)])),
        },
        coords={"seed": [3, 1], "step": steps, "evaluated": ("step", steps % 3 == 0)},
    ).to_zarr(path / "metrics.zarr", consolidated=False, zarr_format=3)
    return path


def record(path: Path, name: str, final: int | None = None, steps: tuple[int, ...] = (0, 6, 12)) -> None:
    """Something measured at these checkpoints, with what the last one was then."""
    data = {"x": ((), 1.0), **({} if final is None else {"final_step": ((), float(final))})}
    store = StepStore(path / name, [3, 1], [0, 6, 12])
    for step in steps:
        store.write(step, [xr.Dataset(data)] * 2)


def complete(path: Path) -> None:
    make_run(path)
    record(path, "probes/attention.zarr")
    record(path, "probes/progress.zarr", final=12)
    record(path, "ablations.zarr", final=12)


def unfinished(path: Path) -> None:
    make_run(path, steps_done=6)


def failed(path: Path, content: str = '{"message": "data.csv: no such file"}') -> None:
    unfinished(path)
    (path / "failure.json").write_text(content)


def how(path: Path) -> Condition:
    return condition(path, CONFIG, STAGES, PROBES)


def with_log_only(path: Path) -> None:
    path.mkdir()
    (path / "log.txt").write_text("2026-01-01 00:00:00  hello\n")


def with_one_probe(path: Path) -> None:
    make_run(path)
    record(path, "probes/attention.zarr")
    record(path, "ablations.zarr", final=12)


def with_a_probe_of_an_earlier_end(path: Path) -> None:
    with_one_probe(path)
    record(path, "probes/progress.zarr", final=6)


def with_a_checkpoint_not_probed(path: Path) -> None:
    with_one_probe(path)
    record(path, "probes/progress.zarr", final=12, steps=(0, 12))


def with_an_old_failure(path: Path) -> None:
    complete(path)
    (path / "failure.json").write_text('{"message": "no space left"}')


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "not begun"),
        (with_log_only, "not begun"),
        (unfinished, "unfinished: at step 6"),
        (make_run, "trained: probe and ablate to come"),
        (with_one_probe, "trained: probe to come"),
        (with_a_probe_of_an_earlier_end, "trained: probe to come"),
        (with_a_checkpoint_not_probed, "trained: probe to come"),
        (complete, "complete"),
        (with_an_old_failure, "complete"),
        (failed, "failed: data.csv: no such file"),
        (lambda path: failed(path, "[]"), "failed: failure.json does not say why"),
        (lambda path: failed(path, "{"), "failed: failure.json does not say why"),
    ],
)
def test_how_a_cell_is(make: Callable[[Path], None], expected: str, tmp_path: Path) -> None:
    make(tmp_path / "cell")
    assert str(how(tmp_path / "cell")) == expected


def test_only_what_the_study_asks_for_counts(tmp_path: Path) -> None:
    path = make_run(tmp_path / "cell")
    assert condition(path, CONFIG, ["train"], ()).kind == "complete"
    record(path, "probes/attention.zarr")
    assert condition(path, CONFIG, ["train", "probe"], ["attention"]).kind == "complete"
    assert str(condition(path, CONFIG, ["train", "probe"], ())) == "trained: probe to come"


def test_a_cell_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "cell"
    make_run(path, CellConfig.model_validate({**SETTINGS, "model": {"placement": "off"}}))
    assert how(path).kind == "damaged"
    assert "another config (model.placement: off there, mlp-pre asked for)" in how(path).detail
    (path / "config.yaml").write_text("{")
    assert "not YAML" in how(path).detail
    shutil.rmtree(path)
    complete(path)
    (path / "probes" / "attention.zarr" / "zarr.json").write_text("{")
    assert str(how(path)).startswith(f"damaged: {path}/probes/attention.zarr: damaged")


def test_a_cell_that_is_worked_on(tmp_path: Path) -> None:
    path = tmp_path / "cell"
    with claimed(str(path), "a sweep") as claim:
        here = how(path)
        assert here.kind == "running"
        assert here.detail.startswith(f"process {os.getpid()} on ")
        claim.status = Status("train", "step", 1200, 3000, 23.0, 50.0, "train loss 1")
        claim.beat()
        assert how(path).detail == f"train, step 1,200/3,000, 0:36 left, {here.detail}"
    assert str(how(path)) == "not begun"


def test_a_claim_that_nobody_keeps(tmp_path: Path) -> None:
    """Of a process that is dead, or was last heard of long ago: the cell is as its files say."""
    path = tmp_path / "cell"
    unfinished(path)
    claim = Claim(str(path), "a sweep")
    claim.take(None)
    assert how(path).kind == "running"
    (file,) = (path / ".claim").glob("*.json")
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 7200))
    assert how(path).kind == "unfinished"
    assert how(path).detail.startswith(f"at step 6; process {os.getpid()} on ")
    assert how(path).detail.endswith(" was at it 2:00:00 ago")

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "pid": gone.pid}))
    assert how(path).kind == "unfinished"
    assert f"process {gone.pid} on " in how(path).detail
    file.write_text("")
    assert str(how(path)) == "running: another process"


def write_study(folder: Path, **cells: dict[str, str]) -> StudyConfig:
    study = StudyConfig.model_validate(
        {**SETTINGS, "study": folder.name.partition("[")[0], "probes": list(PROBES), "cells": cells}
    )
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(to_yaml(study))
    return study


def listed(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    print_runs(folder)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_study_shows_all_of_its_cells_in_its_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny[bold]"
    names = ("z", "part", "broken", "odd", "a", "later")
    write_study(folder, **{name: {"model.placement": "M"} for name in names})
    complete(folder / "z")
    unfinished(folder / "part")
    failed(folder / "broken", json.dumps({"message": "[red]x[/red]\x1b[2J"}))
    make_run(folder / "odd")
    (folder / "odd" / "config.yaml").write_text("[]")
    make_run(folder / "a")
    assert listed(capsys, tmp_path) == [
        f"study tiny in {folder}: 6 cells: "
        "1 complete, 1 trained, 1 unfinished, 1 failed, 1 damaged, 1 not begun",
        *aligned(
            ["run", "placement", "seeds", "steps", "state", "generalised at step"],
            [f"{folder}/z", "M", "3 1", "12/12", "complete", "3: 6, 1: not yet"],
            [f"{folder}/part", "M", "3 1", "6/12", "unfinished: at step 6", "3: 6, 1: not yet"],
            [f"{folder}/broken", "M", "3 1", "6/12", "failed: [red]x[/red]?[2J", "3: 6, 1: not yet"],
            [
                f"{folder}/odd",
                "M",
                "3 1",
                "-/12",
                f"damaged: {folder}/odd/config.yaml: a config is a mapping of keys to values, not list",
                "-",
            ],
            [f"{folder}/a", "M", "3 1", "12/12", "trained: probe and ablate to come", "3: 6, 1: not yet"],
            [f"{folder}/later", "M", "3 1", "-/12", "not begun", "-"],
        ),
        "",
        "generalised: first evaluated step with test accuracy >= 0.995, per seed",
    ]


def aligned(*rows: list[str]) -> list[str]:
    """Rows as a table, its columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(n) for c, n in zip(row, widths, strict=True)).rstrip() for row in rows]


def test_studies_come_first_and_damage_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "one", a={"model.placement": "M"})
    write_study(tmp_path / "two", b={"model.placement": "off"})
    (tmp_path / "one" / "study.yaml").write_text("study: [")
    unfinished(tmp_path / "one" / "a")
    make_run(tmp_path / "alone")
    make_run(tmp_path / "blind")
    (tmp_path / "blind" / "metrics.zarr" / "zarr.json").unlink()
    make_run(tmp_path / "odd")
    (tmp_path / "odd" / "config.yaml").write_text("x: 1")
    lines = listed(capsys, tmp_path)
    assert lines[0].startswith(f"{tmp_path}/one/study.yaml line 1: not YAML")
    assert lines[2] == f"study two in {tmp_path}/two: 1 cell: 1 not begun"
    assert [line.split()[0] for line in lines[6:11]] == [
        "run",
        *(f"{tmp_path}/{name}" for name in ("alone", "blind", "odd", "one/a")),
    ]
    assert "state" not in lines[6]
    assert lines[7].endswith("12/12  3: 6, 1: not yet")
    assert f"12/12  damaged: {tmp_path}/blind/metrics.zarr: damaged" in lines[8]
    assert f"damaged: {tmp_path}/odd/config.yaml: unknown key 'x'" in lines[9]
    assert lines[10].endswith("6/12   3: 6, 1: not yet")


def test_a_run_of_a_study_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "one", a={"model.placement": "M"}, b={"model.placement": "off"})
    path = make_run(tmp_path / "one" / "a")
    assert [line.split()[0] for line in listed(capsys, path)] == ["run", str(path), "generalised:"]


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no runs in it"):
        print_runs(tmp_path)
    with pytest.raises(UserError, match=r"no such file or folder"):
        print_runs(tmp_path / "nowhere")
