"""The numbered files of a run's claims: each is created once, by one process; the highest one counts."""

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from fsspec.implementations.local import LocalFileSystem

from mech_grok.sweep.places.remote import Remote

_FOLDER = ".claim"
_NUMBERED = re.compile(r"(\d{6,})\.json")


@runtime_checkable
class ClaimFiles(Protocol):
    """The claim files of one run."""

    def numbers(self) -> list[int]:
        """Of the files that are there, ascending."""
        ...

    def read(self, number: int) -> bytes:
        """What is in a file; nothing if it is gone or only begun."""
        ...

    def create(self, number: int, content: bytes) -> None:
        """Make a new file, unless another process has made it: who reads it back knows whose it is."""
        ...

    def rewrite(self, number: int, content: bytes) -> None:
        """Replace what is in a file."""
        ...

    def remove(self, number: int) -> None:
        """Delete a file, if it is there."""
        ...


def claim_files(place: str) -> ClaimFiles:
    """Those of a run directory, which need not exist.

    Raises:
        UserError: no such protocol, or the package for it is not installed.
    """
    remote = Remote.at(place)
    if isinstance(remote.fs, LocalFileSystem):
        return _LocalFiles(Path(remote.path) / _FOLDER)
    return _RemoteFiles(remote, f"{remote.path}/{_FOLDER}")


@dataclass(frozen=True)
class _LocalFiles:
    """On this machine or a mounted file system: created with content, and replaced as a whole."""

    folder: Path

    def numbers(self) -> list[int]:
        return _numbers(os.listdir(self.folder)) if self.folder.is_dir() else []

    def read(self, number: int) -> bytes:
        with suppress(FileNotFoundError):
            return self._path(number).read_bytes()
        return b""

    def create(self, number: int, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._written(secrets.token_hex(8), content)
        with suppress(FileExistsError):
            os.link(temporary, self._path(number))
        temporary.unlink()

    def rewrite(self, number: int, content: bytes) -> None:
        self._written(f"{number:06d}", content).replace(self._path(number))

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)
        (self.folder / f".{number:06d}.partial").unlink(missing_ok=True)

    def _written(self, name: str, content: bytes) -> Path:
        path = self.folder / f".{name}.partial"
        path.write_bytes(content)  # not flushed to disk: a machine that loses it has lost its processes too
        return path

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


@dataclass(frozen=True)
class _RemoteFiles:
    """Behind a URL: created exclusively where the file system can do that, as object stores do."""

    remote: Remote
    folder: str

    def numbers(self) -> list[int]:
        fs = self.remote.fs
        fs.invalidate_cache()  # others write here
        return _numbers(path.rpartition("/")[2] for path in fs.find(self.folder))

    def read(self, number: int) -> bytes:
        with suppress(FileNotFoundError):
            content = self.remote.fs.cat_file(self._path(number))
            return content if isinstance(content, bytes) else content.encode()
        return b""

    def create(self, number: int, content: bytes) -> None:
        if not self.remote.is_object_store:
            self.remote.fs.makedirs(self.folder, exist_ok=True)
        with suppress(FileExistsError):
            self.remote.fs.pipe_file(self._path(number), content, mode="create")

    def rewrite(self, number: int, content: bytes) -> None:
        self.remote.fs.pipe_file(self._path(number), content)

    def remove(self, number: int) -> None:
        with suppress(FileNotFoundError):
            self.remote.fs.rm_file(self._path(number))

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.json"


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(int(found[1]) for name in names if (found := _NUMBERED.fullmatch(name)))
