"""Where each head looks from `=`, pair by pair."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mech_grok.probes.attention import OVERFLOW, attention_weights, pattern_hooks
from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Quantity


def attention_maps(
    patterns: Float[Tensor, "layer pairs head key"], p: int
) -> Float[Tensor, "layer head key a b"]:
    """The weights of `=` as maps over (a, b), from all p^2 pairs in lexicographic order."""
    return rearrange(patterns, "layer (a b) head key -> layer head key a b", a=p, b=p)


def _compute(seen: Observation) -> dict[str, Tensor]:
    rows = attention_weights(torch.stack([seen.at_equals[name] for name in pattern_hooks(seen.model)]))
    maps = attention_maps(rows, seen.task.p)
    return {
        "attention_map": maps,
        "attention_by_a": maps.double().mean(-1),
        "attention_by_b": maps.double().mean(-2),
    }


PROBE = Probe(
    name="attention_map",
    title="Where each head looks from `=`, pair by pair",
    source="arXiv 2301.05217",
    seconds=0.001,
    quantities={
        "attention_map": Quantity(
            ("layer", "head", "key", "a", "b"),
            "attention weight from =",
            "1",
            "Attention weight from '=' to key after the softmax, for each pair (a, b).",
            nan=OVERFLOW,
            dtype="float32",
        ),
        "attention_by_a": Quantity(
            ("layer", "head", "key", "a"),
            "attention weight from =, by a",
            "1",
            "Attention weight from '=' to key after the softmax for each a, mean over all p values of b.",
            nan=OVERFLOW,
        ),
        "attention_by_b": Quantity(
            ("layer", "head", "key", "b"),
            "attention weight from =, by b",
            "1",
            "Attention weight from '=' to key after the softmax for each b, mean over all p values of a.",
            nan=OVERFLOW,
        ),
    },
    compute=_compute,
    at_equals=pattern_hooks,
)
