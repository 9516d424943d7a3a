"""Labelled arrays that grow step by step on disk, and survive being killed at any moment.

A Zarr store is laid out in full before anything is written; then each step is written into its own region,
and marked as done last. Appending instead loses or corrupts data when the process is killed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from mech_grok.errors import UserError
from mech_grok.signals import held

_DONE = "step_done"

Layout = tuple[dict[str, tuple[tuple[str, ...], tuple[int, ...]]], dict[str, list[object]]]
"""Dimensions and sizes of every variable, and every label."""


class StepStore:
    """A Dataset with dimensions (seed, step, ...) that is written one step at a time.

    Args:
        path: the Zarr directory; laid out at the first write.
        seeds: coordinate of the seed dimension.
        steps: coordinate of the step dimension: every step that will be written.
    """

    def __init__(self, path: Path, seeds: Sequence[int], steps: Sequence[int]):
        self.path = path
        self._seeds, self._steps = list(seeds), list(steps)
        self._checked: Layout | None = None

    def missing_steps(self, **expected: int) -> list[int]:
        """Steps that are not wholly written yet, or whose variables of these names have another value."""
        done = _done_steps(self.path, expected)
        return [s for s in self._steps if s not in done]

    def holds(self, name: str) -> bool:
        """Whether there is a variable of this name."""
        return (self.path / name / "zarr.json").exists()

    def write(self, step: int, per_seed: Sequence[xr.Dataset]) -> None:
        """Write one step: a Dataset per seed, all with the same variables."""
        if any(_layout(data) != self._checked for data in per_seed):
            self._prepare(per_seed)
            self._checked = _layout(per_seed[0])
        index = self._steps.index(step)
        with undamaged(self.path):
            group = zarr.open_group(self.path, mode="r+")
            for name in per_seed[0].data_vars:
                _array(group, str(name))[:, index] = np.stack([data[name].values for data in per_seed])
            _array(group, _DONE)[index] = True

    def _prepare(self, per_seed: Sequence[xr.Dataset]) -> None:
        """Lay the store out if it is not there, and see that it is one for these arrays."""
        data = xr.concat(per_seed, dim="seed", combine_attrs="override", coords="minimal", compat="override")
        if not self.path.exists():
            with held():
                self._lay_out(data)
        with undamaged(self.path):
            self._check_layout(zarr.open_group(self.path, mode="r"), data)

    def _check_layout(self, group: zarr.Group, data: xr.Dataset) -> None:
        """Refuse a store whose arrays and labels are not those of `data`.

        Raises:
            UserError: they are not, as after a change of what is measured.
        """
        expected = {
            str(name): (self._shape(v), ("seed", "step", *_rest(v))) for name, v in data.data_vars.items()
        }
        stored = {
            name: (a.shape, a.metadata.dimension_names)  # pyright: ignore[reportAttributeAccessIssue]
            for name, a in group.arrays()
            if a.ndim > 1
        }
        labels = {
            **{str(n): c.values.tolist() for n, c in data.coords.items()},
            "seed": self._seeds,
            "step": self._steps,
        }
        same_labels = all(np.asarray(_array(group, n)[:]).tolist() == values for n, values in labels.items())
        if stored != expected or not same_labels:
            raise UserError(f"{self.path}: holds other arrays than these; delete it to record them anew")

    def _shape(self, variable: xr.DataArray) -> tuple[int, ...]:
        return (len(self._seeds), len(self._steps), *_rest(variable).values())

    def _lay_out(self, data: xr.Dataset) -> None:
        """Create the whole store, empty, under a temporary name, and rename it."""
        variables = {}
        for name, v in data.data_vars.items():
            nothing = np.full(self._shape(v), np.nan, dtype=v.dtype)
            variables[name] = (("seed", "step", *_rest(v)), nothing, v.attrs)
        empty = xr.Dataset(
            {**variables, _DONE: ("step", np.zeros(len(self._steps), dtype=bool))},
            coords={**_portable_labels(data), "seed": self._seeds, "step": self._steps},
            attrs=data.attrs,
        )
        chunks = {
            str(n): {"chunks": tuple(1 if d == "step" else k for d, k in v.sizes.items())}
            for n, v in empty.data_vars.items()
        }
        temporary = self.path.with_name(f".{self.path.name}.partial")
        empty.to_zarr(temporary, mode="w", encoding=chunks, consolidated=False, zarr_format=3)
        temporary.rename(self.path)


def read_steps(path: Path) -> xr.Dataset:
    """The wholly written steps of a store, in memory."""
    return _wholly_written(load_store(path))


def open_steps(path: Path) -> xr.Dataset:
    """The wholly written steps of a store; only labels are in memory.

    Raises:
        UserError: the store is damaged.
    """
    data = open_store(path)
    with undamaged(path):
        return _wholly_written(data)


def _wholly_written(data: xr.Dataset) -> xr.Dataset:
    return data.isel(step=np.flatnonzero(data[_DONE].values)).drop_vars(_DONE)


def load_store(path: Path) -> xr.Dataset:
    """A whole Zarr store, in memory.

    Raises:
        UserError: the store is damaged.
    """
    with undamaged(path):
        return _with_numpy_text(xr.load_dataset(path, engine="zarr", consolidated=False))


def open_store(path: Path) -> xr.Dataset:
    """A Zarr store with its labels in memory; values are read when used, best inside `undamaged`.

    Raises:
        UserError: metadata or labels are damaged.
    """
    with undamaged(path):
        data = xr.open_dataset(path, engine="zarr", consolidated=False, cache=False)
        return _with_numpy_text(data.assign_coords({n: c.load() for n, c in data.coords.items()}))


def _with_numpy_text(data: xr.Dataset) -> xr.Dataset:
    text = {n: (c.dims, np.array(c.values.tolist())) for n, c in data.coords.items() if _is_text(c)}
    return data.assign_coords(text)


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Read or write a Zarr store; one that cannot be decoded is the user's to replace.

    Interrupts wait until the block is done, since Zarr works in threads that outlive an exception here.

    Raises:
        UserError: metadata or a chunk is missing or damaged.
    """
    try:
        with held():
            yield
    except (ValueError, RuntimeError, KeyError, FileNotFoundError) as error:
        raise UserError(
            f"{path}: damaged, or not a Zarr store ({error}); restore it, or delete it and make it again "
            "(metrics are made by training)"
        ) from error


