"""Runs that are elsewhere: a copy here to work on or to read, and what is written here copied there."""

import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from mech_grok.config_file import load_cell
from mech_grok.errors import RunBusyError, UserError
from mech_grok.progress import say
from mech_grok.sweep.places.claim import Claim
from mech_grok.sweep.places.copying import (
    Signature,
    files_in,
    held_still,
    in_order,
    signature,
    stage,
    without_empty_folders,
    without_parts_of_stores,
)
from mech_grok.sweep.places.remote import Remote, is_remote, reaching
from mech_grok.sweep.places.scratch import slot, slot_for_good

PUSH_EVERY_S = 20.0
"""Between two copies of what a worker writes; of a lost machine, what was copied last remains."""

_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Before the last push is tried again."""

_NOTES = ".copied.json"
"""In a copy: name -> what the original's mark and the copy's signature were."""

_WEIGHTS = re.compile(r"(?P<run>.*/)?checkpoints/step_(?P<step>\d+)\.safetensors")
_CHECKPOINT = re.compile(r"(.*/)?checkpoints/[^/]*")
_NOT_BUILT_ON = re.compile(r"(ablations\.zarr|patching|report)/.*|probes/(?!attention\.zarr/).*")
"""What of a run no other run reads that begins from it or follows it."""

Choice = Callable[[Collection[str]], Collection[str]]
"""Of the names of all files, those that are wanted."""


@contextmanager
def mirrored(place: str, needs: Sequence[str] = (), claim: Claim | None = None) -> Iterator[Path]:
    """Work on a run directory that may be elsewhere.

    A path is worked on where it is. Of a URL, a copy on this machine is, beside copies of the runs that it
    needs; what is written is copied back every PUSH_EVERY_S seconds and when the block is left, also by an
    exception. What is there is at all times a run that training can go on from, with the same bits.

    Args:
        needs: other runs or files, named as in a config: relative to the folder that holds the run.
        claim: the process's claim on the run; once that is lost, nothing more is written there.

    Raises:
        UserError: the URL cannot be read or written.
        RunBusyError: the claim was lost before all was written.
    """
    if not is_remote(place):
        yield Path(place)
        return
    remote = Remote.at(place)
    with slot("work") as root:
        _empty(root)
        copy = _Copy(remote, _folder(root, remote), claim)
        with reaching(place):
            _pull_needs(root, remote, needs)
            copy.pull()
        copy.folder.mkdir(parents=True, exist_ok=True)
        with _pushing(copy):
            yield copy.folder
        _empty(root)


def fetch(place: str) -> Path:
    """A run, or a folder of runs, to read on this machine; a path is itself, of a URL a copy is brought here.

    Of each run only the weights of the last checkpoint are brought, and no optimiser state. The folder is
    empty or missing if nothing is there.

    Raises:
        UserError: the URL cannot be read.
    """
    if not is_remote(place):
        return Path(place)
    remote = Remote.at(place)
    copy = _Copy(remote, _folder(slot_for_good("read"), remote))
    with reaching(place):
        copy.pull(_without_earlier_checkpoints)
    return copy.folder


def publish(folder: Path, place: str) -> None:
    """Copy a folder (a report) or a file (`study.yaml`) of this machine to a place.

    Raises:
        UserError: the place cannot be written.
    """
    remote = Remote.at(place)
    with reaching(place):
        if folder.is_file():
            remote.put(folder, "")
        else:
            _Copy(remote, folder).push()


class _Copy:
    """A folder elsewhere and its copy here, brought up to date in either direction."""

    def __init__(self, remote: Remote, folder: Path, claim: Claim | None = None):
        self.folder = folder
        self._remote, self._claim = remote, claim
        self._same: dict[str, Signature] = {}
        """Files here that are there as well -> their signatures."""

    def pull(self, choice: Choice = list) -> None:
        """Bring what is new or other there, and delete here what is not there."""
        late = {name for name in self._remote.files() if stage(name)}  # first, as others may write there
        marks = {n: mark for n, mark in self._remote.files().items() if n in late or not stage(n)}
        marks = {name: marks[name] for name in choice([*without_parts_of_stores(marks)])}
        notes = self._notes()
        changed = [n for n in marks if notes.get(n) != [marks[n], signature(self.folder / n)]]
        in_order(changed, {*files_in(self.folder)} - {*marks}, self._get, self._delete)
        without_empty_folders(self.folder)
        found = {name: signature(self.folder / name) for name in marks}
        self._same = {name: there for name, there in found.items() if there}
        if marks:
            notes = {name: [marks[name], there] for name, there in self._same.items()}
            (self.folder / _NOTES).write_text(json.dumps(notes))

    def push(self) -> None:
        """Bring there what is new or other here, and delete there what is not here any more.

        Raises:
            UserError: the other place cannot be written.
            RunBusyError: the claim is lost; nothing is written after that.
        """
        with reaching(self._remote.place), held_still(self.folder, self._same) as now:

            def put(name: str) -> None:
                self._check_claim()
                self._remote.put(now.changed[name], name)
                self._same[name] = now.signatures[name]

            in_order(now.changed, self._same.keys() - now.names, put, self._remove)

    def push_for_good(self) -> None:
        """Push, and try again for a while if that fails: hours of work may hang on it."""
        for pause in _PAUSES_S:
            try:
                return self.push()
            except RunBusyError:
                raise
            except UserError:
                time.sleep(pause)
        return self.push()

    def _get(self, name: str) -> None:
        with suppress(FileNotFoundError):  # deleted since it was listed
            self._remote.get(name, self.folder / name)

    def _delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def _remove(self, name: str) -> None:
        self._check_claim()
        with suppress(FileNotFoundError):
            self._remote.remove(name)
        del self._same[name]

    def _check_claim(self) -> None:
        if self._claim and not self._claim.is_held():
            raise RunBusyError(f"{self._remote.place}: another process has taken it over")

    def _notes(self) -> dict[str, list[object]]:
        """What was noted at the last pull; nothing if that is gone or damaged."""
        with suppress(FileNotFoundError, ValueError):
            return json.loads((self.folder / _NOTES).read_text())
        return {}


@contextmanager
def _pushing(copy: _Copy) -> Iterator[None]:
    """Push now and then while the block runs, and once at its end."""
    stop = Event()
    thread = Thread(target=_push_now_and_then, args=(copy, stop), name="push", daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()
        copy.push_for_good()

    try:
        yield
    except BaseException:
        try:
            end()
        except UserError as error:  # what ended the block counts for more
            say(str(error))
        raise
    end()


def _push_now_and_then(copy: _Copy, stop: Event) -> None:
    while not stop.wait(PUSH_EVERY_S):
        try:
            copy.push()
        except RunBusyError:
            return
        except UserError as error:
            say(f"{error}; trying again")


def _pull_needs(root: Path, remote: Remote, needs: Sequence[str]) -> None:
    """Bring what a run builds on; what is not there will be missed by whoever reads it."""
    for name in needs:
        needed = remote.beside(name)
        if needed is None or (folder := _folder(root, needed)).exists():
            continue
        if needed.is_file:
            needed.get("", folder)
            continue
        _Copy(needed, folder).pull(_what_others_build_on)
        config = folder / "config.yaml"
        _pull_needs(root, needed, load_cell(config).builds_on if config.is_file() else ())


def _folder(root: Path, remote: Remote) -> Path:
    """Where the copy of a folder is: at the same path, so that other runs are found relative to it."""
    return root / remote.protocol / remote.path.strip("/")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _without_earlier_checkpoints(names: Collection[str]) -> Collection[str]:
    weights = [found for name in names if (found := _WEIGHTS.fullmatch(name))]
    last = {found["run"]: found[0] for found in sorted(weights, key=lambda found: int(found["step"]))}
    return [name for name in names if name in last.values() or not _CHECKPOINT.fullmatch(name)]


def _what_others_build_on(names: Collection[str]) -> Collection[str]:
    return [name for name in names if not _NOT_BUILT_ON.fullmatch(name)]
