"""The probes by name."""

from mech_grok.probe_names import check_probe
from mech_grok.probes import (
    attention,
    attention_map,
    attribution,
    circuit,
    compressibility,
    dynamics,
    fourier,
    fourier2d,
    kernel,
    key_frequencies,
    logit_lens,
    neurons,
    pathway_scale,
    progress,
    scale_sensitivity,
    shortcut,
    stability,
)
from mech_grok.probes.probe import Probe

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        attention.PROBE,
        attention_map.PROBE,
        pathway_scale.PROBE,
        fourier.PROBE,
        key_frequencies.PROBE,
        neurons.PROBE,
        fourier2d.PROBE,
        attribution.PROBE,
        logit_lens.PROBE,
        shortcut.PROBE,
        scale_sensitivity.PROBE,
        progress.PROBE,
        compressibility.PROBE,
        dynamics.PROBE,
        kernel.PROBE,
        circuit.PROBE,
        stability.PROBE,
    )
}
"""Every probe by name."""


def find_probe(name: str) -> Probe:
    """The probe of this name.

    Raises:
        UserError: there is none; the message gives the nearest one.
    """
    check_probe(name, PROBES)
    return PROBES[name]
