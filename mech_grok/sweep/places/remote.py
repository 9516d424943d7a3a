"""A folder that is reached through fsspec: on S3, a file server, or anything else with a URL."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from mech_grok.errors import UserError

_OBJECT_STORES = {"s3", "gs", "gcs", "abfs", "az"}
"""Protocols where a file appears whole or not at all, and folders need not be made."""

_MARKS = ("size", "ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "ino", "created")
"""What the file systems say of a file by which another content is known."""


def is_remote(place: str) -> bool:
    """Whether a place is a URL, such as `s3://bucket/study/cell`; `file://` is one too."""
    return "://" in place


@dataclass(frozen=True)
class Remote:
    """A folder, and the file system that it is on.

    Attributes:
        place: as the user wrote it, for messages.
        fs: the file system.
        path: the folder's path there.
    """

    place: str
    fs: AbstractFileSystem
    path: str

    @classmethod
    def at(cls, place: str) -> "Remote":
        """The folder of a URL or path; nothing is looked at yet.

        Raises:
            UserError: there is no such protocol, or the package for it is not installed.
        """
        try:
            fs, path = url_to_fs(place)
        except ImportError as error:
            raise UserError(f"{place}: cannot be opened: {error}") from None
        except ValueError as error:
            raise UserError(
                f"{place}: cannot be opened: {error}; allowed: a path, s3://..., gs://..."
            ) from None
        return cls(place.rstrip("/"), fs, path)

    def beside(self, name: str) -> "Remote | None":
        """What a config of a run here calls `name`; None if that is not on this file system."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), name))
        if posixpath.isabs(name) or path.startswith(".."):
            return None
        return Remote(f"{posixpath.dirname(self.place)}/{name}", self.fs, path)

    @property
    def protocol(self) -> str:
        """What its URLs begin with; the usual one, if there are several."""
        protocol = self.fs.protocol
        return protocol if isinstance(protocol, str) else protocol[0]

    @property
    def is_object_store(self) -> bool:
        """Whether a file appears whole or not at all, in folders that need not be made."""
        return self.protocol in _OBJECT_STORES

    @property
    def is_file(self) -> bool:
        """Whether there is a file in place of the folder."""
        return self.fs.isfile(self.path)

    def files(self) -> dict[str, str]:
        """Name of every file below, hidden ones left out -> something that changes when its content does."""
        self.fs.invalidate_cache()  # others write here too
        found = cast(dict[str, dict[str, Any]], self.fs.find(self.path, detail=True))
        names = {path[len(self.path) :].strip("/"): info for path, info in found.items()}
        return {
            name: " ".join(str(info.get(key)) for key in _MARKS)
            for name, info in names.items()
            if name and info.get("type") == "file" and not is_hidden(name)
        }

    def get(self, name: str, target: Path) -> None:
        """Copy a file here; `target` is the old content or the whole new one.

        Raises:
            FileNotFoundError: it is not there (any more).
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.partial")
        try:
            self.fs.get_file(self._path(name), str(temporary))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, source: Path, name: str) -> None:
        """Copy a file there; it is then the old content or the whole new one, wherever a rename is atomic."""
        path = self._path(name)
        if self.is_object_store:
            self.fs.put_file(str(source), path)
            return
        folder, _, last = path.rpartition("/")
        temporary = f"{folder}/.{last}.partial"
        self.fs.makedirs(folder, exist_ok=True)
        self.fs.put_file(str(source), temporary)
        self.fs.mv(temporary, path)

    def remove(self, name: str) -> None:
        """Delete a file there."""
        self.fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, begins with a dot: locks, claims, what is being written."""
    return name.startswith(".") or "/." in name


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Use a file system; what goes wrong is one line.

    Raises:
        UserError: whatever its package raises, each in its own way.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place}: cannot be reached ({type(error).__name__}: {error})") from error
