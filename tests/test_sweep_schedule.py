"""The scheduler, with an engine that does what a test says: who starts when, and what comes of everyone."""

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.progress import Status
from mech_grok.signals import Interrupted
from mech_grok.sweep import cells as cells_module
from mech_grok.sweep import sweep as sweep_module
from mech_grok.sweep.cells import MOST_DEATHS, Cell
from mech_grok.sweep.display.summary import summary
from mech_grok.sweep.places.claim import claimed
from mech_grok.sweep.sweep import sweep
from mech_grok.sweep.workers.job import Job, Outcome

DONE = Outcome("done")
Script = Mapping[str, Iterable[Outcome | Callable[[], Outcome]]]
"""Cell -> what comes of its first job, its second, ..."""


class ScriptedEngine:
    """Ends each job at the next look, as the script says; notes who ran when."""

    def __init__(self, script: Script, slots: int = 2):
        self._script = {name: iter(outcomes) for name, outcomes in script.items()}
        self._slots, self._running = slots, []
        self.started: list[str] = []
        self.jobs: list[Job] = []
        self.most_at_once = 0
        self.interrupted = self.left = False

    @property
    def free(self) -> int:
        return self._slots - len(self._running)

    def start(self, job: Job) -> None:
        assert self.free > 0
        self._running.append(job)
        self.jobs.append(job)
        self.started.append(job.name)
        self.most_at_once = max(self.most_at_once, len(self._running))

    def finished(self) -> list[tuple[Job, Outcome]]:
        ended, self._running = self._running, []
        return [(job, self._outcome(job)) for job in ended]

    def _outcome(self, job: Job) -> Outcome:
        if self.interrupted:
            return Outcome("stopped")
        outcome = next(self._script[job.name])
        return outcome() if callable(outcome) else outcome

    def interrupt(self) -> None:
        self.interrupted = True

    def __enter__(self) -> "ScriptedEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self.left = True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in these tests."""
    monkeypatch.setattr(sweep_module, "_ROUND_S", 0.001)
    monkeypatch.setattr(sweep_module, "_ASK_AGAIN_S", 0.01)


def a_cell(folder: Path, name: str, parent: str | None = None) -> Cell:
    surgery = {"surgery": {"parent": parent, "step": 5}} if parent else {}
    config = CellConfig.model_validate({"training": {"steps": 10}, **surgery})
    stages = ("train", "probe")
    job = Job(f"{folder}/{name}", config, stages, (), 1, "mine", "mech-grok sweep s.yaml")
    return Cell(job, {"train": 10.0, "probe": 5.0}, {})


def states(cells: Iterable[Cell]) -> dict[str, str]:
    return {cell.job.name: cell.state for cell in cells}


def test_every_cell_is_done_once_and_no_more_run_than_there_is_room_for(tmp_path: Path) -> None:
    cells = [a_cell(tmp_path, name) for name in "abcde"]
    engine = ScriptedEngine({name: [DONE] for name in "abcde"})
    sweep(cells, engine, "s")
    assert engine.started == [*"abcde"]
    assert engine.most_at_once == 2
    assert engine.left
    assert set(states(cells).values()) == {"done"}
    assert summary(cells, already=2) == ["cells: 7 of 7 complete, 2 of them before, 0 failed"]


def test_a_child_waits_for_its_parent(tmp_path: Path) -> None:
    cells = [a_cell(tmp_path, "child", "parent"), a_cell(tmp_path, "parent"), a_cell(tmp_path, "other")]
    engine = ScriptedEngine({"child": [DONE], "parent": [DONE], "other": [DONE]})
    sweep(cells, engine, "s")
    assert engine.started == ["parent", "other", "child"]


