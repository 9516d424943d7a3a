"""The numbers inside a page, as its script has them once it has unpacked them."""

import base64
import json
import re
import zlib
from typing import Any

import numpy as np
import pytest


def embedded(page: str, name: str = "report-data") -> dict[str, Any]:
    """The JSON of a page, with the parts that it stores once back in their places."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found
    data = json.loads(found[1], parse_constant=pytest.fail)
    return restored(data, data.pop("shared", []))


def restored(value: Any, parts: list[Any]) -> Any:
    """A copy in which `{"shared": i}` is the i-th part."""
    if isinstance(value, list):
        return [restored(inner, parts) for inner in value]
    if not isinstance(value, dict):
        return value
    return parts[value["shared"]] if "shared" in value else {k: restored(v, parts) for k, v in value.items()}


def array_values(array: dict[str, Any]) -> np.ndarray:
    """The numbers of an array [seed, step, ...], or, of one that is rounded, their codes."""
    raw = zlib.decompress(base64.b64decode(array["values"]))
    if "low" in array:
        return np.cumsum(np.frombuffer(raw, np.uint8), dtype=np.uint8).reshape(array["shape"])
    return np.frombuffer(raw, "<f4").reshape(array["shape"])
