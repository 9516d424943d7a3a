"""What a sweep would do: its cells, how far they are, and the time and disk still to come. Runs nothing."""

import heapq
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.origins import parents_of
from mech_grok.study import cell_line
from mech_grok.study_config import StudyConfig
from mech_grok.sweep.costs.disk import blocks
from mech_grok.sweep.costs.estimate import Cost
from mech_grok.sweep.state import CellState
from mech_grok.sweep.workers.failure import recorded_failure
from mech_grok.sweep.workers.resources import Layout


def plan_lines(
    cells: Mapping[Path, CellConfig],
    states: Mapping[Path, CellState],
    costs: Mapping[Path, Cost],
    layout: Layout,
    study: StudyConfig,
) -> list[str]:
    """One line per cell, then all of them together.

    Args:
        cells: run directory -> config, in the study's order.
        states: how far each is.
        costs: of each as a whole.
        layout: the workers.
        study: that the cells are of.
    """
    if not cells:
        return [f"{study.study}: no cells in this share"]
    seconds = {path: seconds_left(states[path], config, costs[path]) for path, config in cells.items()}
    disk = {path: _bytes_left(path, states[path], costs[path]) for path in cells}
    lines = [
        f"{cell_line(path, config)} [{_state(path, states[path])}"
        f"{_to_come(states[path], costs[path], seconds[path], disk[path])}]"
        for path, config in cells.items()
    ]
    return [
        *lines,
        _work_line(cells, states, study),
        _time_line(seconds, parents_of(cells), layout),
        *_unknown_line([states[path] for path in cells if costs[path].train is None]),
        *_disk_lines(next(iter(cells)).parent, sum(disk.values())),
    ]


def seconds_left(state: CellState, config: CellConfig, cost: Cost) -> float:
    """How much of a cell's time is still to come, by what is on disk.

    A training whose time nobody can tell counts as nothing; probes and ablations count in full until they
    are complete.
    """
    first, last = config.first_step, config.training.steps
    share = (last - max(state.steps_done, first)) / (last - first)
    seconds = {"train": (cost.train or 0.0) * share, "probe": cost.probe, "ablate": cost.ablate}
    return sum((seconds[stage] for stage in state.missing), start=0.0)


def makespan(seconds: Mapping[Path, float], parents: Mapping[Path, Sequence[Path]], workers: int) -> float:
    """How long the workers take together: each begins the first cell whose parents are done when it is free.

    Args:
        seconds: of each cell on one worker, in the order in which they are begun.
        parents: the cells that each has to wait for.
    """
    waiting, done, now = list(seconds), set[Path](), 0.0
    running: list[tuple[float, Path]] = []
    while waiting or running:
        ready = [path for path in waiting if done.issuperset(parents[path])]
        for path in ready[: workers - len(running)]:
            waiting.remove(path)
            heapq.heappush(running, (now + seconds[path], path))
        now, ended = heapq.heappop(running)
        done.add(ended)
    return now


def _bytes_left(path: Path, state: CellState, cost: Cost) -> int:
    return 0 if state.is_complete else max(cost.disk - _bytes_in(path), 0)


def _bytes_in(folder: Path) -> int:
    """What is in a folder, counted as the estimate does."""
    entries = (Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files))
    return sum(blocks(entry.lstat().st_size) for entry in entries)


def _state(path: Path, state: CellState) -> str:
    if state.is_complete:
        return "complete"
    failure = recorded_failure(path)
    if failure is not None:
        return f"failed: {failure}"
    if not (path / "config.yaml").exists():
        return "new"
    return f"at step {max(state.steps_done, 0):,}" if "train" in state.missing else "trained"


def _to_come(state: CellState, cost: Cost, seconds: float, disk: int) -> str:
    """The stages, time and disk still to come, for the end of a cell's line."""
    if state.is_complete:
        return ""
    unknown = "train" in state.missing and cost.train is None
    time = f"{about(seconds)}{' without training' if unknown else ''}" if seconds else "time unknown"
    return f"; {', '.join(state.missing)} to come: {time}, {size(disk)}"


def _work_line(cells: Mapping[Path, CellConfig], states: Mapping[Path, CellState], study: StudyConfig) -> str:
    complete = sum(states[path].is_complete for path in cells)
    steps = sum(
        config.training.steps - max(states[path].steps_done, config.first_step)
        for path, config in cells.items()
        if "train" in states[path].missing
    )
    of_all = "" if len(cells) == len(study.all_cells()) else f" of {len(study.all_cells()):,}"
    return f"{study.study}: {len(cells):,}{of_all} cells, {complete:,} complete; {steps:,} steps to train"


def _time_line(seconds: Mapping[Path, float], parents: Mapping[Path, Sequence[Path]], layout: Layout) -> str:
    if layout.workers is None:
        together, longest = about(sum(seconds.values())), about(makespan(seconds, parents, len(seconds)))
        return f"time: {together} of one worker in all, shared by those of the cluster; at least {longest}"
    span = about(makespan(seconds, parents, layout.workers))
    workers = f"{layout.workers:,} worker{'' if layout.workers == 1 else 's'}"
    threads = f"{layout.threads} CPU thread{'' if layout.threads == 1 else 's'}"
    gpus = f", GPUs {' '.join(dict.fromkeys(layout.gpus))}" if layout.gpus else ""
    return f"time: {span} with {workers} of {threads}{gpus}, if nothing else runs there"


def _unknown_line(states: Sequence[CellState]) -> list[str]:
    """What the time leaves out, given the states of the cells whose training cannot be estimated."""
    n = sum("train" in state.missing for state in states)
    if not n:
        return []
    cells = "1 cell" if n == 1 else f"{n:,} cells"
    return [f"not in that time: the training of {cells} on a GPU, of which no like run is on disk yet"]


def _disk_lines(folder: Path, to_come: int) -> list[str]:
    """What is needed and what is free, where the folder is or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    lines = [f"disk: {size(to_come)} to come, {size(free)} free at {there}"]
    if to_come > free:
        lines.append(
            f"WARNING: that does not fit: {size(to_come - free)} too little; fewer checkpoints "
            "(training.checkpoint_every, training.optimiser_state_every) take less, or choose another --out"
        )
    return lines


def about(seconds: float) -> str:
    """A time as roughly as it is known: `about 40 s`, `about 25 min`, `about 1 h 10 min`, `about 3 days`."""
    if seconds <= 0:
        return "no time"
    if seconds < 90:
        return f"about {max(round(seconds / 5) * 5, 5)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes if minutes < 10 else round(minutes / 5) * 5} min"
    tens = round(minutes / 10) * 10
    if tens < 600:
        return f"about {tens // 60} h {tens % 60} min" if tens % 60 else f"about {tens // 60} h"
    hours = round(minutes / 60)
    return f"about {hours} h" if hours < 72 else f"about {round(hours / 24)} days"


def size(n_bytes: int) -> str:
    """Bytes to two digits in kB, MB, GB or TB, powers of 1,000."""
    value, units = n_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}" if 0 < value < 9.95 else f"{value:.0f} {units[0]}"
