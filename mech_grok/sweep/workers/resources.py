"""What this process may use of the machine: cores, memory, GPUs; and how a sweep divides it among workers."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mech_grok.errors import UserError

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_GIB = 2**30

_WORKER_BYTES, _THREAD_BYTES = 2 * _GIB, 6 * _GIB // 10
"""Memory of a worker with one thread, of which training five seeds at p = 113 takes 1 GiB at its peak; and of
each further thread, which probes another checkpoint meanwhile."""

_MOST_PROBED_AT_ONCE = 8


@dataclass(frozen=True)
class Layout:
    """How the machine is divided.

    Attributes:
        workers: how many cells at once; None: as many as a cluster has room for.
        threads: CPU threads of each.
        gpus: for each worker what CUDA_VISIBLE_DEVICES is to be; empty where no GPU is used.
    """

    workers: int | None
    threads: int
    gpus: tuple[str, ...] = ()


def workers(n_jobs: int, cpus: int | None, gpus: float, device: str) -> Layout:
    """How many workers this machine carries, with how many threads and which GPU each.

    One thread each has the best throughput, so on a CPU there are as many workers as cores; fewer jobs share
    the cores among them. Memory can make them fewer.

    Args:
        n_jobs: how many there are to do.
        cpus: threads of each worker; None: see above.
        gpus: of each worker: a fraction (0.25: four workers share one) or a whole number; 0: one, if the
            device is cuda.
        device: `cpu` or `cuda`, where they train.

    Raises:
        UserError: there are not that many cores or GPUs, or `gpus` cannot be divided like that.
    """
    cores = cpu_count()
    if cpus is not None and not 1 <= cpus <= cores:
        raise UserError(f"--cpus {cpus}: allowed here: 1 to {cores}, the cores that this process may use")
    slots = _gpu_slots(gpus, device)
    most = min(max(n_jobs, 1), cores // (cpus or 1), len(slots) if device == "cuda" else n_jobs)
    threads = cpus or cores // max(most, 1)
    further = min(threads, _MOST_PROBED_AT_ONCE) - 1
    memory = memory_available()
    if memory is not None:
        most = min(most, memory // (_WORKER_BYTES + further * _THREAD_BYTES))
    most = max(most, 1)
    return Layout(most, threads, slots[:most])


def check_shares(cpus: int | None, gpus: float, device: str) -> None:
    """Refuse what no machine could give a cell.

    Raises:
        UserError: fewer than one CPU, a part of several GPUs, or a GPU for cells that train without.
    """
    if cpus is not None and cpus < 1:
        raise UserError(f"--cpus {cpus}: allowed: 1 and more")
    if not (0 <= gpus <= 1 or (1 < gpus < float("inf") and gpus == int(gpus))):
        raise UserError(
            f"--gpus {gpus:g}: allowed: a fraction of one GPU from 0 to 1, such as 0.25, or a whole number"
        )
    if gpus and device != "cuda":
        raise UserError(f"--gpus {gpus:g}: these cells train on the CPU; set training.device=cuda")


def _gpu_slots(gpus: float, device: str) -> tuple[str, ...]:
    """The GPUs that each worker sees, for as many workers as there is room for, spread over the GPUs."""
    check_shares(None, gpus, device)
    if device != "cuda":
        return ()
    names = gpu_names()
    if len(names) < max(gpus, 1):
        there = f"there are {len(names)} here" if names else "there is no GPU here"
        raise UserError(f"--gpus {gpus or 1:g}: {there}; allowed: {_allowed(len(names))}")
    if gpus > 1:
        whole = int(gpus)
        return tuple(",".join(names[i : i + whole]) for i in range(0, len(names) - whole + 1, whole))
    share_one = int(1 / gpus + 1e-9) if gpus else 1
    return names * share_one


def _allowed(n_gpus: int) -> str:
    return f"up to {n_gpus}" if n_gpus else "training.device=cpu, without --gpus"


def cpu_count() -> int:
    """Cores that this process may use: the fewest that affinity, container quota or Slurm task allow."""
    affinity = getattr(os, "sched_getaffinity", None)
    found = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal():
        found.append(int(slurm))
    return max(min([*found, *_cpu_quotas()]), 1)


def _cpu_quotas() -> Iterator[int]:
    """Whole cores of every quota that cgroups lay on this process."""
    for folder in _cgroup_folders(""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():
            yield int(quota) // int(period)
    for folder in _cgroup_folders("cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # -1 is none
            yield int(quota) // int(period)


def memory_available() -> int | None:
    """Bytes that this process may still use: the machine's and its container's; None if nobody says."""
    found = list(_cgroup_memory())
    for line in _read(_PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return max(min(found), 0) if found else None


def _cgroup_memory() -> Iterator[int]:
    """What is left of every memory limit that cgroups lay on this process; cached files can be dropped."""
    for controller, limit, used, cached in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _cgroup_folders(controller):
            most, now = _read(folder / limit), _read(folder / used)
            if most.isdecimal() and now.isdecimal():
                pairs = (line.split() for line in _read(folder / "memory.stat").splitlines())
                statistics = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
                yield int(most) - int(now) + statistics.get(cached, 0)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """This process' cgroup and those around it; `controller` of version 1, empty for version 2."""
    mount = _CGROUPS / controller
    for line in _read(_PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            inside = mount / path.strip("/")
            # In a container the path may be the host's, and the mount already the group itself.
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(mount))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def gpu_names() -> tuple[str, ...]:
    """The GPUs that this process may use, each as CUDA_VISIBLE_DEVICES would name it alone.

    Makes no CUDA context here: torch asks the driver's management library.
    """
    import torch  # takes seconds, and only GPUs need it

    count = torch.cuda.device_count()
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return tuple(map(str, range(count)))
    return tuple(name.strip() for name in asked.split(","))[:count]
