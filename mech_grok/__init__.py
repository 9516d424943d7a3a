"""Mechanistic interpretability of grokking: train, probe, ablate and report on small transformers."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mech_grok.model import GrokTransformer
    from mech_grok.probes import probe, reference_attention_entropy
    from mech_grok.run import load_run
    from mech_grok.study_data import load_study

__all__ = ["GrokTransformer", "load_run", "load_study", "probe", "reference_attention_entropy"]

_HOME = {
    "GrokTransformer": "mech_grok.model",
    "load_run": "mech_grok.run",
    "load_study": "mech_grok.study_data",
    "probe": "mech_grok.probes",
    "reference_attention_entropy": "mech_grok.probes",
}


def __getattr__(name: str) -> object:
    # Torch and TransformerLens take seconds to import, so they wait until something is used.
    if name not in _HOME:
        raise AttributeError(f"module 'mech_grok' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
