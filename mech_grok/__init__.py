"""Mechanistic interpretability of grokking: train, probe, ablate and report on small transformers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mech_grok.model import GrokTransformer
    from mech_grok.run import load_run

__all__ = ["GrokTransformer", "load_run"]


def __getattr__(name: str) -> object:
    # Torch and TransformerLens take seconds to import, so they wait until something is used.
    if name == "load_run":
        from mech_grok.run import load_run

        return load_run
    if name == "GrokTransformer":
        from mech_grok.model import GrokTransformer

        return GrokTransformer
    raise AttributeError(f"module 'mech_grok' has no attribute {name!r}")
