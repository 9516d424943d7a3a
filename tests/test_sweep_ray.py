"""Cells as Ray tasks: outcomes, deaths, stops, shares of a machine, and nodes that go."""

import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xarray as xr
from ray_clusters import act, settle, until

from mech_grok import load_run
from mech_grok.config import CellConfig
from mech_grok.config_file import read_study
from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.sweep.places.claim import read_claim
from mech_grok.sweep.workers.engine import Engine
from mech_grok.sweep.workers.job import Job, Outcome
from mech_grok.sweep.workers.ray_cluster import RayCluster, import_ray
from mech_grok.sweep.workers.ray_engine import RayEngine
from mech_grok.sweep.workers.resources import cpu_count
from mech_grok.training.checkpoints import optimiser_path, weights_path

ACT = f"{act.__module__}:{act.__name__}"
SMALL: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray, with its files in a folder that goes; its workers find what is in this one."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    folder = tempfile.mkdtemp(prefix="ray-")  # a socket's path is short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray writes a token into the home folder
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # else whatever runs beside the tests comes first
        patch.setenv("TMPDIR", folder)  # of the workers: their copies of runs behind a URL
        yield import_ray()
    shutil.rmtree(folder)


@pytest.fixture
def unconnected(ray: Any) -> Any:
    ray.shutdown()
    return ray


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[Any]:
    """One node with two CPUs, and a GPU that nobody uses."""
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, **SMALL})
    yield running
    ray.shutdown()
    running.shutdown()


