"""What is to be said of a cell to somebody who looks at its study: complete, worked on, failed, ..."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.progress import Status, clock
from mech_grok.study_config import Stage
from mech_grok.sweep.places.claim import STALE_S, read_claim
from mech_grok.sweep.places.claim_record import ClaimRecord
from mech_grok.sweep.state import CellState, cell_state
from mech_grok.sweep.workers.failure import recorded_failure

Kind = Literal["complete", "running", "trained", "unfinished", "failed", "damaged", "not begun"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Condition:
    """How a cell is.

    Attributes:
        kind: `complete`: nothing is left to do. `running`: a worker was at it a moment ago.
            `trained`: a later stage is missing. `unfinished`: begun, and not trained. `failed`: for good,
            when it was last worked on. `damaged`: unreadable, or of another config. `not begun`.
        detail: what else is worth saying.
    """

    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


def condition(path: Path, config: CellConfig, stages: Sequence[Stage], probes: Sequence[str]) -> Condition:
    """How a cell is, from its run directory alone.

    That a worker is alive can only be told by watching it. Here one counts whose claim was written less than
    STALE_S seconds ago by this machine's clock, and which is not provably dead.

    Args:
        path: its run directory, which need not exist.
        stages: those that are to be done with it.
        probes: which are to be recorded; none named: all.
    """
    claim, silence = read_claim(str(path)), _seconds_since_claim(path)
    if claim and not claim.is_dead and silence < STALE_S:
        return Condition("running", _doing(claim))
    try:
        state = cell_state(path, config, stages, probes)
    except UserError as error:
        return Condition("damaged", str(error))
    if state.is_complete:
        return Condition("complete")
    failure = recorded_failure(path)
    if failure is not None:
        return Condition("failed", failure)
    left = "" if claim is None else f"{_holder(claim)} was at it {clock(silence)} ago"
    return Condition(_kind(state), "; ".join(filter(None, [_lacking(state), left])))


def _kind(state: CellState) -> Kind:
    if state.steps_done < 0:
        return "not begun"
    return "unfinished" if "train" in state.missing else "trained"


def _lacking(state: CellState) -> str:
    if state.steps_done < 0:
        return ""
    if "train" in state.missing:
        return f"at step {state.steps_done:,}"
    return f"{' and '.join(state.missing)} to come"


def _doing(claim: ClaimRecord) -> str:
    """How far its worker is, and who that is."""
    status = claim.status
    return f"{_progress(status)}, {_holder(claim)}" if status else _holder(claim)


def _progress(status: Status) -> str:
    left = "" if status.seconds_left is None else f", {clock(status.seconds_left)} left"
    return f"{status.label}, {status.unit} {status.done:,}/{status.total:,}{left}"


def _holder(claim: ClaimRecord) -> str:
    return f"process {claim.pid} on {claim.host}" if claim.pid else "another process"


def _seconds_since_claim(path: Path) -> float:
    """Since anything was last written there to keep a claim; infinite if nothing was."""
    written = [file.stat().st_mtime for file in (path / ".claim").glob("*.json")]
    return max(time.time() - max(written), 0.0) if written else float("inf")