def _portable_labels(data: xr.Dataset) -> dict[str, xr.DataArray]:
    """Coordinates with text as objects: Zarr 3 specifies text of varying length, not numpy's fixed one."""
    return {str(n): c.astype(object) if _is_text(c) else c for n, c in data.coords.items()}


def _layout(data: xr.Dataset) -> Layout:
    variables = {str(n): (tuple(map(str, v.dims)), v.shape) for n, v in data.data_vars.items()}
    return variables, {str(n): c.values.tolist() for n, c in data.coords.items()}


def _rest(variable: xr.DataArray) -> dict[str, int]:
    """Dimension -> size of what is not the seed."""
    return {str(d): n for d, n in variable.sizes.items() if d != "seed"}


def _is_text(coordinate: xr.DataArray) -> bool:
    return coordinate.dtype.kind in "UOT"


def _done_steps(path: Path, expected: Mapping[str, int]) -> set[int]:
    if not path.exists():
        return set()
    with undamaged(path):
        group = zarr.open_group(path, mode="r")
        steps, done = np.asarray(_array(group, "step")[:]), np.asarray(_array(group, _DONE)[:])
        for name, value in expected.items():
            written = (
                np.asarray(_array(group, name)[:]) == value if name in group else np.zeros((1, len(done)))
            )
            done = done & written.all(axis=0)
    return {int(s) for s in steps[done]}


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array
