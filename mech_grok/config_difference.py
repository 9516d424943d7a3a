"""In what two configs differ."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mech_grok.config import CellConfig
from mech_grok.config_file import load_cell
from mech_grok.errors import UserError


def check_same_config(path: Path, config: CellConfig) -> None:
    """Refuse a run directory of another config.

    Raises:
        UserError: the directory's config differs; the message names the first key that does.
    """
    difference = first_difference(load_cell(path / "config.yaml"), config)
    if difference:
        raise UserError(
            f"{path} holds a run of another config ({difference}); choose another study=NAME or --out"
        )


def first_difference(old: CellConfig, new: CellConfig) -> str | None:
    """The first key whose values differ: `model.placement: mlp-pre there, off asked for`; None if equal."""
    return next(
        (f"{key}: {there} there, {asked} asked for" for key, there, asked in differing(old, new)), None
    )


def differing(old: CellConfig, new: CellConfig) -> Iterator[tuple[str, object, object]]:
    """Dotted key, old and new value of everything in which two configs differ.

    A section that only one of them has is one key, and None in the other.
    """
    yield from _differing(old.model_dump(mode="json"), new.model_dump(mode="json"), "")


def _differing(old: dict[str, Any], new: dict[str, Any], prefix: str) -> Iterator[tuple[str, object, object]]:
    for key, value in old.items():
        if isinstance(value, dict) and isinstance(new[key], dict):
            yield from _differing(value, new[key], f"{prefix}{key}.")
        elif value != new[key]:
            yield f"{prefix}{key}", value, new[key]
