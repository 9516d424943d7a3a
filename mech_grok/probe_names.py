"""What is to be known of the probes without importing them, which takes seconds."""

import difflib
from collections.abc import Collection, Mapping

from mech_grok.errors import UserError

READS_FINAL: Mapping[str, bool] = {
    "attention": False,
    "attention_map": False,
    "pathway_scale": False,
    "fourier": False,
    "key_frequencies": True,
    "neurons": True,
    "fourier2d": False,
    "attribution": False,
    "logit_lens": False,
    "shortcut": False,
    "scale_sensitivity": False,
    "progress": True,
    "compressibility": False,
    "dynamics": False,
    "kernel": False,
    "circuit": True,
    "stability": False,
}
"""Every probe -> whether it reads something of the last checkpoint: `Probe.reads_final`."""


def check_probe(name: str, known: Collection[str] = READS_FINAL.keys()) -> None:
    """Refuse a name that no probe has.

    Raises:
        UserError: the message gives the nearest one.
    """
    if name not in known:
        (near,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise UserError(f"unknown probe '{name}'; did you mean '{near}'? allowed: {', '.join(known)}")
