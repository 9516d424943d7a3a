"""Copying a run directory while it is written, so that a copy cut short is a run to go on from.

A run directory survives a kill because its files are written in an order: a store's layout before the
config that makes the directory a run; a step's arrays before `step_done`, which marks them as whole (and
before `final_step`, which says what they were measured with); rows, factors and optimiser state before the
weights, which make the step count as done. A copy keeps that order. Files are noted from the last kind to
the first, and copied from the first to the last: whatever is in the copy, what was written before it is
there too. What came later may be there, which is as after a kill. A store appears here at once, by a rename;
in the copy it counts only with its `zarr.json`, which comes after the rest of it.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mech_grok.sweep.places.remote import is_hidden

_LATE = tuple(
    re.compile(rf"(.*/)?{name}")
    for name in (
        r"[^/]+\.zarr/zarr\.json",
        r"config\.yaml",
        r"final_step/c(/.*)?",
        r"step_done/c(/.*)?",
        r"checkpoints/step_\d+\.safetensors",
    )
)
"""Files that say that others are whole, in the order in which they are written."""

_STORE = re.compile(r"(.*/)?[^/]+\.zarr/")
_OPTIMISER = re.compile(r"checkpoints/optimiser_\d+\.safetensors")

_AT_ONCE = 16
"""Files on the way at the same time."""

Signature = list[int]
"""Size (bytes), time of change (nanoseconds) and inode of a file here: another content has another one."""


def stage(name: str) -> int:
    """When a file is copied: 0 for most of them, then one kind of mark after another."""
    return next((i for i, kind in enumerate(_LATE, start=1) if kind.fullmatch(name)), 0)


def in_order(
    changed: Collection[str],
    gone: Collection[str],
    copy: Callable[[str], None],
    remove: Callable[[str], None],
) -> None:
    """Bring a copy up to date; whenever this is cut short, nothing in it is marked as whole that is not.

    Args:
        changed: files that are new or other in the original.
        gone: files that are only in the copy.
    """
    _each(remove, [name for name in gone if stage(name)])
    for i in range(len(_LATE) + 1):
        _each(copy, [name for name in changed if stage(name) == i])
    _each(remove, [name for name in gone if not stage(name)])


def _each(do: Callable[[str], None], names: Collection[str]) -> None:
    if names:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(do, names))


def without_parts_of_stores(names: Collection[str]) -> Iterator[str]:
    """Of the names of a copy's files, those that are not of a store which has not arrived as a whole."""
    for name in names:
        store = _STORE.match(name)
        if store is None or f"{store[0]}zarr.json" in names:
            yield name


def files_in(folder: Path) -> Iterator[str]:
    """Names of the files below a folder, relative to it; hidden ones are left out."""
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        inside = "" if path == str(folder) else f"{os.path.relpath(path, folder)}/"
        yield from (f"{inside}{name}" for name in files if not is_hidden(name))


def signature(path: Path) -> Signature | None:
    """By what another content is known; None if there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def without_empty_folders(folder: Path) -> None:
    """Delete empty folders below a folder: a store is taken to be there if its folder is."""
    for path, _, _ in os.walk(folder, topdown=False):
        if Path(path) != folder and not os.listdir(path):
            os.rmdir(path)


@dataclass(frozen=True)
class Snapshot:
    """A run directory as it was at one moment.

    Attributes:
        names: files in it.
        changed: those that are to be copied -> where their content is held still.
        signatures: of those.
    """

    names: set[str] = field(default_factory=set)
    changed: dict[str, Path] = field(default_factory=dict)
    signatures: dict[str, Signature] = field(default_factory=dict)


@contextmanager
def held_still(folder: Path, known: dict[str, Signature]) -> Iterator[Snapshot]:
    """The run directory as it is now, for as long as the block lasts, while others write and delete there.

    Files are replaced as a whole, never changed (but for the log), so that a hard link keeps one.

    Args:
        known: files whose copies are up to date if they still have this signature.
    """
    links, snapshot = folder / ".held", Snapshot()
    shutil.rmtree(links, ignore_errors=True)  # of a process that was killed
    links.mkdir()
    try:
        _note_optimiser_states(snapshot, folder, known)
        for i in reversed(range(len(_LATE) + 1)):
            _note(snapshot, folder, known, (n for n in files_in(folder) if stage(n) == i))
        yield snapshot
    finally:
        shutil.rmtree(links)


def _note_optimiser_states(snapshot: Snapshot, folder: Path, known: dict[str, Signature]) -> None:
    """Before the weights: training deletes the one that goes with the last weights once it has newer ones."""
    while True:
        files = [f"checkpoints/{name}" for name in files_in(folder / "checkpoints")]
        states = [name for name in files if _OPTIMISER.fullmatch(name)]
        _note(snapshot, folder, known, states)
        if snapshot.names.issuperset(states):
            return  # else one was deleted since it was listed: there is a newer one


def _note(snapshot: Snapshot, folder: Path, known: dict[str, Signature], names: Iterable[str]) -> None:
    for name in names:
        if name in snapshot.names:
            continue
        if name in known and known[name] == signature(folder / name):
            snapshot.names.add(name)
            continue
        link = folder / ".held" / str(len(snapshot.changed))
        with suppress(FileNotFoundError):  # deleted since it was listed
            os.link(folder / name, link)
            found = signature(link)
            assert found is not None
            snapshot.names.add(name)
            snapshot.changed[name], snapshot.signatures[name] = link, found
