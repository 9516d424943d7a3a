"""Progress measures: restricted, excluded and trigonometric loss."""

from collections.abc import Mapping

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Value


def _compute(seen: Observation) -> Mapping[str, Value]:
    return {}


PROBE = Probe(
    name="progress",
    title="Progress measures: restricted, excluded and trigonometric loss",
    source="",
    seconds=0.0,
    quantities={},
    compute=_compute,
)
