"""Claims on runs: one holder at a time, whatever happens to it, on a path and behind a URL."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from mech_grok.errors import RunBusyError, UserError
from mech_grok.progress import Status
from mech_grok.signals import Terminated, listening, unwinding
from mech_grok.sweep.places import claim as claim_module
from mech_grok.sweep.places.claim import Watch, claimed, read_claim
from mech_grok.sweep.places.claim_files import claim_files
from mech_grok.sweep.places.claim_record import ClaimRecord, encoded
from mech_grok.sweep.places.processes import this_process

STATUS = Status("train", "step", 3, 10, 1.5, 2.0, "loss 1")


@pytest.fixture(params=["path", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A run directory that does not exist, named in several ways."""
    yield {
        "path": f"{tmp_path}/runs/a",
        "file": f"file://{tmp_path}/runs/a",
        "memory": f"memory://{tmp_path.name}/runs/a",
    }[request.param]
    if request.param == "memory":
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "BEAT_S", 0.02)
    monkeypatch.setattr(claim_module, "REMOTE_BEAT_S", 0.02)


def until(happens: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def written(place: str, number: int, record: ClaimRecord) -> None:
    """A claim of somebody else."""
    claim_files(place).create(number, encoded(record))


def somebody(**changes: object) -> ClaimRecord:
    other = ClaimRecord("t", "theirs", "far", 7, 0, "2026-01-01T00:00:00+00:00", None, "another machine")
    return replace(other, **changes)  # pyright: ignore[reportArgumentType]


def test_a_claim_says_who_holds_the_run(place: str) -> None:
    assert read_claim(place) is None
    with claimed(place, "s") as claim:
        record = read_claim(place)
        assert record is not None
        assert (record.token, record.sweep, record.pid) == (claim.token, "s", os.getpid())
        assert record.host == platform.node()
        assert record.status is None
        assert claim.is_held()
    assert read_claim(place) is None


def test_a_second_one_is_refused_until_the_first_gives_back(place: str) -> None:
    with claimed(place, "s"):
        for sweep in ("other", ""):
            with pytest.raises(RunBusyError) as error, claimed(place, sweep):
                pass
            message = str(error.value)
            assert message.startswith(f"{place}: process {os.getpid()} on {platform.node()}, since 20")
            assert "\n" not in message
    with claimed(place, "other"):
        pass


def test_it_is_given_back_when_the_block_raises(place: str) -> None:
    with pytest.raises(ZeroDivisionError), claimed(place, "s"):
        raise ZeroDivisionError
    assert read_claim(place) is None
    with claimed(place, "other"):
        pass


def test_one_small_file_is_left_however_often_it_is_claimed(tmp_path: Path) -> None:
    for sweep in "abc":
        with claimed(str(tmp_path), sweep):
            pass
    assert os.listdir(tmp_path / ".claim") == ["000003.json"]


@pytest.mark.usefixtures("quick")
def test_signs_of_life_and_status_are_seen(place: str) -> None:
    with claimed(place, "s") as claim:
        claim.status = STATUS

        def seen() -> bool:
            record = read_claim(place)
            return record is not None and record.status == STATUS and record.beat > 3

        until(seen)


@pytest.mark.parametrize(
    ("record", "sweep", "taken_from", "free"),
    [
        (somebody(), "mine", None, False),
        (somebody(), "theirs", None, True),
        (somebody(), "mine", "t", True),
        (somebody(), "mine", "another", False),
        (somebody(released=True), "mine", None, True),
        (somebody(sweep=""), "", None, False),
    ],
)
def test_whose_claim_may_be_taken_over(
    place: str, record: ClaimRecord, sweep: str, taken_from: str | None, free: bool
) -> None:
    written(place, 4, record)
    if free:
        with claimed(place, sweep, taken_from) as claim:
            assert claim_files(place).numbers() == [5]
            assert claim.is_held()
    else:
        with pytest.raises(RunBusyError, match="process 7 on far, since 2026-01-01"), claimed(place, sweep):
            pass
        assert claim_files(place).numbers() == [4]


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"started": "1"}, True),  # the number went to another process
        ({"pid": ended_process()}, True),
        ({"pid": ended_process(), "machine": "elsewhere"}, False),
        ({"pid": ended_process(), "machine": ""}, False),
    ],
)
@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells when a process began")
def test_a_process_of_this_machine_that_is_gone_holds_nothing(
    tmp_path: Path, changes: dict[str, object], free: bool
) -> None:
    me = this_process()
    record = somebody(**{"pid": me.pid, "machine": me.machine, "started": me.started, **changes})
    written(str(tmp_path), 1, record)
    assert record.is_dead is free
    if free:
        with claimed(str(tmp_path), "mine"):
            pass
    else:
        with pytest.raises(RunBusyError), claimed(str(tmp_path), "mine"):
            pass


