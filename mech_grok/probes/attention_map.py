"""Where each head looks from `=`, pair by pair."""

from collections.abc import Mapping

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Value


def _compute(seen: Observation) -> Mapping[str, Value]:
    return {}


PROBE = Probe(
    name="attention_map",
    title="Where each head looks from `=`, pair by pair",
    source="",
    seconds=0.0,
    quantities={},
    compute=_compute,
)
