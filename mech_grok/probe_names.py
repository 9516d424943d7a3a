"""The probes by name, in the order of their families; each is a module of `mech_grok.probes`.

Here, since importing the probes themselves takes seconds.
"""

import difflib
from collections.abc import Collection

from mech_grok.errors import UserError

PROBE_NAMES = (
    "attention",
    "attention_map",
    "pathway_scale",
    "fourier",
    "key_frequencies",
    "embedding_circles",
    "neurons",
    "fourier2d",
    "attribution",
    "logit_lens",
    "shortcut",
    "scale_sensitivity",
    "progress",
    "compressibility",
    "dynamics",
    "kernel",
    "circuit",
    "stability",
)


def check_probe(name: str, known: Collection[str] = PROBE_NAMES) -> None:
    """Refuse a name that no probe has.

    Raises:
        UserError: the message gives the nearest one.
    """
    if name not in known:
        raise UserError(unknown_probe(name, known))


def unknown_probe(name: str, known: Collection[str] = PROBE_NAMES) -> str:
    """What is said of a name that no probe has."""
    (near,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown probe '{name}'; did you mean '{near}'? allowed: {', '.join(known)}"
