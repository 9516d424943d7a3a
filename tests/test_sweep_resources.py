"""What a process may use, in containers and Slurm jobs that are made up here; and how that is divided."""

import os
from pathlib import Path

import pytest
import torch

from mech_grok.errors import UserError
from mech_grok.sweep.workers import resources
from mech_grok.sweep.workers.resources import Layout, cpu_count, gpu_names, memory_available, workers

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen cores, no limits; files below the folder are /proc and the cgroups."""
    monkeypatch.setattr(resources, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def memory(machine: Path, gib: float) -> None:
    write(machine / "proc/meminfo", f"MemTotal: 99999999999 kB\nMemAvailable: {int(gib * 2**20)} kB\n")


def gpus(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


def test_cores_are_those_of_the_affinity(machine: Path) -> None:
    assert cpu_count() == 16


def test_without_an_affinity_all_cores_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpu_count() == 5


def test_slurm_gives_fewer(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert cpu_count() == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert cpu_count() == 16


@pytest.mark.parametrize(
    ("outer", "inner", "cores"),
    [
        ("max 100000", "250000 100000", 2),
        ("300000 100000", "max 100000", 3),
        ("max 100000", "50000 100000", 1),
    ],
)
def test_a_quota_of_the_group_or_of_one_around_it(machine: Path, outer: str, inner: str, cores: int) -> None:
    write(machine / "proc/self/cgroup", "0::/pod/box\n")
    write(machine / "cgroup/pod/cpu.max", outer + "\n")
    write(machine / "cgroup/pod/box/cpu.max", inner + "\n")
    assert cpu_count() == cores


def test_a_quota_of_the_first_version_inside_a_container(machine: Path) -> None:
    """There the path in /proc is the host's, and the mount is the group itself."""
    write(machine / "proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    write(machine / "cgroup/cpu/cpu.cfs_quota_us", "600000\n")
    write(machine / "cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write(machine / "cgroup/memory/memory.limit_in_bytes", f"{4 * GIB}\n")
    write(machine / "cgroup/memory/memory.usage_in_bytes", f"{3 * GIB}\n")
    write(machine / "cgroup/memory/memory.stat", f"cache 5\ntotal_inactive_file {GIB}\n")
    assert cpu_count() == 6
    assert memory_available() == 2 * GIB
    write(machine / "cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    assert cpu_count() == 16


def test_memory_is_the_least_of_machine_and_container(machine: Path) -> None:
    assert memory_available() is None
    memory(machine, 8)
    assert memory_available() == 8 * GIB
    write(machine / "proc/self/cgroup", "0::/\n")
    write(machine / "cgroup/memory.max", f"{6 * GIB}\n")
    write(machine / "cgroup/memory.current", f"{5 * GIB}\n")
    write(machine / "cgroup/memory.stat", f"anon 1\ninactive_file {2 * GIB}\n")
    assert memory_available() == 3 * GIB
    write(machine / "cgroup/memory.max", "max\n")
    assert memory_available() == 8 * GIB


def test_a_worker_for_every_core_with_one_thread(machine: Path) -> None:
    assert workers(100, None, 0.0, "cpu") == Layout(16, 1)


@pytest.mark.parametrize(("jobs", "threads"), [(16, 1), (15, 1), (8, 2), (5, 3), (1, 16)])
def test_fewer_jobs_share_the_cores(machine: Path, jobs: int, threads: int) -> None:
    assert workers(jobs, None, 0.0, "cpu") == Layout(jobs, threads)


def test_threads_that_are_asked_for(machine: Path) -> None:
    assert workers(100, 3, 0.0, "cpu") == Layout(5, 3)
    assert workers(2, 3, 0.0, "cpu") == Layout(2, 3)


def test_memory_makes_workers_fewer_but_never_none(machine: Path) -> None:
    memory(machine, 9)
    assert workers(100, None, 0.0, "cpu").workers == 4, "2 GiB each"
    assert workers(100, 3, 0.0, "cpu").workers == 2, "2 GiB and 0.6 for each thread after the first"
    memory(machine, 0.5)
    assert workers(100, None, 0.0, "cpu").workers == 1


@pytest.mark.parametrize("cpus", [0, -1, 17])
def test_cores_that_are_not_there_are_refused(machine: Path, cpus: int) -> None:
    with pytest.raises(UserError, match=rf"--cpus {cpus}: allowed here: 1 to 16"):
        workers(4, cpus, 0.0, "cpu")


def test_four_workers_share_each_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert workers(100, None, 0.25, "cuda") == Layout(8, 2, ("0", "1") * 4)
    assert workers(3, 2, 0.25, "cuda") == Layout(3, 2, ("0", "1", "0"))


@pytest.mark.parametrize(
    ("share", "jobs_per_gpu"), [(0.0, 1), (1.0, 1), (0.5, 2), (0.3, 3), (1 / 3, 3), (0.1, 10)]
)
def test_how_many_workers_a_gpu_takes(
    machine: Path, monkeypatch: pytest.MonkeyPatch, share: float, jobs_per_gpu: int
) -> None:
    gpus(monkeypatch, 1)
    assert workers(100, 1, share, "cuda") == Layout(jobs_per_gpu, 1, ("0",) * jobs_per_gpu)


def test_several_gpus_for_one_worker(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 5)
    assert workers(100, 1, 2.0, "cuda").gpus == ("0,1", "2,3")


@pytest.mark.parametrize("share", [-0.5, 1.5, float("nan"), float("inf")])
def test_gpus_that_cannot_be_divided_like_that(
    machine: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    gpus(monkeypatch, 8)
    with pytest.raises(
        UserError, match=r"a fraction of one GPU from 0 to 1, such as 0.25, or a whole number"
    ):
        workers(4, None, share, "cuda")


def test_gpus_that_are_not_there(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    with pytest.raises(UserError, match=r"--gpus 3: there are 2 here; allowed: up to 2"):
        workers(4, None, 3.0, "cuda")
    gpus(monkeypatch, 0)
    with pytest.raises(UserError, match=r"--gpus 1: there is no GPU here; allowed: training.device=cpu"):
        workers(4, None, 0.0, "cuda")


def test_gpus_for_cells_that_train_on_the_cpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    with pytest.raises(UserError, match=r"these cells train on the CPU; set training.device=cuda"):
        workers(4, None, 0.5, "cpu")


@pytest.mark.parametrize(
    ("asked", "count", "names"),
    [
        (None, 3, ("0", "1", "2")),
        ("2,0", 2, ("2", "0")),
        ("GPU-8932f937, GPU-aa", 2, ("GPU-8932f937", "GPU-aa")),
        ("MIG-GPU-1/2/0", 1, ("MIG-GPU-1/2/0",)),
        ("0,1,7", 2, ("0", "1")),  # CUDA stops at the first that is not there
        ("", 0, ()),
        ("-1", 0, ()),
        ("0,1", 0, ()),
    ],
)
def test_gpus_are_named_as_cuda_visible_devices_does(
    machine: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, count: int, names: tuple[str, ...]
) -> None:
    gpus(monkeypatch, count)
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert gpu_names() == names


def test_this_machine() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
    assert len(gpu_names()) == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("cpus", "gpus", "device", "problem"),
    [
        (0, 0.0, "cpu", "--cpus 0: allowed: 1 and more"),
        (1, 1.5, "cuda", "--gpus 1.5: .* a whole number"),
        (1, -1.0, "cuda", "--gpus -1:"),
        (1, 0.5, "cpu", "--gpus 0.5: these cells train on the CPU"),
    ],
)
def test_shares_that_no_machine_has(cpus: int, gpus: float, device: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        resources.check_shares(cpus, gpus, device)
