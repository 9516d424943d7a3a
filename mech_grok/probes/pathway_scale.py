"""How long the input of every pathway is, and what it is divided by."""

from collections.abc import Mapping

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Value


def _compute(seen: Observation) -> Mapping[str, Value]:
    return {}


PROBE = Probe(
    name="pathway_scale",
    title="How long the input of every pathway is, and what it is divided by",
    source="",
    seconds=0.0,
    quantities={},
    compute=_compute,
)
