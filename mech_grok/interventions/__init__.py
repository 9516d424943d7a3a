"""Changes to the forward pass on chosen pathways, and what they cost the model."""

from mech_grok.interventions.grid import PATHWAY_SETS, ablate
from mech_grok.interventions.hooks import bypass, insert

__all__ = ["PATHWAY_SETS", "ablate", "bypass", "insert"]
