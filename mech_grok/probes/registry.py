"""The probes by name."""

import difflib

from mech_grok.errors import UserError
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
    if name not in PROBES:
        (near,) = difflib.get_close_matches(name, PROBES, n=1, cutoff=0.0)
        raise UserError(f"unknown probe '{name}'; did you mean '{near}'? allowed: {', '.join(PROBES)}")
    return PROBES[name]
