"""Quantities of a model at one checkpoint: one file per family, one pure function per quantity."""

from mech_grok.probes.measure import measure
from mech_grok.probes.observation import Anchor, Anchors
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.probes.probe_model import probe
from mech_grok.probes.reference_entropy import reference_attention_entropy
from mech_grok.probes.registry import PROBES, find_probe

__all__ = [
    "PROBES",
    "Anchor",
    "Anchors",
    "Probe",
    "Quantity",
    "find_probe",
    "measure",
    "probe",
    "reference_attention_entropy",
]
