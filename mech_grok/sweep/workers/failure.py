"""Why a cell failed for good when it was last worked on, as its run directory says."""

import json
from pathlib import Path

FAILURE = "failure.json"
"""In the run directory: `message` and `when`. Gone as soon as the cell is worked on again."""


def recorded_failure(path: Path) -> str | None:
    """The message; None if the cell has not failed."""
    try:
        return str(json.loads((path / FAILURE).read_text(encoding="utf-8"))["message"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return f"{FAILURE} does not say why"
