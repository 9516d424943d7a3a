"""The cells of a sweep as tasks of Ray, which places them on the nodes of a cluster."""

import importlib
import pickle
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from mech_grok.errors import UserError
from mech_grok.progress import say
from mech_grok.signals import Terminated, unwinding
from mech_grok.sweep.workers.job import Job, Outcome
from mech_grok.sweep.workers.ray_cluster import RayCluster, import_ray

_AHEAD = 4
"""Jobs that wait in a cluster's queue: an autoscaler adds nodes for them."""

_KILLED_WITHIN_S = 5.0


class RayEngine:
    """Runs jobs as Ray tasks, on the cluster at RAY_ADDRESS or on one that it starts on this machine.

    Args:
        cpus: CPUs of each job, which are its threads.
        gpus: GPUs of each job: 0, a fraction of one, or a whole number.
        work: what a task calls with its job, as `module:function`; only the worker imports it.

    Raises:
        UserError: Ray is not installed; on entering: the cluster is not there, or this machine is too small.
    """

    def __init__(self, cpus: int, gpus: float, work: str = "mech_grok.sweep.workers.work:work"):
        self._ray = import_ray()
        self._cpus, self._gpus, self._work = cpus, gpus, work
        self._cluster: RayCluster | None = None
        self._tasks: dict[Any, Job] = {}
        """Ray's reference to the outcome -> job."""
        self._is_interrupted = False
        self._is_waiting_for_nodes = False

    @property
    def free(self) -> int:
        """How many more jobs it takes now: what the nodes hold, and on a cluster that may grow a few more."""
        assert self._cluster is not None
        places = self._cluster.places(self._cpus, self._gpus)
        if not places and not self._is_waiting_for_nodes:
            say(f"{self._too_small()}; waiting for one that has")
        self._is_waiting_for_nodes = not places
        return max(places + (0 if self._cluster.is_own else _AHEAD) - len(self._tasks), 0)

    def start(self, job: Job) -> None:
        """Hand a job to Ray; comes back at once."""
        task = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(_on_node)
        self._tasks[task.remote(metadata.version("mech-grok"), self._work, pickle.dumps(job))] = job

    def finished(self) -> Iterator[tuple[Job, Outcome]]:
        """Jobs that have ended since the last call, and how."""
        if self._tasks:
            ended, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
            for reference in ended:
                yield self._tasks.pop(reference), self._outcome(reference)

    def interrupt(self) -> None:
        """Ask running jobs to write their checkpoints and stop; those that wait in the queue are forgotten.

        Ray does in the worker what Ctrl-C does, and `work` handles that.
        """
        self._is_interrupted = True
        for reference in self._tasks:
            self._ray.cancel(reference, force=False)

    def __enter__(self) -> "RayEngine":
        self._cluster = RayCluster(self._ray)
        if self._cluster.is_own and not self._cluster.places(self._cpus, self._gpus):
            problem = self._too_small()
            self._cluster.leave()
            raise UserError(f"{problem}; give each cell less, or set RAY_ADDRESS to a larger cluster")
        return self

    def __exit__(self, *error: object) -> None:
        left = list(self._tasks)
        for reference in left:
            self._ray.cancel(reference, force=True)
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=_KILLED_WITHIN_S)
        self._tasks.clear()
        if self._cluster is not None:
            self._cluster.leave()

    def _too_small(self) -> str:
        assert self._cluster is not None
        wanted = f"{self._cpus} CPUs and {self._gpus:g} GPUs"
        return f"Ray: no node has the {wanted} of a cell; the largest has {self._cluster.largest}"

    def _outcome(self, reference: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.TaskCancelledError:
            return Outcome("stopped", "interrupted")
        except errors.RayTaskError as error:
            return Outcome("failed", _raised(error))
        except (errors.TaskUnschedulableError, errors.RuntimeEnvSetupError) as error:
            return Outcome("failed", _first_line(error))
        except errors.WorkerCrashedError:
            message = "its worker died"
        except errors.NodeDiedError:
            message = "its node died, or cannot be reached"
        except errors.OutOfMemoryError:
            message = "Ray ended its worker, as the node ran out of memory"
        except errors.RayError as error:
            message = _first_line(error)
        return Outcome("stopped" if self._is_interrupted else "died", message)


def _on_node(version: str, work: str, job: bytes) -> Outcome:
    """What runs in a worker of Ray; the job is unpickled once it is sure that both sides know the same."""
    here = metadata.version("mech-grok")
    if here != version:
        return Outcome(
            "failed",
            f"{platform.node()}: mech-grok {here} is installed there, but {version} where the sweep runs; "
            "install the same version on all nodes",
        )
    module, _, name = work.partition(":")
    try:
        with unwinding():
            function = getattr(importlib.import_module(module), name)
    except (KeyboardInterrupt, Terminated):
        return Outcome("stopped", "interrupted before it began")
    return function(pickle.loads(job))


def _raised(error: Any) -> str:
    """What a RayTaskError was made from, in one line, without Ray's traceback of the worker."""
    lines = str(error.cause).split("\n")
    if "failed to import on the worker" in lines[0]:  # and then a traceback
        return f"a node of the Ray cluster cannot import mech_grok: {_last_line(lines)}"
    return f"{type(error.cause).__name__}: {' '.join(' '.join(lines).split())}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _last_line(lines: list[str]) -> str:
    return next(line.strip() for line in reversed(lines) if line.strip())
