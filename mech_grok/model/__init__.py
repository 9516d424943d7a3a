"""The model and its weights: everything that touches TransformerLens' classes."""

from mech_grok.model.adopt import adopt
from mech_grok.model.reference import import_reference
from mech_grok.model.transformer import GrokTransformer

__all__ = ["GrokTransformer", "adopt", "import_reference"]
