"""The frequencies that the network computes with."""

from collections.abc import Mapping

from transformer_lens import HookedTransformer

from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Value


def frozen_key_frequencies(seen: Observation) -> tuple[int, ...]:
    """The key frequencies of the last checkpoint, or those that the caller has set; empty if not sparse.

    A probe that calls this needs the hook points of `key_frequency_hooks`, and sets `reads_final`.
    """
    raise NotImplementedError


def key_frequency_hooks(model: HookedTransformer) -> tuple[str, ...]:
    """Hook points whose activations at `=` the key frequencies are found in."""
    return tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers))


def _compute(seen: Observation) -> Mapping[str, Value]:
    return {}


PROBE = Probe(
    name="key_frequencies",
    title="The frequencies that the network computes with",
    source="",
    seconds=0.0,
    quantities={},
    compute=_compute,
)
