"""Arrays of many cells as one, read from the cells' Zarr stores when they are used, and only where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from mech_grok.array_store import undamaged
from mech_grok.errors import UserError


@dataclass(frozen=True)
class PlacedStore:
    """The store of one cell, and where on the axes the cell is.

    Attributes:
        path: the Zarr directory.
        point: an index into each axis.
        data: the store as a Dataset, opened but not read.
    """

    path: Path
    point: tuple[int, ...]
    data: xr.Dataset


def join_labels(stores: Sequence[PlacedStore], seeds: np.ndarray) -> dict[str, np.ndarray]:
    """Dimension -> the labels that any cell has: steps ascending, others in order of appearance.

    Args:
        seeds: labels of the seed dimension; of these each store has some.
    """
    dims = dict.fromkeys(str(dim) for store in stores for dim in store.data.dims)
    found = {dim: [s.data[dim].values for s in stores if dim in s.data.dims] for dim in dims}
    return {dim: seeds if dim == "seed" else _union(of_dim, dim == "step") for dim, of_dim in found.items()}


def _union(per_store: Sequence[np.ndarray], ascending: bool) -> np.ndarray:
    labels = np.concatenate(per_store)
    distinct, first = np.unique(labels, return_index=True)
    return distinct if ascending else labels[np.sort(first)]


def join_variables(
    stores: Sequence[PlacedStore], axes: Mapping[str, int], labels: Mapping[str, np.ndarray]
) -> dict[str, xr.Variable]:
    """Every variable that any cell has, with the axes as leading dimensions; nan where a cell has no value.

    Values are read when used. They are floats, so that the type does not depend on what is there yet.

    Args:
        stores: no two at one point have a seed in common.
        axes: dimension -> size.
        labels: what `join_labels` gives for these stores.

    Raises:
        UserError: two cells have a variable of one name with different dimensions.
    """
    positions = [
        {str(dim): store.data.get_index(dim).get_indexer(labels[str(dim)]) for dim in store.data.dims}
        for store in stores
    ]
    parts: dict[str, list[_Part]] = {}
    for store, of_store in zip(stores, positions, strict=True):
        for name in store.data.data_vars:
            variable = store.data.variables[name]
            where = tuple(of_store[str(dim)] for dim in variable.dims)
            parts.setdefault(str(name), []).append(_Part(store.path, store.point, variable, where))
    return {name: _join(name, of_name, axes, labels) for name, of_name in sorted(parts.items())}


@dataclass(frozen=True)
class _Part:
    """What one cell has of a joined array.

    Attributes:
        positions: for each of the variable's dimensions, where each joined label is along it; -1: nowhere.
    """

    store: Path
    point: tuple[int, ...]
    variable: xr.Variable
    positions: tuple[np.ndarray, ...]

    def read_into(self, out: np.ndarray, wanted: Sequence[np.ndarray]) -> None:
        """Fill in the values that the cell has at the wanted indices along each dimension after the axes."""
        positions = [of_dim[indices] for of_dim, indices in zip(self.positions, wanted, strict=True)]
        there = [np.flatnonzero(of_dim >= 0) for of_dim in positions]
        if not all(map(len, there)):
            return
        region = tuple(of_dim[i] for of_dim, i in zip(positions, there, strict=True))
        with undamaged(self.store):
            if not self.store.exists():  # Zarr would take every chunk for one that was never written
                raise FileNotFoundError("it was deleted after the study had been opened")
            out[np.ix_(*there)] = self.variable[region].values


def _join(
    name: str, parts: Sequence[_Part], axes: Mapping[str, int], labels: Mapping[str, np.ndarray]
) -> xr.Variable:
    first = parts[0].variable
    for part in parts:
        if part.variable.dims != first.dims:
            raise UserError(
                f"{part.store}: '{name}' has dimensions {', '.join(map(str, part.variable.dims))}, but "
                f"{', '.join(map(str, first.dims))} in {parts[0].store}; record the older one anew"
            )
    shape = (*axes.values(), *(len(labels[str(dim)]) for dim in first.dims))
    dtype = np.result_type(np.float32, *(part.variable.dtype for part in parts))
    array = indexing.LazilyIndexedArray(_CellsArray(shape, dtype, len(axes), parts))
    return xr.Variable((*axes, *first.dims), array, first.attrs)


class _CellsArray(BackendArray):
    """An array over axes and the cells' own dimensions, in pieces that are on disk."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, n_axes: int, parts: Sequence[_Part]):
        self.shape, self.dtype = shape, dtype
        self._n_axes = n_axes
        self._at: dict[tuple[int, ...], list[_Part]] = {}
        for part in parts:
            self._at.setdefault(part.point, []).append(part)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        outer = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, outer, self._read)

    def _read(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
        wanted = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True)]
        out = np.full([len(indices) for indices in wanted], np.nan, self.dtype)
        along_axes, within = wanted[: self._n_axes], wanted[self._n_axes :]
        for place in np.ndindex(*map(len, along_axes)):
            point = tuple(int(of_axis[i]) for of_axis, i in zip(along_axes, place, strict=True))
            for part in self._at.get(point, ()):
                part.read_into(out[place], within)
        return out[(*(0 if isinstance(k, int) else slice(None) for k in key), ...)]  # an array even if 0-d