@pytest.fixture
def connected(ray: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection for all tests that can share it, since Ray starts new workers for each."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    connect(ray)


def connect(ray: Any) -> None:
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")


def job(name: str, folder: Path, **changes: Any) -> Job:
    training = {"steps": 5, "seeds": [1]}
    config = CellConfig.model_validate({"task": {"p": 11}, "model": {"d_model": 16}, "training": training})
    whole = {"stages": ("train",), "probes": (), "threads": 1, "sweep": "s", "command": "test", **changes}
    return Job(place=str(folder / name), config=config, **whole)


@pytest.mark.workers
def test_a_local_ray_runs_jobs_says_nothing_and_leaves_nothing(
    unconnected: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with RayEngine(cpus=1, gpus=0.0, work=ACT) as engine:
        assert isinstance(engine, Engine)
        assert engine.free == cpu_count()
        assert signal.getsignal(signal.SIGTERM) is handler
        names = ("answer-1", "raise", "die", "answer-2", "answer-3")
        outcomes = settle(engine, [job(name, tmp_path) for name in names])
    assert not unconnected.is_initialized()
    assert [outcome.kind for outcome in outcomes["die"]] == ["died"] * 3
    assert {outcome.message for outcome in outcomes["die"]} == {"its worker died"}
    (failure,) = outcomes["raise"]
    assert (failure.kind, failure.message) == ("failed", "ValueError: no such thing: nowhere")
    assert [outcomes[f"answer-{n}"][0].kind for n in (1, 2, 3)] == ["done"] * 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("cpus", "gpus", "found"),
    [
        (1, 0.0, "2 at once, 1 threads, GPU None"),
        (2, 0.0, "1 at once, 2 threads, GPU None"),
        (1, 0.5, "2 at once, 1 threads, GPU 0"),
        (1, 0.6, "1 at once, 1 threads, GPU 0"),
    ],
)
def test_as_many_run_at_once_as_their_shares_allow(
    tmp_path: Path, cpus: int, gpus: float, found: str
) -> None:
    at_once = int(found[0])
    with RayEngine(cpus, gpus, ACT) as engine:
        assert engine.free == at_once + 4  # an autoscaler adds nodes for those that wait
        outcomes = settle(engine, [job(f"meet-{at_once}-{n}", tmp_path) for n in range(2)])
    assert max(outcome.message for (outcome,) in outcomes.values()) == found


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_interrupt_stops_what_runs_forgets_what_waits_and_leaves_workers_of_use(tmp_path: Path) -> None:
    running, queued = [job(f"wait-{n}", tmp_path) for n in range(2)], job("wait-2", tmp_path)
    with RayEngine(1, 0.0, ACT) as engine:
        for each in (*running, queued):
            engine.start(each)
        until(lambda: all(Path(each.place).exists() for each in running))
        assert list(engine.finished()) == []
        engine.interrupt()
        outcomes = dict[str, Any]()
        until(lambda: outcomes.update({j.name: o for j, o in engine.finished()}) or len(outcomes) == 3)
        assert {found.kind for found in outcomes.values()} == {"stopped"}
        assert all(outcomes[each.name].message.endswith("wrote a checkpoint") for each in running)
        assert not Path(queued.place).exists()
        workers = {outcomes[each.name].message.split()[0] for each in running}
        ((after,),) = settle(engine, [job("answer", tmp_path)]).values()
        assert after.message.split()[0] in workers


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_leaving_ends_workers_that_still_run(tmp_path: Path) -> None:
    place = tmp_path / "wait"
    with RayEngine(1, 0.0, ACT) as engine:
        engine.start(job("wait", tmp_path))
        until(lambda: place.exists() and place.read_text())
    until(lambda: not Path(f"/proc/{place.read_text()}").exists())


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_another_version_on_a_node_is_named_and_so_is_what_it_cannot_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RayEngine(1, 0.0, "mech_grok.no_such:work") as engine:
        ((here,),) = settle(engine, [job("answer", tmp_path)]).values()
        version = metadata.version("mech-grok")
        monkeypatch.setattr(metadata, "version", lambda name: "99.0")
        ((other,),) = settle(engine, [job("answer", tmp_path)]).values()
    assert (here.kind, other.kind) == ("failed", "failed")
    assert here.message == "ModuleNotFoundError: No module named 'mech_grok.no_such'"
    assert f"mech-grok {version} is installed there, but 99.0 where the sweep runs" in other.message


@pytest.mark.workers
def test_it_connects_to_the_cluster_at_ray_address_and_keeps_a_connection_that_is_there(
    unconnected: Any, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with RayEngine(1, 0.0, ACT):
        assert unconnected.get_runtime_context().gcs_address == cluster.address
    assert not unconnected.is_initialized()
    unconnected.init(log_to_driver=False, logging_level="ERROR")
    for _ in range(2):
        with RayEngine(1, 0.0, ACT) as engine:
            ((found,),) = settle(engine, [job("answer", tmp_path)]).values()
            assert found.kind == "done"
        assert unconnected.is_initialized()


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_a_cell_larger_than_every_node_waits_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RayEngine(3, 0.0, ACT) as engine:
        assert engine.free == engine.free == 4  # an autoscaler adds nodes for what waits
        engine.start(job("answer", tmp_path))
        assert list(engine.finished()) == []
    line = (
        "Ray: no node has the 3 CPUs and 0 GPUs of a cell; the largest has 2 CPUs and 1 GPUs; waiting for one"
    )
    assert capsys.readouterr().out == f"{line} that has\n"


@pytest.fixture(scope="module")
def undisturbed(ray: Any, cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four cells, trained while nothing happens to them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        connect(ray)
        with RayEngine(1, 0.0) as engine:
            outcomes = settle(engine, cells(folder))
    assert outcomes == {name: [Outcome("done")] for name in outcomes}
    return folder


STEPS = 1000
"""Enough that the second half of a cell outlasts the time a signal takes to arrive on a busy machine."""


def cells(folder: Path, protocol: str = "") -> list[Job]:
    """The jobs of a study's four cells.

    Args:
        protocol: of the last one's place.
    """
    study = read_study(
        Path(__file__).parents[1] / "configs" / "tiny.yaml",
        [f"training.steps={STEPS}", "training.checkpoint_every=30", "grid.optimiser.lr=[1e-3, 3e-3]"],
    )
    jobs = [
        Job(str(folder / name), config, ("train",), (), 1, f"sweep in {folder}", "test")
        for name, config in study.all_cells().items()
    ]
    *others, last = jobs
    return [*others, replace(last, place=f"{protocol}{last.place}")]


def assert_same_bits(folder: Path, undisturbed: Path) -> None:
    """Metrics, norms, every checkpoint and the last optimiser state are those of the undisturbed runs."""
    for each in cells(undisturbed):
        ours, theirs = load_run(folder / each.name), load_run(each.place)
        xr.testing.assert_identical(ours.metrics.load(), theirs.metrics.load())
        xr.testing.assert_identical(ours.norms.load(), theirs.norms.load())
        names = [weights_path(Path("checkpoints"), step) for step in theirs.steps]
        for name in (*names, optimiser_path(Path("checkpoints"), STEPS)):
            assert (ours.path / name).read_bytes() == (theirs.path / name).read_bytes(), name


def is_half_way(place: str) -> bool:
    return 30 <= Run(place).steps_done < STEPS // 2 if (Path(place) / "config.yaml").exists() else False


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_a_worker_has_the_threads_of_each_of_its_jobs(tmp_path: Path) -> None:
    threads = {"two": 2, "one": 1, "again": 2}
    with RayEngine(2, 0.0) as engine:  # both CPUs of the node: one after the other
        outcomes = settle(engine, [job(name, tmp_path, threads=n) for name, n in threads.items()])
    assert outcomes == {name: [Outcome("done")] for name in threads}
    runs = {name: load_run(tmp_path / name).environment for name in threads}
    assert {name: run["threads"] for name, run in runs.items()} == threads


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_a_worker_killed_half_way_is_replaced_and_the_others_go_on(undisturbed: Path, tmp_path: Path) -> None:
    jobs = cells(tmp_path)
    victim = jobs[2]
    killed: list[int] = []

    def kill() -> None:
        claim = read_claim(victim.place)
        if claim and is_half_way(victim.place) and not killed:
            killed.append(claim.pid)
            os.kill(claim.pid, signal.SIGKILL)

    with RayEngine(1, 0.0) as engine:
        outcomes = settle(engine, jobs, meanwhile=kill)
    died = [Outcome("died", "its worker died"), Outcome("done")]
    assert outcomes == {each.name: died if each is victim else [Outcome("done")] for each in jobs}
    assert_same_bits(tmp_path, undisturbed)


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_interrupted_cells_leave_a_checkpoint_and_go_on_from_it(undisturbed: Path, tmp_path: Path) -> None:
    jobs, outcomes = cells(tmp_path), dict[str, Outcome]()
    with RayEngine(1, 0.0) as engine:
        for each in jobs:
            engine.start(each)
        until(lambda: is_half_way(jobs[0].place))
        engine.interrupt()
        until(lambda: outcomes.update({j.name: o for j, o in engine.finished()}) or len(outcomes) == 4)
    kinds = [outcomes[each.name].kind for each in jobs]
    assert kinds[0] == kinds[3] == "stopped"
    assert {*kinds} <= {"stopped", "done"}  # a worker that came up early may have ended its cell
    trained = [each for each in jobs if "stopped by SIGINT" in outcomes[each.name].message]
    assert trained
    steps = [Run(each.place).steps_done for each in trained]
    assert 30 <= max(steps) < STEPS
    assert not Path(jobs[3].place).exists()
    with RayEngine(1, 0.0) as engine:
        assert {o.kind for (o,) in settle(engine, jobs).values()} == {"done"}
    assert_same_bits(tmp_path, undisturbed)


@pytest.mark.workers
@pytest.mark.usefixtures("connected")
def test_a_node_removed_half_way_loses_no_cell(cluster: Any, undisturbed: Path, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, **SMALL)
    raylet = node.all_processes["raylet"][0].process.pid
    jobs = cells(tmp_path, protocol="file://")
    removed: list[str] = []

    def remove() -> None:
        if removed:
            return
        here = [job.name for job in jobs[:-1] if is_half_way(job.place) and parent(job) == raylet]
        if here:
            removed.extend(here)
            cluster.remove_node(node, allow_graceful=False)

    with RayEngine(2, 0.0) as engine:  # one on each node
        outcomes = settle(engine, jobs, meanwhile=remove)
    assert removed
    for each in jobs:
        assert outcomes[each.name][-1] == Outcome("done")
        assert {outcome.kind for outcome in outcomes[each.name][:-1]} <= {"died"}
    assert [outcome.kind for outcome in outcomes[removed[0]]] == ["died", "done"]
    assert_same_bits(tmp_path, undisturbed)


def parent(job: Job) -> int:
    """The process that started the one which is at a job: its node's raylet."""
    claim = read_claim(job.place)
    status = Path(f"/proc/{claim.pid}/stat").read_text() if claim else ") ? 0"
    return int(status.rpartition(")")[2].split()[1])


@pytest.mark.workers
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("127.0.0.1:70000", "no Ray cluster answers there"),
        ("ray://127.0.0.1:10001", "allowed: HOST:PORT of its head, auto"),
        ("nonsense", "allowed: HOST:PORT of its head, auto"),
    ],
)
def test_a_cluster_that_is_not_there(
    unconnected: Any, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"RAY_ADDRESS={address}: .*{reason}"), RayEngine(1, 0.0):
        raise AssertionError("entered")
    assert not unconnected.is_initialized()


class FakeRay(ModuleType):
    """What stands for Ray where only its answers matter."""

    def __init__(self, *nodes: dict[str, float], refuses: Exception | None = None):
        super().__init__("ray")
        self._nodes, self._refuses = nodes, refuses
        self.log: list[str] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: object) -> None:
        self.log.append("init")
        if self._refuses:
            raise self._refuses

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [{"Alive": False}]

    def shutdown(self) -> None:
        self.log.append("shutdown")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("cpus", "gpus", "places"),
    [(1, 0.0, 12), (3, 0.0, 3), (1, 0.25, 9), (1, 0.6, 3), (2, 1.0, 3), (1, 2.0, 1)],
)
def test_places_for_cells(alone: pytest.MonkeyPatch, cpus: int, gpus: float, places: int) -> None:
    big, small, none = {"CPU": 5.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}, {"memory": 1e9}
    assert RayCluster(FakeRay(big, small, none, {"CPU": 3.0})).places(cpus, gpus) == places


