"""The probes by name."""

import importlib

from mech_grok.probe_names import PROBE_NAMES, check_probe
from mech_grok.probes.probe import Probe

PROBES: dict[str, Probe] = {
    name: importlib.import_module(f"mech_grok.probes.{name}").PROBE for name in PROBE_NAMES
}
"""Every probe by name: the `PROBE` of the module of that name."""


def find_probe(name: str) -> Probe:
    """The probe of this name.

    Raises:
        UserError: there is none; the message gives the nearest one.
    """
    check_probe(name, PROBES)
    return PROBES[name]