def test_a_cell_that_fails_stops_nobody_but_its_children(tmp_path: Path) -> None:
    cells = [
        a_cell(tmp_path, "bad"),
        a_cell(tmp_path, "child", "bad"),
        a_cell(tmp_path, "grandchild", "child"),
        a_cell(tmp_path, "good"),
    ]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "log.txt").write_text("\n".join(f"line {i}" for i in range(20)))
    engine = ScriptedEngine({"bad": [Outcome("failed", "no such optimiser")], "good": [DONE]}, slots=1)
    sweep(cells, engine, "s")
    assert engine.started == ["bad", "good"]
    assert states(cells) == {"bad": "failed", "child": "failed", "grandchild": "failed", "good": "done"}
    lines = summary(cells, already=0)
    assert lines[0] == "cells: 1 of 4 complete, 3 failed"
    assert lines[1] == f"failed: {tmp_path}/bad: no such optimiser"
    assert lines[2] == f"  log: {tmp_path}/bad/log.txt"
    assert lines[3:11] == [f"    line {i}" for i in range(12, 20)]
    assert lines[11] == f"failed: {tmp_path}/child: not begun: it builds on bad, which failed"


def dies_after_writing(folder: Path, files: list[str]) -> Callable[[], Outcome]:
    def die() -> Outcome:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return Outcome("died", "killed by SIGKILL")

    return die


def test_a_cell_whose_worker_dies_is_given_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [a_cell(tmp_path, "a"), a_cell(tmp_path, "b")]
    engine = ScriptedEngine({"a": [Outcome("died", "killed by SIGKILL"), DONE], "b": [DONE]})
    sweep(cells, engine, "s")
    assert engine.started == ["a", "b", "a"]
    assert states(cells) == {"a": "done", "b": "done"}
    assert "a: killed by SIGKILL; given to another worker" in capsys.readouterr().out


def test_deaths_count_only_while_nothing_new_is_written(tmp_path: Path) -> None:
    """Twelve deaths, each after one more checkpoint, are a busy cluster; three without are a bug."""
    (cell,) = cells = [a_cell(tmp_path, "a")]
    busy = [dies_after_writing(tmp_path / "a", [f"checkpoints/{i}"]) for i in range(12)]
    sweep(cells, ScriptedEngine({"a": [*busy, DONE]}), "s")
    assert cell.state == "done"

    (cell,) = cells = [a_cell(tmp_path, "b")]
    nothing = [dies_after_writing(tmp_path / "b", ["log.txt"])] * 10
    engine = ScriptedEngine({"b": nothing})
    sweep(cells, engine, "s")
    assert cell.state == "failed"
    # The first death comes with the log, which is new then.
    assert len(engine.started) == MOST_DEATHS
    assert cell.message == (
        "its worker died 3 times without getting further, the last time: killed by SIGKILL"
    )


def test_a_claim_is_no_progress(tmp_path: Path) -> None:
    (cell,) = cells = [a_cell(tmp_path, "a")]
    claims = [dies_after_writing(tmp_path / "a", [f".claim/{i:06d}.json"]) for i in range(10)]
    sweep(cells, ScriptedEngine({"a": claims}), "s")
    assert cell.state == "failed"


def test_a_worker_that_was_told_to_stop_by_somebody_else_is_replaced(tmp_path: Path) -> None:
    cells = [a_cell(tmp_path, "a")]
    engine = ScriptedEngine({"a": [Outcome("stopped", "stopped by SIGTERM"), DONE]})
    sweep(cells, engine, "s")
    assert states(cells) == {"a": "done"}


def test_a_cell_that_another_sweep_holds_is_waited_for(tmp_path: Path) -> None:
    """It is asked for again once nobody is at it, and its worker then finds it complete."""
    cells = [a_cell(tmp_path, "a"), a_cell(tmp_path, "b")]
    others = claimed(f"{tmp_path}/a", "theirs")
    others.__enter__()

    def free_it() -> Outcome:
        others.__exit__(None, None, None)
        return DONE

    engine = ScriptedEngine({"a": [Outcome("busy", "held by them"), DONE], "b": [free_it]}, slots=1)
    sweep(cells, engine, "s")
    assert engine.started == ["a", "b", "a"]
    assert [job.taken_from for job in engine.jobs] == [None, None, None]
    assert states(cells) == {"a": "done", "b": "done"}


def test_a_lifeless_claim_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [a_cell(tmp_path, "a")]

    class Watch:
        def lifeless(self, place: str) -> str | None:
            return "token of the dead"

    monkeypatch.setattr(sweep_module, "Watch", Watch)
    engine = ScriptedEngine({"a": [Outcome("busy"), DONE]})
    with claimed(f"{tmp_path}/a", "theirs"):
        sweep(cells, engine, "s")
    assert [job.taken_from for job in engine.jobs] == [None, "token of the dead"]


