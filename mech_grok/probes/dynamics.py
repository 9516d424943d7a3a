"""Norms of weights and gradients by component."""

from collections.abc import Mapping

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Value


def _compute(seen: Observation) -> Mapping[str, Value]:
    return {}


PROBE = Probe(
    name="dynamics",
    title="Norms of weights and gradients by component",
    source="",
    seconds=0.0,
    quantities={},
    compute=_compute,
)
