"""What a page's script unpacks: arrays of numbers, deflated, and parts of figures that are stored once.

The numbers are the same after as before: nothing is rounded here.
"""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mech_grok.report.byte_arrays import ByteArray, Encoded
from mech_grok.report.checkpoints import StepArray

SHARED = "shared"
"""The only key of what stands for a part that is stored once; its value is the part's place in the list."""

LEAST = 40
"""Characters of JSON: what is shorter is repeated, since what would stand for it is hardly shorter."""


def packed_array(a: StepArray | ByteArray) -> dict[str, object]:
    """An array as JSON: its labels, its shape and, in base64, its numbers."""
    return {
        "cell": a.cell.index,
        "seeds": a.seeds,
        "steps": a.steps.tolist(),
        "dims": a.dims,
        "coords": a.coords,
        **(_bytes(a.encoded) if isinstance(a, ByteArray) else _floats(a)),
    }


def _floats(a: StepArray) -> dict[str, object]:
    values = deflated(a.values.astype("<f4").tobytes())
    return {"shape": a.values.shape, "values": values, **({"snaps": True} if a.snaps else {})}


def _bytes(encoded: Encoded) -> dict[str, object]:
    """Codes, each minus the one before it, as neighbours on a map are alike; the ends of each map's range."""
    codes = np.diff(encoded.codes.ravel(), prepend=np.uint8(0))  # modulo 256
    ends = {"low": _base64(encoded.low), "high": _base64(encoded.high)}
    return {"shape": encoded.codes.shape, "values": deflated(codes.tobytes()), **ends, "snaps": True}


def stored_bytes(arrays: Iterable[ByteArray]) -> int:
    """What the codes of some arrays take on the page."""
    return sum(len(str(packed_array(a)["values"])) for a in arrays)


def deflated(raw: bytes) -> str:
    """Bytes, deflated (zlib), in base64."""
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def _base64(values: NDArray[np.floating]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def stored_once(drawn: Any) -> tuple[list[Any], Any]:
    """The parts of figures as JSON that occur more than once, and the figures with `SHARED` in their place.

    Steps, hover texts, colour scales and the template are the same in many traces and panels. A part of the
    list is whole: it refers to no other.
    """
    counts = Counter(_long_parts(drawn))
    places: dict[str, int] = {}

    def shorter(value: Any) -> Any:
        text = _text(value)
        if len(text) >= LEAST and counts[text] > 1:
            return {SHARED: places.setdefault(text, len(places))}
        if isinstance(value, Mapping):
            return {key: shorter(inner) for key, inner in value.items()}
        return [shorter(inner) for inner in value] if isinstance(value, list) else value

    rest = shorter(drawn)
    return [json.loads(text) for text in places], rest


def _long_parts(value: Any) -> Iterator[str]:
    """The JSON of all parts of a value that are long enough, its own included."""
    text = _text(value)
    if len(text) < LEAST:
        return
    yield text
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _long_parts(inner)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
