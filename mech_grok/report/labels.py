"""What a cell is called on the page: its placement by the paper's name, then what else is its own."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePath

from mech_grok.config import CellConfig
from mech_grok.placement import Placement

_SETTING = re.compile(r"([a-z][a-z_]*)=([^_]*)")
_FORK = re.compile(r"from=(.+)_at=(\d+)")


def cell_label(name: str, config: CellConfig) -> str:
    """The label (HTML) of a run: `A<sup>qk</sup> · lr 0.001`, `No LN → M at 500`.

    Args:
        name: the run's; begins with its placement's specifier unless a study gave it another one.
        config: what was trained; says what the run was forked from, and whose entropies it follows.
    """
    placement, surgery, follow = config.model.placement, config.surgery, config.training.follow_entropy
    base = _forked(PurePath(surgery.parent).name, placement, surgery.step) if surgery else None
    words = [_followed(follow.of)] if follow else []
    rest = name.removeprefix(placement.specifier)
    own = (
        [escape(name)] if rest == name else _settings(_FORK.sub("", rest), said=["entropy"] if follow else [])
    )
    return " · ".join([base or placement_label(placement), *words, *own])


def placement_label(placement: Placement) -> str:
    """The paper's name of a placement in HTML, else its specifier."""
    return re.sub(r"\^(\w+)", r"<sup>\1</sup>", escape(placement.label))


def name_label(name: str) -> str:
    """The label (HTML) of a run of which only the name is known: `off_lr=0.003` is `No LN · lr 0.003`."""
    specifier, _, rest = name.partition("_")
    try:
        placement = Placement.parse(specifier)
    except ValueError:  # a study's own name for a cell, or a file
        return escape(name)
    fork = _FORK.match(rest)
    base = _forked(fork[1], placement, int(fork[2])) if fork else placement_label(placement)
    return " · ".join([base, *_settings(rest[fork.end() :] if fork else rest)])


def _followed(of: float | str) -> str:
    return f"entropy of {name_label(PurePath(of).name)}" if isinstance(of, str) else f"entropy {of:g}"


def _forked(parent: str, placement: Placement, step: int) -> str:
    return f"{name_label(parent)} → {placement_label(placement)} at {step:,}"


def _settings(rest: str, said: Sequence[str] = ()) -> list[str]:
    """The settings in what follows the specifier of a name, except those that are said already."""
    return [_setting(key, value) for key, value in _SETTING.findall(rest) if key not in said]


def _setting(key: str, value: str) -> str:
    return f"entropy of {name_label(value)}" if key == "entropy" else escape(f"{key} {value}")
