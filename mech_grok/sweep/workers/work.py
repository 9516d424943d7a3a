"""What a worker does with a cell: claim it, bring its run directory here, do the stages that are missing."""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from mech_grok.checkpoint_stages import ablate_run, probe_run
from mech_grok.errors import RunBusyError, UserError
from mech_grok.origins import record_followed
from mech_grok.progress import reporting_to, say
from mech_grok.run import Run
from mech_grok.signals import Interrupted, Terminated, unwinding
from mech_grok.sweep.places.claim import Claim, claimed
from mech_grok.sweep.places.mirror import mirrored
from mech_grok.sweep.state import cell_state
from mech_grok.sweep.workers.failure import FAILURE
from mech_grok.sweep.workers.job import Job, Outcome
from mech_grok.sweep.workers.log import WorkerLog, written_to
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import write_whole


def work(job: Job) -> Outcome:
    """Do what is missing of a cell, here and now; what is done already is kept.

    In a process's main thread, SIGTERM and Ctrl-C write a checkpoint and stop it.
    """
    try:
        with unwinding(), claimed(job.place, job.sweep, job.taken_from) as claim:
            return _in_place(job, claim)
    except RunBusyError as error:
        return Outcome("busy", str(error))
    except (Interrupted, Terminated, KeyboardInterrupt) as stop:
        return Outcome("stopped", str(stop) or "interrupted")
    except Exception as error:
        return Outcome("failed", _one_line(error))


def _in_place(job: Job, claim: Claim) -> Outcome:
    """Bring the run directory here, work on it, and keep what was printed in it."""
    with mirrored(job.place, job.config.builds_on, claim) as path, written_to(path / "log.txt"):
        (path / FAILURE).unlink(missing_ok=True)
        log = WorkerLog(claim)
        with reporting_to(log), _recorded_failure(path):
            _do_stages(job, path, log)
            left = cell_state(path, job.config, job.stages, job.probes).missing
    if left:  # a stage came back without an error, and its work is not there
        return Outcome("failed", f"{job.place}: not complete after its stages: {', '.join(left)}")
    return Outcome("done")


def _do_stages(job: Job, path: Path, log: WorkerLog) -> None:
    torch.set_num_threads(job.threads)
    for stage in cell_state(path, job.config, job.stages, job.probes).missing:
        log.stage = stage
        if stage == "train":
            record_followed(path, job.config)
            train_cell(path, job.config, resume=True, command=job.command)
            torch.set_num_threads(job.threads)  # a resumed training takes the count that it began with
        elif stage == "probe":
            probe_run(Run(path), job.probes)
        else:
            ablate_run(Run(path))


@contextmanager
def _recorded_failure(path: Path) -> Iterator[None]:
    """Keep in the run directory why a cell failed, for whoever looks at the study later."""
    try:
        yield
    except (RunBusyError, Interrupted, Terminated, KeyboardInterrupt):
        raise
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        say(f"failed: {_one_line(error)}")
        content = {"message": _one_line(error), "when": datetime.now(UTC).isoformat(timespec="seconds")}
        write_whole(path / FAILURE, json.dumps(content, indent=2).encode())
        raise


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
