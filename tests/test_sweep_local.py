"""Jobs in processes of this machine: outcomes, deaths, signals, and nothing left behind.

The first test waits for the forkserver to load torch and TransformerLens (about nine seconds); the others
share it. Where the sweep itself has to die or to be interrupted it is a process of its own, whose forkserver
loads next to nothing.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from local_jobs import is_held, job, outcomes, wait_for_begin, wait_until

from mech_grok.sweep.workers.engine import Engine
from mech_grok.sweep.workers.job import Outcome
from mech_grok.sweep.workers.local_engine import LocalEngine

pytestmark = pytest.mark.workers

SWEEP = """
import signal, sys
from pathlib import Path
import mech_grok.sweep.workers.nursery as nursery
nursery.PRELOAD = "preloaded"
from mech_grok.signals import listening
from mech_grok.sweep.workers.local_engine import LocalEngine
from local_jobs import job, outcomes, wait_for_begin
print("main", flush=True)
place = Path(sys.argv[1])
"""
"""The head of a program that runs a sweep and does not guard its main part."""


def engine(work: str, workers: int = 2, gpus: Sequence[str] = (), grace: float = 10.0) -> LocalEngine:
    return LocalEngine(workers, 1, gpus, work=f"worker_functions:{work}", grace=grace)


def found_by(*gpus: str) -> list[dict[str, object]]:
    """What two workers at once find when they begin."""
    with engine("report", 2, gpus) as local:
        local.start(job("a"))
        local.start(job("b"))
        return [json.loads(outcome.message) for outcome in outcomes(local, 2).values()]


def test_a_worker_has_everything_loaded_and_its_own_process() -> None:
    first, second = found_by()
    assert first["loaded"] == ["torch", "transformer_lens", "mech_grok.sweep.workers.work"]
    assert first["pid"] != second["pid"]
    assert first["forkserver"] == second["forkserver"] != os.getpid() == first["parent"]
    assert first["omp"][1] == os.environ.get("OMP_WAIT_POLICY", "passive")
    assert first["stdin"] == ""


def test_a_start_after_the_first_takes_a_fraction_of_a_second() -> None:
    with engine("by_name") as local:
        local.start(job("first"))
        outcomes(local, 1)
        times = []
        for _ in range(3):
            began = time.monotonic()
            local.start(job("next"))
            assert time.monotonic() - began < 0.5
            outcomes(local, 1)
            times.append(time.monotonic() - began)
    assert min(times) < 0.5


def test_each_worker_sees_its_own_gpu() -> None:
    assert {found["cuda"] for found in found_by("2", "MIG-7")} == {"2", "MIG-7"}
    assert {found["cuda"] for found in found_by()} == {os.environ.get("CUDA_VISIBLE_DEVICES")}


def test_gpus_are_as_many_as_workers() -> None:
    with pytest.raises(ValueError, match="one for each of 2 workers, not 1"):
        engine("report", 2, ("0",))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_has_the_threads_that_its_job_says(threads: int) -> None:
    with engine("use_threads") as local:
        local.start(job("a", threads))
        assert outcomes(local, 1)["a"].message == f"{threads} {threads - 1}"


def test_a_death_is_told_and_leaves_the_others_alone() -> None:
    with engine("by_name", workers=4) as local:
        for name in ("raises", "exits", "killed", "fine"):
            local.start(job(name))
        found = outcomes(local, 4)
    assert found["raises"] == Outcome("failed", "ValueError: two lines")
    assert found["exits"] == Outcome("died", "the worker ended with exit code 3")
    assert found["killed"].kind == "died"
    assert "SIGKILL" in found["killed"].message
    assert found["fine"] == Outcome("done", "fine")


def test_work_that_cannot_be_imported_fails_with_the_reason() -> None:
    with LocalEngine(1, 1, work="no_such_module:work") as local:
        local.start(job("a"))
        assert outcomes(local, 1)["a"] == Outcome(
            "failed", "ModuleNotFoundError: No module named 'no_such_module'"
        )


def test_free_counts_the_workers_that_take_a_job(tmp_path: Path) -> None:
    with engine("until_stopped") as local:
        assert isinstance(local, Engine)
        assert local.free == 2
        local.start(job(tmp_path))
        assert local.free == 1
        (tmp_path / "other").mkdir()
        local.start(job(tmp_path / "other"))
        assert local.free == 0
        with pytest.raises(RuntimeError, match="no worker is free"):
            local.start(job("third"))
        local.interrupt()
        outcomes(local, 2)
        assert local.free == 2


def test_an_interrupt_lets_workers_write_their_checkpoint(tmp_path: Path) -> None:
    with engine("until_stopped") as local:
        local.start(job(tmp_path))
        wait_for_begin(local, tmp_path)
        local.interrupt()
        local.interrupt()
        assert list(outcomes(local, 1).values()) == [Outcome("stopped", "SIGTERM")]
    assert (tmp_path / "checkpoint").exists()


def test_a_worker_that_is_being_set_up_is_stopped_too(tmp_path: Path) -> None:
    with engine("by_name") as local:
        local.start(job("one that waits for the forkserver"))
        local.interrupt()
        assert [outcome.kind for outcome in outcomes(local, 1).values()] == ["stopped"]
        local.start(job("fine"))
        outcomes(local, 1)
        for _ in range(5):
            local.start(job(tmp_path))
            local.interrupt()
            assert [outcome.kind for outcome in outcomes(local, 1).values()] == ["stopped"]


def test_leaving_stops_what_runs_and_kills_what_does_not_stop(tmp_path: Path) -> None:
    places = {"until_stopped": tmp_path / "a", "stubborn": tmp_path / "b"}
    for work, place in places.items():
        place.mkdir()
        began = time.monotonic()
        with engine(work, grace=0.3) as local:
            local.start(job(place))
            wait_for_begin(local, place)
        assert time.monotonic() - began < 10
        assert not is_held(place)
    assert (tmp_path / "a" / "checkpoint").exists()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    found_by()  # the forkserver and its pipe stay
    before = os.listdir("/dev/fd")
    with engine("by_name", workers=3) as local:
        for name in ("fine", "killed", "raises"):
            local.start(job(name))
        outcomes(local, 3)
    with engine("stubborn", grace=0.0) as local:
        local.start(job(tmp_path))
        wait_for_begin(local, tmp_path)
    assert len(os.listdir("/dev/fd")) == len(before)
    assert multiprocessing.active_children() == []


def sweep_program(folder: Path, code: str, preloaded: str = "") -> subprocess.Popen[str]:
    """A process, leader of its own group, that runs a sweep; its forkserver loads `preloaded` only."""
    (folder / "preloaded.py").write_text(preloaded)
    (folder / "program.py").write_text(SWEEP + code)
    path = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "program.py", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def output_of(program: subprocess.Popen[str]) -> list[str]:
    """The lines that it printed, once it has ended well, without a word on standard error."""
    out, errors = program.communicate(timeout=180)
    assert (program.returncode, errors) == (0, "")
    return out.splitlines()


@pytest.mark.parametrize("work", ["until_stopped", "stubborn"])
def test_workers_end_when_their_sweep_is_killed(tmp_path: Path, work: str) -> None:
    code = f"""
