"""The Ray cluster that a sweep runs on: the one at RAY_ADDRESS, or one on this machine of its own."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from types import ModuleType

from mech_grok.errors import UserError
from mech_grok.sweep.workers.resources import cpu_count

_LOOK_EVERY_S = 2.0
_ANSWER_S = 5.0
_OBJECT_STORE_BYTES = 100 * 2**20  # jobs and outcomes are a few kilobytes; Ray would set gigabytes aside

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray's paragraphs on every dead worker; the sweep says it in a line
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would copy the working folder to every node
}
"""What Ray reads when it is imported, unless the user has set it."""


def import_ray() -> ModuleType:
    """Ray, which is not installed with mech_grok unless asked for.

    Raises:
        UserError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # pyright: ignore[reportMissingImports] (an extra)
    except ImportError:
        raise UserError("--engine ray: Ray is not installed; pip install 'mech-grok[ray]'") from None
    return ray


class RayCluster:
    """A connection to Ray. In a process that is connected already, that connection is used and kept.

    Attributes:
        is_own: whether the cluster was started for this sweep: it is this machine, and never grows.

    Raises:
        UserError: there is no cluster at RAY_ADDRESS, or it does not take this process.
    """

    def __init__(self, ray: ModuleType):
        self._ray = ray
        address = os.environ.get("RAY_ADDRESS") or "local"
        self._is_connection_own = not ray.is_initialized()
        self.is_own = self._is_connection_own and address == "local"
        if self._is_connection_own:
            _connect(ray, address)
        self._looked = -_LOOK_EVERY_S
        self._nodes: list[Mapping[str, float]] = []

    def leave(self) -> None:
        """Disconnect; on a cluster started here that ends every process of it."""
        if self._is_connection_own:
            self._ray.shutdown()

    def places(self, cpus: int, gpus: float) -> int:
        """How many jobs of this size the living nodes hold, whether or not something runs there now."""
        return sum(_places(node, cpus, gpus) for node in self._living_nodes())

    @property
    def largest(self) -> str:
        """The node with most GPUs, and of those most CPUs, in words."""
        sizes = [(node.get("GPU", 0.0), node.get("CPU", 0.0)) for node in self._living_nodes()]
        gpus, cpus = max(sizes, default=(0.0, 0.0))
        return f"{cpus:g} CPUs and {gpus:g} GPUs"

    def _living_nodes(self) -> list[Mapping[str, float]]:
        """Name of a resource -> amount, for each node."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return self._nodes


def _places(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0.0) // cpus)
    if not gpus:
        return by_cpu
    there = int(node.get("GPU", 0.0))
    # A fraction has to be of one GPU: two GPUs hold two jobs of 0.6, not three.
    return min(by_cpu, there * int(1 / gpus + 1e-6) if gpus < 1 else int(there // gpus))


def _connect(ray: ModuleType, address: str) -> None:
    """`ray.init`, without a word on the console, and with the handler for SIGTERM left as it is."""
    _check_address(address)
    own = {"num_cpus": cpu_count(), "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == "local" else {}),
        )
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        where = "Ray does not start here" if address == "local" else f"RAY_ADDRESS={address}"
        raise UserError(f"{where}: {_why_refused(error)}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _check_address(address: str) -> None:
    """Refuse what is no address, and at once where nobody answers: Ray would try for minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UserError(
            f"RAY_ADDRESS={address}: not the address of a Ray cluster; allowed: HOST:PORT of its head, "
            "auto (the cluster that this machine is a node of), local"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:  # no such port, either
        raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error})") from None


def _why_refused(error: BaseException) -> str:
    """Ray's reason in one line."""
    if "AuthToken" in f"{error} {error.__cause__}":
        return "the cluster wants its token; set RAY_AUTH_MODE=token, with the head's ~/.ray/auth_token here"
    return " ".join(str(error).split())
