"""A probe's name is that of its module, so that the list of names is all there is to register."""

from mech_grok.probe_names import PROBE_NAMES
from mech_grok.probes import PROBES


def test_every_probe_is_named_as_its_module() -> None:
    assert tuple(probe.name for probe in PROBES.values()) == PROBE_NAMES
