"""A run behind a URL is worked on in a copy, of which what has changed is pushed."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from mirrored_runs import CELL, assert_same, counted, empty_scratch, texts, train, write

from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.errors import RunBusyError, UserError
from mech_grok.run import Run, beside
from mech_grok.sweep.places import mirror
from mech_grok.sweep.places.claim import claimed
from mech_grok.sweep.places.claim_files import claim_files
from mech_grok.sweep.places.copying import files_in
from mech_grok.sweep.places.mirror import fetch, mirrored, publish
from mech_grok.sweep.places.remote import is_remote


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