def test_a_process_that_nobody_has_waited_for_is_gone() -> None:
    process = subprocess.Popen(["true"])
    alive = replace(this_process(), pid=process.pid)
    until(lambda: alive.is_gone)
    process.wait()


@pytest.mark.parametrize("content", [b"", b'{"token": "t"', b"{}", b"[]", b"null", b'"x"', b"\xff"])
def test_a_file_that_is_not_whole_is_a_claim_by_nobody_known(
    place: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_files(place).create(1, content)
    record = read_claim(place)
    assert record is not None
    with pytest.raises(RunBusyError, match="another process is at it"), claimed(place, ""):
        pass
    monkeypatch.setattr(claim_module, "STALE_S", 0.02)
    watch = Watch()
    assert watch.lifeless(place) is None
    time.sleep(0.03)
    with claimed(place, "s", watch.lifeless(place)):
        pass


def test_lifeless_is_who_does_not_move_for_long_enough(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(claim_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch, files = Watch(), claim_files(place)
    assert watch.lifeless(place) is None
    written(place, 1, somebody())

    def after(seconds: float) -> str | None:
        clock[0] += seconds
        return watch.lifeless(place)

    assert after(1000) is None  # the first look: its file may be as old as it likes
    assert after(59) is None
    files.rewrite(1, encoded(somebody(beat=1)))
    assert after(2) is None
    assert after(59) is None
    assert after(1) == "t"
    assert Watch().lifeless(place) is None
    files.create(2, encoded(somebody(token="u", beat=1)))
    assert after(1) is None
    files.rewrite(2, encoded(somebody(token="u", released=True)))
    assert after(100) is None
    assert after(100) is None


def test_who_is_taken_over_is_interrupted_without_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """In training too, where SIGTERM alone would ask for a checkpoint first."""
    asked_for: list[int | None] = []

    def train_until_terminated() -> None:
        with listening() as requests:
            try:
                until(lambda: False)
            except Terminated:
                asked_for.append(requests.stop_signal)
                raise

    def work() -> None:
        with unwinding(), claimed(str(tmp_path), "s"):
            written(str(tmp_path), 2, somebody())
            train_until_terminated()

    with pytest.raises(RunBusyError, match="another process has taken it over"):
        work()
    assert asked_for == [None]
    record = read_claim(str(tmp_path))
    assert record is not None
    assert record.token == "t"
    with unwinding(), listening() as requests:  # the next SIGTERM means what it always does
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: requests.stop_signal)


def test_a_number_is_given_to_the_first_who_asks(place: str) -> None:
    files = claim_files(place)
    files.create(3, b"first")
    files.create(3, b"second")
    assert files.read(3) == b"first"
    files.rewrite(3, b"third")
    assert (files.read(3), files.numbers()) == (b"third", [3])
    files.remove(3)
    files.remove(3)
    assert (files.read(3), files.numbers()) == (b"", [])


@pytest.mark.parametrize("how", ["gone", "another", "followed by half of one"])
def test_a_claim_file_that_is_gone_or_anothers_is_lost(place: str, how: str) -> None:
    files = claim_files(place)
    context = claimed(place, "s")
    claim = context.__enter__()
    if how == "gone":
        files.remove(1)
    elif how == "another":
        files.rewrite(1, encoded(somebody()))
    else:
        files.create(2, b"")
    claim.beat()
    assert not claim.is_held()
    with pytest.raises(RunBusyError, match="taken it over"):
        context.__exit__(None, None, None)


def test_a_loss_is_found_when_the_block_is_left(place: str) -> None:
    with pytest.raises(RunBusyError, match="taken it over"), claimed(place, "s"):
        written(place, 2, somebody())
    record = read_claim(place)
    assert record is not None
    assert record.token == "t"


def test_numbers_do_not_go_down_so_that_a_sleeper_takes_no_claim_that_has_come_and_gone(place: str) -> None:
    """Who has looked at claim 1, sleeps while others claim and give back, finds the next number made."""
    written(place, 1, somebody(released=True))
    files = claim_files(place)
    with claimed(place, "a"):
        pass
    with claimed(place, "b") as holder:
        files.create(2, encoded(somebody()))  # the sleeper goes on with what it saw
        assert holder.is_held()
        holder.beat()
        assert holder.is_held()
        with pytest.raises(RunBusyError), claimed(place, "c"):
            pass
    files.rewrite(1, encoded(somebody()))  # and another one, whose claim that was, gives a sign of life
    assert read_claim(place) is None


def test_a_sign_of_life_that_fails_for_a_moment_is_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    with claimed(str(tmp_path), "s") as claim:
        kind = type(claim_files(str(tmp_path)))
        with monkeypatch.context() as broken:
            calls = failing(broken, kind)
            until(lambda: len(calls) > 3)
            assert claim.is_held()
        record = read_claim(str(tmp_path))
        assert record is not None
        until(lambda: (read_claim(str(tmp_path)) or record).beat > record.beat)


def failing(patch: pytest.MonkeyPatch, kind: type) -> list[int]:
    """A full disk; returns what is tried on it."""
    calls: list[int] = []

    def rewrite(self: object, number: int, content: bytes) -> None:
        calls.append(number)
        raise OSError(28, "No space left on device")

    patch.setattr(kind, "rewrite", rewrite)
    return calls


def test_who_can_give_no_sign_of_life_for_long_has_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(claim_module, "STALE_S", 0.2)
    began = time.monotonic()

    def work() -> None:
        with unwinding(), claimed(str(tmp_path), "s"):
            failing(monkeypatch, type(claim_files(str(tmp_path))))
            until(lambda: False, seconds=5)

    with pytest.raises(RunBusyError):
        work()
    assert 0.1 < time.monotonic() - began < 2


def test_who_was_asleep_looks_before_it_says_that_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(str(tmp_path), "s")
    claim = context.__enter__()
    written(str(tmp_path), 2, somebody())
    assert claim.is_held()  # a moment ago it did
    now = time.monotonic()
    monkeypatch.setattr(claim_module, "time", SimpleNamespace(monotonic=lambda: now + 31))
    assert not claim.is_held()
    with pytest.raises(RunBusyError):
        context.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://bucket/a", "s3://bucket/a: cannot be opened: Install s3fs to access S3"),
        (
            "nope://bucket/a",
            "nope://bucket/a: cannot be opened: Protocol not known: nope; allowed: a path, s3",
        ),
        ("http://127.0.0.1:9/a", "http://127.0.0.1:9/a: cannot be reached ("),
    ],
)
def test_a_place_that_cannot_be_opened_or_reached_is_one_line(place: str, message: str) -> None:
    if place.startswith("http"):
        pytest.importorskip("aiohttp")
    elif place.startswith("s3"):
        try:
            fsspec.get_filesystem_class("s3")
        except ImportError:
            pass
        else:
            pytest.skip("s3fs is installed")
    with pytest.raises(UserError) as error, claimed(place, "s"):
        pass
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, RunBusyError)


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UserError, match="cannot be reached"), claimed(f"{tmp_path}/a", "s"):
        pass


