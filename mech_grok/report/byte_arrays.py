"""Large tables of values, one byte a number: for maps over (a, b) and the like, at a few checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray

from mech_grok.report.cells import Cell
from mech_grok.report.checkpoints import step_array

STEPS = 254
"""A map's range is divided into this many steps; codes 0 to 254 are its values."""

MISSING = 255
"""The code of what has no value."""


class Encoded(NamedTuple):
    """Maps in one byte a number, each with its own range: `low + code / 254 * (high - low)`."""

    codes: UInt8[np.ndarray, "*maps rows columns"]
    low: Float32[np.ndarray, "*maps"]
    high: Float32[np.ndarray, "*maps"]


def encode(values: Float[np.ndarray, "*maps rows columns"]) -> Encoded:
    """Round every map (the last two dimensions) to 1/254 of its range; what is not finite is missing."""
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf).min((-2, -1)).astype(np.float32)
    high = np.where(finite, values, -np.inf).max((-2, -1)).astype(np.float32)
    low[~finite.any((-2, -1))] = high[~finite.any((-2, -1))] = 0.0
    width = (high - low)[..., None, None]
    share = np.where(finite, values - low[..., None, None], 0) / np.where(width > 0, width, 1)
    codes = np.rint(STEPS * np.clip(share, 0, 1))
    return Encoded(np.where(finite, codes, MISSING).astype(np.uint8), low, high)


def decode(encoded: Encoded) -> Float32[np.ndarray, "*maps rows columns"]:
    """The numbers behind the codes; NaN for what is missing."""
    low, high = encoded.low[..., None, None], encoded.high[..., None, None]
    values = low + encoded.codes.astype(np.float32) / np.float32(STEPS) * (high - low)
    return np.where(encoded.codes == MISSING, np.float32(np.nan), values)


@dataclass(frozen=True)
class ByteArray:
    """One quantity of one cell at a few checkpoints, rounded; the page shows one seed of it at a time.

    Attributes:
        key: its name on the page.
        seeds: the first dimension; the first one is shown where the reader has selected none of them.
        steps: the second; the slider snaps to the nearest one.
        dims, coords: of the others.
        encoded: [seed, step, *dims]; the last two of `dims` share a range.
    """

    key: str
    cell: Cell
    seeds: tuple[int, ...]
    steps: NDArray[np.int32]
    dims: tuple[str, ...]
    coords: tuple[tuple[str | int | float, ...], ...]
    encoded: Encoded

    @property
    def values(self) -> Float32[np.ndarray, "seed step ..."]:
        """What a reader of the page gets: [seed, step, *dims]."""
        return decode(self.encoded)


def byte_array(key: str, cell: Cell, data: xr.DataArray) -> ByteArray:
    """The ByteArray of a (seed, step, ..., rows, columns) array."""
    exact = step_array(key, cell, data)
    return ByteArray(
        exact.key, cell, exact.seeds, exact.steps, exact.dims, exact.coords, encode(exact.values)
    )


def rounding_note(arrays: Sequence[ByteArray]) -> str:
    """What a caption says of its maps: whose they are, and how exact (HTML)."""
    seeds = " or ".join(str(seed) for seed in dict.fromkeys(a.seeds[0] for a in arrays))
    counts = sorted({len(a.steps) for a in arrays})
    fewest = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    at = f"at {fewest} checkpoints; the slider snaps to the nearest" if counts[-1] > 1 else "at the end"
    only = all(len(a.seeds) == 1 for a in arrays)
    who = f"Seed {seeds} only, whichever is selected" if only else f"One seed, {seeds} if none is selected"
    return (
        f"{who}, {at}. Numbers are rounded to 1/254 of the range of their map; the CSV has the checkpoint "
        "that is shown."
    )
