"""Quantities of a model at one checkpoint: one file per family, one pure function per quantity."""

from mech_grok.probes.measure import PROBES, find_probe, measure
from mech_grok.probes.probe import Probe

__all__ = ["PROBES", "Probe", "find_probe", "measure"]
