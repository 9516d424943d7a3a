"""Runs behind a URL: whatever is cut short, training goes on from what is there, to the same bits."""

import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
import xarray as xr
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from mech_grok import train_stage
from mech_grok.array_store import load_store
from mech_grok.checkpoint_stages import probe_run
from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.errors import RunBusyError, UserError
from mech_grok.run import Run, beside
from mech_grok.sweep.places import copying, mirror, scratch
from mech_grok.sweep.places.claim import claimed
from mech_grok.sweep.places.claim_files import claim_files
from mech_grok.sweep.places.copying import files_in, held_still, stage
from mech_grok.sweep.places.mirror import fetch, mirrored, publish
from mech_grok.sweep.places.remote import is_remote
from mech_grok.train_stage import train_cell

CELL: dict[str, Any] = {
    "task": {"p": 11},
    "model": {"d_model": 16, "n_heads": 2, "attention_factor": 1.0},
    "training": {
        "steps": 20,
        "seeds": [3, 1],
        "checkpoint_every": 5,
        "optimiser_state_every": 10,
        "threads": 1,
        "follow_entropy": {"of": 0.9, "every": 5},
    },
}
"""A training that writes all that one can write: rows, solved factors, optimiser states that are thinned."""


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which is empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(mirror, "_PAUSES_S", (0.0,))
    scratch.slot_for_good.cache_clear()
    return folder


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def train(path: Path) -> Run:
    return train_cell(path, CellConfig.model_validate(CELL), resume=True, command="test")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training that nothing happens to."""
    return train(tmp_path_factory.mktemp("undisturbed") / "cell")


def assert_same(run: Run, other: Run) -> None:
    """All that was computed is equal to the last bit."""
    assert run.steps == other.steps
    for name in ("metrics", "norms", "attention_factor"):
        xr.testing.assert_identical(
            load_store(run.path / f"{name}.zarr"), load_store(other.path / f"{name}.zarr")
        )
    for step in run.steps:
        weights, others = run.weights(step), other.weights(step)
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def tree(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def write(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {name: content.decode() for name, content in tree(folder).items()}


def counted(patch: pytest.MonkeyPatch, fs: type, name: str) -> list[str]:
    """The first argument of every call of a file system's method from now on."""
    calls: list[str] = []
    method = getattr(fs, name)

    def called(self: object, path: str, *rest: object, **options: object) -> object:
        calls.append(path)
        return method(self, path, *rest, **options)

    patch.setattr(fs, name, called)
    return calls


def test_what_is_remote() -> None:
    assert all(map(is_remote, ("s3://b/x", "file:///x", "simplecache::s3://b/x")))
    assert not any(map(is_remote, ("/x/y", "runs", "a:b")))


def test_a_path_is_worked_on_where_it_is(tmp_path: Path, own_scratch: Path) -> None:
    with mirrored(f"{tmp_path}/a") as path:
        assert path == tmp_path / "a"
        assert not path.exists()
    assert fetch(f"{tmp_path}/a") == tmp_path / "a"
    assert not any(own_scratch.iterdir())


def test_a_training_behind_a_url_is_the_same(tmp_path: Path, undisturbed: Run, own_scratch: Path) -> None:
    with mirrored(f"file://{tmp_path}/s/cell") as path:
        run = train(path)
        assert run.name == "cell"
        assert path.is_relative_to(own_scratch)
    assert_same(Run(tmp_path / "s/cell"), undisturbed)
    assert not any((tmp_path / "s").rglob(".*"))
    assert [*files_in(own_scratch)] == ["mech-grok-0/work-0.lock".replace("-0/", f"-{os.getuid()}/")]


def test_what_is_not_whole_or_only_of_here_does_not_travel(tmp_path: Path) -> None:
    with mirrored(f"file://{tmp_path}/cell") as path:
        write(
            path, {"a": "1", ".lock": "", ".b.1.partial": "1", ".x.zarr.partial/zarr.json": "1", "c/.d": "1"}
        )
    assert texts(tmp_path / "cell") == {"a": "1"}
    assert sorted(os.listdir(tmp_path / "cell")) == ["a"]