def test_a_cell_larger_than_this_machine_is_refused(alone: pytest.MonkeyPatch) -> None:
    fake = FakeRay({"CPU": 8.0, "GPU": 1.0})
    alone.setitem(sys.modules, "ray", fake)
    with (
        pytest.raises(
            UserError, match=r"no node has the 4 CPUs and 2 GPUs .* the largest has 8 CPUs and 1 GPU"
        ),
        RayEngine(4, 2.0),
    ):
        raise AssertionError("entered")
    assert fake.log == ["init", "shutdown"]


def test_what_ray_refuses_is_said_in_one_line(alone: pytest.MonkeyPatch) -> None:
    mismatch = RuntimeError("Version mismatch:\n    Ray: 2.1\n    Python: 3.9")
    with pytest.raises(UserError, match=r"^Ray does not start here: Version mismatch: Ray: 2.1 Python: 3.9$"):
        RayCluster(FakeRay(refuses=mismatch))
    locked = ConnectionError("Failed to connect")
    locked.__cause__ = RuntimeError("Unauthenticated: InvalidAuthToken: token is missing")
    fake = FakeRay(refuses=locked)
    with pytest.raises(UserError, match=r"wants its token; set RAY_AUTH_MODE=token"):
        RayCluster(fake)
    assert fake.log == ["init", "shutdown"]


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'mech-grok\[ray\]'"):
        RayEngine(1, 0.0)