RACER = """
import sys, time
from pathlib import Path
from mech_grok.errors import RunBusyError
from mech_grok.sweep.places.claim import claimed
root, name = Path(sys.argv[1]), sys.argv[2]
(root / name).touch()
while not (root / "go").exists():
    time.sleep(0.001)
for i in range(int(sys.argv[3])):
    place = f"{root}/{i:03d}"
    while time.time() < float(sys.argv[4]) + 0.004 * i:
        pass
    try:
        with claimed(place, name):
            with open(f"{place}/held", "x"):
                time.sleep(0.001)
            Path(f"{place}/held").unlink()
            print("got", i, flush=True)
    except RunBusyError:
        print("busy", i, flush=True)
"""


def test_of_processes_that_race_for_claims_one_gets_each(tmp_path: Path) -> None:
    """A file that only the holder makes, exclusively, would be there if another one held too."""
    rounds, start = 150, time.time() + 1.5
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), name, str(rounds), str(start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    until(lambda: (tmp_path / "one").exists() and (tmp_path / "two").exists())
    (tmp_path / "go").touch()
    outcomes = [racer.communicate(timeout=60) for racer in racers]
    assert [error for _, error in outcomes] == ["", ""]
    lines = [line for out, _ in outcomes for line in out.splitlines()]
    assert {f"got {i}" for i in range(rounds)} <= {*lines}
    assert len(lines) == 2 * rounds


HOLDER = """
import sys, time
from mech_grok.errors import RunBusyError
from mech_grok.signals import unwinding
from mech_grok.sweep.places import claim
claim.BEAT_S = 0.02
try:
    with unwinding(), claim.claimed(sys.argv[1], "theirs"):
        print("held", flush=True)
        time.sleep(60)
except RunBusyError as error:
    print(error, flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the run at `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_stopped_holder_is_found_lifeless_and_finds_its_claim_lost(
    tmp_path: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "STALE_S", 0.3)
    watch, place = Watch(), str(tmp_path)
    for _ in range(10):
        assert watch.lifeless(place) is None
        time.sleep(0.05)
    holder.send_signal(signal.SIGSTOP)
    until(lambda: watch.lifeless(place))
    with pytest.raises(RunBusyError), claimed(place, "mine"):
        pass
    with claimed(place, "mine", watch.lifeless(place)) as claim:
        holder.send_signal(signal.SIGCONT)
        out, _ = holder.communicate(timeout=20)
        assert out == f"{place}: another process has taken it over\n"
        claim.beat()
        assert claim.is_held()


def test_a_killed_holder_is_followed_at_once(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(RunBusyError, match=f"process {holder.pid} on"), claimed(str(tmp_path), "mine"):
        pass
    holder.kill()
    until(lambda: (record := read_claim(str(tmp_path))) and record.is_dead)
    with claimed(str(tmp_path), "mine"):
        pass


def test_a_claim_is_taken_back_if_the_process_is_interrupted_while_it_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(claim_files(str(tmp_path)))
    create = kind.create

    def interrupted(self: object, number: int, content: bytes) -> None:
        create(self, number, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind, "create", interrupted)
        with pytest.raises(KeyboardInterrupt), claimed(str(tmp_path), "s"):
            pass
    assert read_claim(str(tmp_path)) is None


def test_no_thread_is_left(place: str) -> None:
    with claimed(place, "s"):
        assert "claim" in {thread.name for thread in threading.enumerate()}
    assert "claim" not in {thread.name for thread in threading.enumerate()}


def test_a_claims_file_is_plain_json(tmp_path: Path) -> None:
    with claimed(str(tmp_path), "s") as claim:
        tree = json.loads((tmp_path / ".claim" / "000001.json").read_text())
        assert tree["token"] == claim.token
