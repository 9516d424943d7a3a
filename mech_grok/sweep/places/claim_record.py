"""What a claim's file says, and which claim of a run counts."""

import json
from dataclasses import asdict, dataclass

from mech_grok.progress import Status
from mech_grok.sweep.places.claim_files import ClaimFiles
from mech_grok.sweep.places.processes import Process


@dataclass(frozen=True)
class ClaimRecord:
    """What a claim's file says.

    Attributes:
        token: of this claim.
        sweep: token of the sweep that its holder works for.
        host, pid: its holder.
        beat: signs of life so far.
        since: when it was claimed, in UTC.
        status: how far its holder is.
        machine, started: its holder, as others can tell it; see `Process`.
        released: whether it was given back.
    """

    token: str
    sweep: str
    host: str
    pid: int
    beat: int
    since: str
    status: Status | None
    machine: str = ""
    started: str = ""
    released: bool = False

    @property
    def holder(self) -> str:
        """In words."""
        return f"process {self.pid} on {self.host}, since {self.since}" if self.since else "another process"

    @property
    def is_dead(self) -> bool:
        """Whether its holder provably runs no more."""
        return Process(self.host, self.machine, self.pid, self.started).is_gone


def current_claim(files: ClaimFiles) -> tuple[int, ClaimRecord | None]:
    """The claim that counts, and its number; 0 if there is none."""
    numbers = files.numbers()
    if not numbers:
        return 0, None
    return numbers[-1], decoded(files.read(numbers[-1]), numbers[-1])


def encoded(record: ClaimRecord) -> bytes:
    """What is written into its file."""
    return json.dumps(asdict(record)).encode()


def decoded(content: bytes, number: int) -> ClaimRecord:
    """What a claim's file says; one that is not whole is by nobody known."""
    try:
        tree = json.loads(content)
        status = tree.pop("status")
        return ClaimRecord(status=Status(**status) if status else None, **tree)
    except (ValueError, TypeError, KeyError, AttributeError):
        return unknown_claim(number)


def unknown_claim(number: int) -> ClaimRecord:
    """A claim whose file is empty, or written in part: alive, as far as one can tell."""
    return ClaimRecord(f"unknown {number}", sweep="", host="", pid=0, beat=0, since="", status=None)