def test_only_what_has_changed_is_written_and_what_is_gone_is_deleted(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored("memory://b/s/cell") as path:
        write(path, {"a": "1", "b/c": "2", "b/d": "3"})
    written = counted(monkeypatch, MemoryFileSystem, "mv")
    with mirrored("memory://b/s/cell") as path:
        assert texts(path) == {"a": "1", "b/c": "2", "b/d": "3"}
        write(path, {"a": "4", "e": "5"})
        (path / "b/c").unlink()
    assert len(written) == 2
    assert {n: memory.cat_file(n) for n in memory.find("/b")} == {
        "/b/s/cell/a": b"4",
        "/b/s/cell/b/d": b"3",
        "/b/s/cell/e": b"5",
    }


def test_what_an_earlier_life_left_here_does_not_count(tmp_path: Path, own_scratch: Path) -> None:
    place = f"file://{tmp_path}/s/cell"
    write(tmp_path / "s/cell", {"a": "1"})
    with mirrored(place) as path:
        left = path
    write(left, {"a": "stale", "probes/x.zarr/zarr.json": "stale", "../another/a": "killed"})
    with mirrored(place) as path:
        assert os.listdir(path.parent) == ["cell"]
        assert path == left
        assert texts(path) == {"a": "1"}
        assert sorted(os.listdir(path)) == [".copied.json", "a"]
    assert texts(tmp_path / "s/cell") == {"a": "1"}


def test_a_second_worker_of_the_same_machine_has_its_own_copy(tmp_path: Path) -> None:
    with mirrored(f"file://{tmp_path}/s/a") as one, mirrored(f"file://{tmp_path}/s/a") as other:
        assert one != other
        write(one, {"x": "1"})
        assert texts(other) == {}


def test_it_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PUSH_EVERY_S", 0.01)
    with mirrored(f"file://{tmp_path}/cell") as path:
        for text in ("1", "22"):
            write(path, {"a": text})
            end = time.monotonic() + 10
            while texts(tmp_path / "cell") != {"a": text}:
                assert time.monotonic() < end
                time.sleep(0.005)
        assert "push" in {thread.name for thread in threading.enumerate()}
    assert "push" not in {thread.name for thread in threading.enumerate()}


def write_and_raise(place: str) -> None:
    with mirrored(place) as path:
        write(path, {"a": "1"})
        raise ZeroDivisionError


def test_it_is_written_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_and_raise(f"file://{tmp_path}/cell")
    assert texts(tmp_path / "cell") == {"a": "1"}


def unreachable(patch: pytest.MonkeyPatch, times: int = 10**9) -> list[int]:
    """A network that is gone for some writes."""
    left = [times]
    put = LocalFileSystem.put_file

    def put_file(self: LocalFileSystem, *paths: str, **options: object) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise TimeoutError("no answer\nfor long")
        put(self, *paths, **options)

    patch.setattr(LocalFileSystem, "put_file", put_file)
    return left


def test_a_last_write_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch, times=1)
    with mirrored(f"file://{tmp_path}/cell") as path:
        write(path, {"a": "1"})
    assert texts(tmp_path / "cell") == {"a": "1"}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    place = f"file://{tmp_path}/cell"
    with pytest.raises(UserError) as error, mirrored(place) as path:
        write(path, {"a": "1"})
    assert str(error.value) == f"{place}: cannot be reached (TimeoutError: no answer for long)"