with LocalEngine(1, 1, work="worker_functions:{work}", grace=0.3) as local:
    local.start(job(place))
    outcomes(local, 1)
"""
    with sweep_program(tmp_path, code) as program:
        wait_until((tmp_path / "began").exists)
        assert is_held(tmp_path)
        program.kill()
        wait_until(lambda: not is_held(tmp_path), seconds=20)
    assert (tmp_path / "checkpoint").exists() == (work == "until_stopped")


def test_ctrl_c_in_a_terminal_is_passed_on_by_the_sweep_alone(tmp_path: Path) -> None:
    code = """
with listening() as requests, LocalEngine(1, 1, work="worker_functions:until_stopped") as local:
    local.start(job(place))
    while requests.stop_signal is None:
        assert not list(local.finished())
    local.interrupt()
    print(*outcomes(local, 1).values())
"""
    with sweep_program(tmp_path, code) as program:
        wait_until((tmp_path / "began").exists)
        os.killpg(program.pid, signal.SIGINT)
        assert output_of(program) == ["main", "Outcome(kind='stopped', message='SIGTERM')"]


def test_ctrl_c_while_the_forkserver_loads_does_not_break_it(tmp_path: Path) -> None:
    code = """
with listening() as requests, LocalEngine(1, 1, work="worker_functions:by_name") as local:
    local.start(job("fine"))
    print(local.free, *outcomes(local, 1).values())
    print(requests.stop_signal)
"""
    slow = f"from pathlib import Path; import time; Path({str(tmp_path)!r}, 'began').touch(); time.sleep(1)"
    with sweep_program(tmp_path, code, slow) as program:
        wait_until((tmp_path / "began").exists)
        os.killpg(program.pid, signal.SIGINT)
        os.killpg(program.pid, signal.SIGTERM)
        assert output_of(program) == ["main", "0 Outcome(kind='done', message='fine')", "2"]


def test_a_lost_forkserver_costs_no_running_job_and_is_replaced(tmp_path: Path) -> None:
    code = """
import json, os
with LocalEngine(2, 1, work="worker_functions:report") as local:
    local.start(job("a"))
    found = json.loads(outcomes(local, 1)["a"].message)
    local._work = "worker_functions:until_stopped"
    local.start(job(place))
    wait_for_begin(local, place)
    os.kill(found["forkserver"], signal.SIGKILL)
    local._work = "worker_functions:by_name"
    local.start(job("fine"))
    found = outcomes(local, 1)["fine"]
    while found.kind == "died":  # the old one was about to end; no sweep leaves it at that
        local.start(job("fine"))
        found = outcomes(local, 1)["fine"]
    print(found)
    local.interrupt()
    print(*outcomes(local, 1).values())
"""
    with sweep_program(tmp_path, code) as program:
        expected = ["done', message='fine", "stopped', message='SIGTERM"]
        assert output_of(program) == ["main", *(f"Outcome(kind='{text}')" for text in expected)]


def test_it_is_said_when_nothing_could_be_loaded_ahead(tmp_path: Path) -> None:
    code = """
with LocalEngine(1, 1, work="worker_functions:by_name") as local:
    for _ in range(2):
        local.start(job("fine"))
        print(outcomes(local, 1)["fine"].kind)
"""
    with sweep_program(tmp_path, code, "raise ImportError") as program:
        main, note, *kinds = output_of(program)
    assert main == "main"
    assert "could not be loaded ahead" in note
    assert kinds == ["done", "done"]
