"""A Dataset in one file: a zip, nothing in it compressed again, that holds a Zarr group.

The same content gives the same bytes, so that a file in a repository changes only when what is in it does.
xarray alone reads it: `xr.open_zarr(zarr.storage.ZipStore(path))`.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from mech_grok.errors import UserError

_GROUP = "zarr.json"
_BEGINNING_OF_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


def zipped(data: xr.Dataset) -> bytes:
    """A Dataset as such a file; its attributes are whatever JSON can hold."""
    import zarr.storage  # takes a third of a second, and listing what is there needs none of it

    entries: dict[str, Any] = {}
    with warnings.catch_warnings():
        # What is consolidated is read as fast as it gets, and by xarray without a warning.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        data.to_zarr(zarr.storage.MemoryStore(store_dict=entries), zarr_format=3, consolidated=True)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name, _BEGINNING_OF_TIME)
            entry.create_system, entry.external_attr = _UNIX, 0o644 << 16
            archive.writestr(entry, entries[name].to_bytes())
    return out.getvalue()


def write_zipped(path: Path, data: xr.Dataset) -> None:
    """Write such a file, so that there is either the old one, if any, or the whole new one."""
    from mech_grok.training.checkpoints import write_whole  # imports torch, as whoever has something new did

    write_whole(path, zipped(data))


def read_zipped(path: Path) -> xr.Dataset:
    """What is in such a file, in memory.

    Raises:
        UserError: it is damaged, or another kind of file.
    """
    import zarr.buffer.cpu
    import zarr.storage

    with undamaged(path), zipfile.ZipFile(path) as archive:  # which checks every byte, as ZipStore does not
        content = {name: archive.read(name) for name in archive.namelist()}
        entries: Any = {name: zarr.buffer.cpu.Buffer.from_bytes(data) for name, data in content.items()}
        store: Any = zarr.storage.MemoryStore(store_dict=entries, read_only=True)
        return xr.load_dataset(store, engine="zarr", consolidated=True)


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of the Dataset in such a file, which takes no reading of arrays.

    Raises:
        UserError: it is damaged, or another kind of file.
    """
    with undamaged(path), zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(_GROUP))["attributes"]


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Read such a file, and make sense of what is in it.

    Raises:
        UserError: that cannot be done.
    """
    try:
        yield
    except (zipfile.BadZipFile, ValueError, RuntimeError, KeyError, TypeError, FileNotFoundError) as error:
        what = " ".join(str(error).split())
        raise UserError(
            f"{path}: damaged, or not a result ({what}); restore it, or delete it to have it made again"
        ) from error
