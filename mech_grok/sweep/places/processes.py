"""Which process this is, of all machines', and whether another one is gone."""

import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that others can tell from all others.

    Attributes:
        host: its machine's name, for people.
        machine: its machine since the last start, and the container in which its number holds; empty if that
            cannot be told.
        pid: its number there.
        started: when it began, in ticks since the machine's start; empty if the system does not say.
    """

    host: str
    machine: str
    pid: int
    started: str

    @property
    def is_gone(self) -> bool:
        """Whether it provably runs no more; false for one of another machine, of which nothing is known."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        state, started = _state(self.pid)
        return state in ("Z", "X") or (bool(started) and started != self.started)


def this_process() -> Process:
    """The one that asks."""
    return Process(platform.node(), _machine(), os.getpid(), _state(os.getpid())[1])


def _machine() -> str:
    """Where a process number means one process; a host's name may be that of several containers."""
    if platform.system() != "Linux":
        return f"{platform.node()} {uuid.getnode():x}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, str]:
    """State and start of a process of this machine; empty where the system does not say."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        )  # after the name in brackets
    except OSError:
        return "", ""
    return fields[0], fields[19]