def test_what_ended_the_block_counts_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unreachable(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        write_and_raise(f"file://{tmp_path}/cell")
    assert "cannot be reached (TimeoutError: no answer for long)" in capsys.readouterr().out


def test_a_write_that_fails_meanwhile_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = unreachable(monkeypatch, times=3)
    monkeypatch.setattr(mirror, "PUSH_EVERY_S", 0.01)
    with mirrored(f"file://{tmp_path}/cell") as path:
        write(path, {"a": "1"})
        end = time.monotonic() + 10
        while left[0] >= 0:
            assert time.monotonic() < end
            time.sleep(0.005)
    assert capsys.readouterr().out.count("no answer for long); trying again\n") == 3
    assert texts(tmp_path / "cell") == {"a": "1"}


@pytest.mark.parametrize("place", ["s3://bucket/a", "nope://bucket/a"])
def test_a_place_that_cannot_be_opened_is_one_line(place: str, tmp_path: Path) -> None:
    for use in (lambda: mirrored(place).__enter__(), lambda: fetch(place), lambda: publish(tmp_path, place)):
        with pytest.raises(UserError, match=f"{place}: cannot be opened: (Install s3fs|Protocol not known)"):
            use()


def test_nothing_is_written_once_the_claim_is_lost(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/cell"

    def work() -> None:
        with claimed(place, "s") as claim, mirrored(place, claim=claim) as path:
            write(path, {"a": "1"})
            claim_files(place).create(2, b"{}")
            claim.beat()

    with pytest.raises(RunBusyError, match="another process has taken it over"):
        work()
    assert texts(tmp_path / "cell") == {}


def test_the_claim_stays_there_and_does_not_travel(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/cell"
    with claimed(place, "s") as claim, mirrored(place, claim=claim) as path:
        assert [*path.iterdir()] == []
        write(path, {"a": "1"})
    assert sorted(os.listdir(tmp_path / "cell")) == [".claim", "a"]


# What a run builds on


def test_runs_and_files_that_it_needs_are_beside_it(tmp_path: Path) -> None:
    other = {**CELL, "training": {**CELL["training"], "follow_entropy": {"of": "../u/c"}}}
    follower, followed = (to_yaml(CellConfig.model_validate(cell)) for cell in (other, CELL))
    write(tmp_path / "s/off", {"config.yaml": follower, "checkpoints/step_000005.safetensors": "w"})
    write(
        tmp_path / "s/off", {"ablations.zarr/zarr.json": "", "probes/ntk.zarr/zarr.json": "", "report/x": ""}
    )
    write(
        tmp_path / "u/c",
        {"config.yaml": followed, "probes/attention.zarr/zarr.json": ""},
    )
    write(tmp_path / "t", {"curve.csv": "step,entropy\n"})
    needs = ("off", "../t/curve.csv", "gone", str(tmp_path / "t/curve.csv"), "../../../../../../../../x")
    with mirrored(f"file://{tmp_path}/s/cell", needs) as path:
        assert texts(path) == {}
        assert set(texts(beside(path, "off"))) == {"config.yaml", "checkpoints/step_000005.safetensors"}
        assert beside(path, "../t/curve.csv").read_text() == "step,entropy\n"
        assert set(texts(beside(path, "../u/c"))) == {"config.yaml", "probes/attention.zarr/zarr.json"}
        assert not beside(path, "gone").exists()
        write(beside(path, "off"), {"probes/attention.zarr/zarr.json": "recorded here"})
    assert not (tmp_path / "s/off/probes/attention.zarr").exists()  # who holds it writes it


# Reading


def test_a_copy_to_read_has_all_but_earlier_checkpoints(tmp_path: Path, undisturbed: Run) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "s/a")
    shutil.copytree(undisturbed.path, tmp_path / "s/b")
    (tmp_path / "s/b/checkpoints/step_000020.safetensors").unlink()
    write(tmp_path / "s", {"study.yaml": "study: s"})
    folder = fetch(f"file://{tmp_path}/s")
    assert {p.name: [*p.iterdir()] for p in folder.glob("*/checkpoints")}
    assert [Run(folder / name).steps for name in "ab"] == [(20,), (15,)]
    assert [*folder.rglob("optimiser*")] == []
    assert Run(folder / "a").is_trained
    xr.testing.assert_identical(Run(folder / "a").metrics, undisturbed.metrics)
    assert (folder / "study.yaml").read_text() == "study: s"
    assert fetch(f"file://{tmp_path}/s/a/") == folder / "a"


def test_a_copy_to_read_is_brought_up_to_date_with_what_has_changed(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe({"/b/a": b"1", "/b/x/c": b"2", "/b/d": b"3"})
    folder = fetch("memory://b")
    read = counted(monkeypatch, MemoryFileSystem, "get_file")
    assert fetch("memory://b") == folder
    assert read == []
    memory.rm_file("/b/x/c")
    memory.pipe_file("/b/d", b"4")  # as long as before
    write(folder, {"a": "9"})
    fetch("memory://b")
    assert sorted(read) == ["/b/a", "/b/d"]
    assert texts(folder) == {"a": "1", "d": "4"}
    assert not (folder / "x").exists()  # a store is taken to be there if its folder is
    (folder / ".copied.json").write_text("{")
    assert texts(fetch("memory://b")) == {"a": "1", "d": "4"}


class Remembering(MemoryFileSystem):
    """Lists from memory until it is told to look again, as the file systems of object stores do."""

    protocol = "remembering"
    found: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("remembering://"))

    def find(self, path: str, *args: Any, **options: Any) -> Any:
        return self.found.setdefault(path, super().find(path, *args, **options))

    def invalidate_cache(self, path: str | None = None) -> None:
        self.found.clear()


def test_what_others_have_written_since_is_seen(memory: MemoryFileSystem) -> None:
    fsspec.register_implementation("remembering", Remembering, clobber=True)
    memory.pipe_file("/b/a", b"1")
    assert texts(fetch("remembering:///b")) == {"a": "1"}
    memory.pipe_file("/b/c", b"2")
    assert texts(fetch("remembering:///b")) == {"a": "1", "c": "2"}
    with claimed("remembering:///b", "s"):
        claim_files("memory:///b").create(2, b"")
        assert claim_files("remembering:///b").numbers() == [1, 2]
        claim_files("memory:///b").remove(2)


def test_a_mark_that_comes_while_a_run_is_listed_waits_for_the_next_time(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing may have it without what it marks, which came between two pages."""
    chunk, mark = "/b/a.zarr/x/c/0", "/b/a.zarr/step_done/c/0"
    memory.pipe({"/b/a.zarr/zarr.json": b"", chunk: b"1", mark: b"1"})
    found = memory.find("/b", detail=True)
    before = {name: info for name, info in found.items() if name not in (chunk, mark)}
    torn = {name: info for name, info in found.items() if name != chunk}
    listings = iter([before, torn])
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "find", lambda *args, **options: next(listings))
        assert set(texts(fetch("memory://b"))) == {"a.zarr/zarr.json"}
    assert len(texts(fetch("memory://b"))) == 3


def test_where_nothing_is_there_is_nothing_to_read(tmp_path: Path) -> None:
    folder = fetch(f"file://{tmp_path}/nothing")
    assert not folder.exists() or not any(folder.iterdir())


def test_another_process_reads_from_its_own_copy(tmp_path: Path) -> None:
    write(tmp_path / "s", {"a": "1"})
    folder = fetch(f"file://{tmp_path}/s")
    with scratch.slot("read") as other:
        assert not folder.is_relative_to(other)


def test_a_folder_and_a_file_are_published(tmp_path: Path, memory: MemoryFileSystem) -> None:
    write(tmp_path / "report", {"index.html": "page", "data/x": "1"})
    publish(tmp_path / "report", "memory://b/s/report")
    publish(tmp_path / "report/index.html", "memory://b/s/study.yaml")
    assert {n: memory.cat_file(n).decode() for n in memory.find("/b")} == {
        "/b/s/report/index.html": "page",
        "/b/s/report/data/x": "1",
        "/b/s/study.yaml": "page",
    }
    assert texts(tmp_path / "report") == {"index.html": "page", "data/x": "1"}
    publish(tmp_path / "report", str(tmp_path / "there"))
    assert texts(tmp_path / "there") == texts(tmp_path / "report")


def test_a_scratch_of_another_user_is_refused(
    tmp_path: Path, own_scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (own_scratch / "mech-grok-12345").mkdir()
    with pytest.raises(UserError, match="mech-grok-12345: belongs to another user; set TMPDIR to a folder"):
        fetch(f"file://{tmp_path}")


# Cut short


def test_every_file_of_a_run_is_of_the_right_kind(undisturbed: Run) -> None:
    probe_run(undisturbed, ["attention"])
    kinds = {name: stage(name) for name in files_in(undisturbed.path)}
    marks = {name for name, kind in kinds.items() if kind}
    assert [kinds.get(name) for name in ("environment.json", "checkpoints/optimiser_000020.safetensors")] == [
        0,
        0,
    ]
    stores = ("attention_factor", "probes/attention")
    assert {name for name in marks if kinds[name] == 1} == {
        f"{store}.zarr/zarr.json" for store in (*stores, "metrics", "norms")
    }
    assert [name for name in marks if kinds[name] == 2] == ["config.yaml"]
    assert {name for name in marks if kinds[name] == 5} == {
        f"checkpoints/step_{step:06d}.safetensors" for step in (0, 5, 10, 15, 20)
    }
    assert {name for name in marks if kinds[name] in (3, 4)} == {
        name for name in kinds if name.startswith(tuple(f"{s}.zarr/step_done/c/" for s in stores))
    }
    assert len(marks) == 4 + 1 + 5 + 2 * 5


@pytest.fixture
def pushed_at_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes happen after every checkpoint, one file at a time, instead of now and then."""
    copies: list[Any] = []
    save = train_stage.save_checkpoint

    def saved(path: Path, trainer: Any) -> None:
        save(path, trainer)
        copies[-1].push()

    monkeypatch.setattr(train_stage, "save_checkpoint", saved)
    monkeypatch.setattr(mirror, "_push_now_and_then", lambda copy, stop: copies.append(copy))
    monkeypatch.setattr(copying, "_AT_ONCE", 1)


def after_each_change(patch: pytest.MonkeyPatch, look: Callable[[], None]) -> None:
    """Call a function after everything that makes a visible difference in a file:// folder."""
    for name in ("mv", "rm_file"):
        method = getattr(LocalFileSystem, name)

        def changed(
            self: object, *args: str, _method: Callable[..., None] = method, **options: object
        ) -> None:
            _method(self, *args, **options)
            look()

        patch.setattr(LocalFileSystem, name, changed)


def states_of_a_push(tmp_path: Path) -> list[Path]:
    """Copies of all that there ever is of a run behind a URL while it is trained, oldest first."""
    states: list[Path] = []

    def keep() -> None:
        states.append(tmp_path / "states" / f"{len(states):04d}")
        shutil.copytree(tmp_path / "s/cell", states[-1] / "cell", copy_function=os.link)

    with pytest.MonkeyPatch.context() as patch:
        after_each_change(patch, keep)
        with mirrored(f"file://{tmp_path}/s/cell") as path:
            train(path)
    return states


def goes_on_from(state: Path, undisturbed: Run) -> int:
    """The step from which a training goes on that finds only this; its results are checked."""
    with mirrored(f"file://{state}/cell") as path:
        step = Run(path).steps_done if (path / "config.yaml").exists() else -1
        train(path)
    assert_same(Run(state / "cell"), undisturbed)
    return step


@pytest.mark.usefixtures("pushed_at_checkpoints")
def test_training_goes_on_from_some_states_that_a_push_can_leave(tmp_path: Path, undisturbed: Run) -> None:
    states = states_of_a_push(tmp_path)
    steps = [goes_on_from(states[i], undisturbed) for i in (-2, -9, -20, len(states) // 8)]
    assert steps == sorted(steps, reverse=True)
    assert len({*steps}) > 2


@pytest.mark.slow
@pytest.mark.usefixtures("pushed_at_checkpoints")
def test_training_goes_on_from_every_state_that_a_push_can_leave(tmp_path: Path, undisturbed: Run) -> None:
    steps = [goes_on_from(state, undisturbed) for state in states_of_a_push(tmp_path)]
    assert steps == sorted(steps)
    assert {*steps} == {-1, 0, 5, 10, 15, 20}


def dies_at(patch: pytest.MonkeyPatch, operation: int) -> list[str]:
    """The machine's last sign is this operation on a file:// folder; returns what it does."""
    done: list[str] = []

    def dying(name: str) -> None:
        method = getattr(LocalFileSystem, name)

        def called(self: object, *args: str, **options: object) -> object:
            if len(done) >= operation:
                raise OSError("dead")
            done.append(name)
            return method(self, *args, **options)

        patch.setattr(LocalFileSystem, name, called)

    for name in ("makedirs", "put_file", "mv", "rm_file"):
        dying(name)
    return done


@pytest.mark.parametrize(
    "operation", [pytest.param(n, marks=[] if n == 305 else pytest.mark.slow) for n in range(5, 310, 20)]
)
def test_training_goes_on_after_a_death_while_pushes_and_training_go_side_by_side(
    tmp_path: Path, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    monkeypatch.setattr(mirror, "PUSH_EVERY_S", 0.001)
    monkeypatch.setattr(copying, "_AT_ONCE", 3)
    place = f"file://{tmp_path}/s/cell"
    with monkeypatch.context() as patch:
        done = dies_at(patch, operation)
        with pytest.raises(UserError, match="OSError: dead"), mirrored(place) as path:
            train(path)
        assert len(done) == operation
    with mirrored(place) as path:
        train(path)
    assert_same(Run(tmp_path / "s/cell"), undisturbed)


def training(folder: Path) -> Iterator[None]:
    """What a training writes and deletes, one file at a time, in the order in which it does."""
    for step in itertools.count():
        if not step:
            write(folder, {"metrics.zarr/zarr.json": ""})
            yield
            write(folder, {"config.yaml": ""})
            yield
        files = (
            f"metrics.zarr/loss/c/0/{step}",
            f"attention_factor.zarr/factor/c/0/{step}",
            f"attention_factor.zarr/final_step/c/0/{step}",
            f"attention_factor.zarr/step_done/c/{step}",
            f"checkpoints/optimiser_{step:06d}.safetensors",
            f"checkpoints/step_{step:06d}.safetensors",
        )
        for name in files:
            write(folder, {name: ""})
            yield
        if step:
            (folder / f"checkpoints/optimiser_{step - 1:06d}.safetensors").unlink()
            yield


@pytest.mark.parametrize("seed", range(40))
def test_a_run_is_held_still_as_a_kill_would_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is written while it is looked at: what is noted has all that was written before it."""
    random, writer = np.random.default_rng(seed), training(tmp_path)

    def meanwhile(_: object = None) -> bool:
        """Up to a whole checkpoint, now and then."""
        for _ in range(random.choice([0, 1, 7], p=[0.97, 0.02, 0.01])):
            next(writer)
        return True

    def listed(folder: Path) -> list[str]:
        return [name for name in files_in(folder) if meanwhile()]

    for _ in range(random.integers(16, 40)):
        next(writer)
    monkeypatch.setattr(copying, "files_in", listed)
    with held_still(tmp_path, {}) as now:
        names = now.names
        assert all(path.exists() for path in now.changed.values())
    weights = [step for step in range(1000) if f"checkpoints/step_{step:06d}.safetensors" in names]
    assert weights == [*range(max(weights) + 1)]
    assert any(f"checkpoints/optimiser_{step:06d}.safetensors" in names for step in weights)
    done = [step for step in range(1000) if f"attention_factor.zarr/step_done/c/{step}" in names]
    assert done == [*range(max(done) + 1)]
    assert done[-1] >= weights[-1]
    for step in done:
        assert f"attention_factor.zarr/final_step/c/0/{step}" in names
        assert f"attention_factor.zarr/factor/c/0/{step}" in names
        assert f"metrics.zarr/loss/c/0/{step}" in names
    assert {"config.yaml", "metrics.zarr/zarr.json"} <= names
    assert not (tmp_path / ".held").exists()


def test_a_state_that_training_deletes_while_it_is_noted_is_followed_by_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = training(tmp_path)
    calls = itertools.count()

    def listed(folder: Path) -> list[str]:
        """All but the second listing are out of date at once."""
        names = [*files_in(folder)]
        for _ in range(0 if next(calls) == 1 else 7):
            next(writer)
        return names

    for _ in range(30):
        next(writer)
    monkeypatch.setattr(copying, "files_in", listed)
    with held_still(tmp_path, {}) as now:
        states = {name.replace("optimiser", "step") for name in now.names if "optimiser" in name}
        assert states & now.names


def test_what_is_held_still_can_be_copied_after_it_is_deleted(tmp_path: Path) -> None:
    write(tmp_path, {"a": "1", "b": "2"})
    with held_still(tmp_path, {"b": copying.signature(tmp_path / "b") or []}) as now:
        (tmp_path / "a").unlink()
        assert now.names == {"a", "b"}
        assert {name: path.read_text() for name, path in now.changed.items()} == {"a": "1"}


@pytest.mark.parametrize("changed_first", [False, True])
def test_marks_come_after_what_they_mark_and_go_before_it(changed_first: bool) -> None:
    run = [
        "a/step_done/c/1",
        "checkpoints/step_000001.safetensors",
        "a/x/c/1",
        "config.yaml",
        "a.zarr/zarr.json",
        "a/final_step/c/1",
    ]
    events: list[str] = []
    changed, gone = (run, []) if changed_first else ([], run)
    copying.in_order(changed, gone, events.append, events.append)
    order = [stage(name) for name in events]
    assert sorted(order) == [0, 1, 2, 3, 4, 5]
    assert order == sorted(order) if changed_first else order[-1] == 0
