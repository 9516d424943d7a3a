"""What is said at the end of a sweep: how many cells are complete, and why the others are not."""

import os
from collections.abc import Sequence

from fsspec.core import url_to_fs

from mech_grok.sweep.cells import Cell

_LOG_LINES = 8
"""Of a failed cell's log, how many are shown."""


def summary(cells: Sequence[Cell], already: int) -> list[str]:
    """One line with counts, then each failed cell with the end of its log.

    Args:
        cells: those that were not complete when the sweep began.
        already: how many others were.
    """
    failed = [cell for cell in cells if cell.state == "failed"]
    complete = sum(cell.state == "done" for cell in cells)
    before = f", {already} of them before" if already and cells else ""
    lines = [f"cells: {already + complete} of {already + len(cells)} complete{before}, {len(failed)} failed"]
    for cell in failed:
        place = cell.job.place
        why = cell.message.removeprefix(f"{place}: ")
        lines += [f"failed: {shown(place)}: {why}", *_end_of_log(f"{place}/log.txt")]
    return lines


def shown(place: str) -> str:
    """A path as a user would type it here: relative if it is below the current folder."""
    return os.path.relpath(place) if place.startswith(os.getcwd() + os.sep) else place


def _end_of_log(place: str) -> list[str]:
    try:
        fs, path = url_to_fs(place)
        content = fs.cat_file(path)
    except Exception:  # whatever the file system's package raises; the summary matters more
        return []
    lines = content.decode(errors="replace").splitlines()[-_LOG_LINES:]
    return [f"  log: {shown(place)}", *(f"    {line}" for line in lines)]