def test_a_signal_stops_what_runs_and_begins_nothing_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [a_cell(tmp_path, name) for name in "abc"]

    def stop() -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        return DONE

    engine = ScriptedEngine({"a": [stop], "b": [DONE], "c": [DONE]}, slots=1)
    with pytest.raises(
        Interrupted, match="stopped by SIGTERM; continue with the same command: runs/s"
    ) as stop_:
        sweep(cells, engine, "runs/s")
    assert stop_.value.exit_code == 143
    assert engine.interrupted
    assert engine.left
    assert engine.started == ["a"]
    assert states(cells) == {"a": "done", "b": "stopped", "c": "stopped"}
    assert "stopping: running cells write their checkpoints" in capsys.readouterr().out


def test_seconds_left_weigh_the_stages(tmp_path: Path) -> None:
    cell = a_cell(tmp_path, "a")
    assert cell.seconds_left == 15
    cell.state = "running"
    for label, done, left in (("train", 4, 11.0), ("train", 10, 5.0), ("probe", 5, 2.5), ("probe", 10, 0.0)):
        cell.status = Status(label, "step", done, 10, 1.0, 1.0)
        assert cell.seconds_left == pytest.approx(left)
    begun = Cell(cell.job, {"train": 10.0, "probe": 5.0}, {"train": 0.5})
    assert begun.seconds_left == 10
    begun.state = "failed"
    assert begun.seconds_left == 0


@pytest.mark.parametrize(
    ("place", "parent", "expected"),
    [
        ("/runs/s/child", "off", "/runs/s/off"),
        ("/runs/s/child", "../t/off", "/runs/t/off"),
        ("/runs/s/child", "/elsewhere/off", "/elsewhere/off"),
        ("s3://bucket/runs/s/child", "off", "s3://bucket/runs/s/off"),
        ("s3://bucket/runs/s/child", "../t/off", "s3://bucket/runs/t/off"),
    ],
)
def test_where_a_parent_is(tmp_path: Path, place: str, parent: str, expected: str) -> None:
    cell = a_cell(tmp_path, "child", parent)
    cell.job = replace(cell.job, place=place)
    assert cell.parents == (expected,)


def test_a_folder_that_cannot_be_reached_for_a_moment_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims, files and logs are looked at by way of the file system; any of that may fail."""

    def unreachable(place: str) -> None:
        raise UserError(f"{place}: cannot be reached (OSError: [Errno 5] Input/output error)")

    for module, name in (
        (cells_module, "read_claim"),
        (cells_module.Remote, "at"),
        (sweep_module, "read_claim"),
    ):
        monkeypatch.setattr(module, name, unreachable)
    cells = [a_cell(tmp_path, "a"), a_cell(tmp_path, "b")]
    deaths = [Outcome("died", "killed"), Outcome("died", "killed"), DONE]
    sweep(cells, ScriptedEngine({"a": deaths, "b": [Outcome("failed", "no"), DONE]}), "s")
    assert states(cells) == {"a": "done", "b": "failed"}
    assert summary(cells, already=0)[0] == "cells: 1 of 2 complete, 1 failed"


def test_a_cell_that_stays_busy_without_a_claim_is_asked_for_ever_less_often(tmp_path: Path) -> None:
    cell = a_cell(tmp_path, "a")
    asked = [now for now in range(1000) if cell.is_worth_asking_again(float(now))]
    assert asked[:5] == [0, 5, 15, 35, 75]
    assert {later - now for now, later in pairwise(asked[4:])} == {60}


def test_work_of_cells_that_failed_is_not_work_done(tmp_path: Path) -> None:
    cells = [a_cell(tmp_path, "a"), a_cell(tmp_path, "b")]
    schedule = sweep_module._Schedule(cells, ScriptedEngine({}))
    assert schedule.total().work_done == 0
    cells[0].state = "failed"
    assert schedule.total().work_done == 0
    cells[1].state = "done"
    assert schedule.total().work_done == 1
