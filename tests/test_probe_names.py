"""The list of probes that needs no import is that of the registry."""

from mech_grok.probe_names import READS_FINAL
from mech_grok.probes import PROBES


def test_the_list_is_the_registry() -> None:
    assert list(READS_FINAL.items()) == [(name, probe.reads_final) for name, probe in PROBES.items()]
