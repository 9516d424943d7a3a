"""Runs behind a URL are read from a copy that is brought up to date."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from mirrored_runs import counted, empty_scratch, texts, train, write

from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.sweep.places import scratch
from mech_grok.sweep.places.claim import claimed
from mech_grok.sweep.places.claim_files import claim_files
from mech_grok.sweep.places.mirror import fetch, publish


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_scratch(tmp_path / "tmp", monkeypatch)


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training that nothing happens to."""
    return train(tmp_path_factory.mktemp("undisturbed") / "cell")


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
