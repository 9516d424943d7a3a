"""Changes to the forward pass on chosen pathways, and what they cost the model."""

from mech_grok.interventions.grid import PATHWAY_SETS, ablate
from mech_grok.interventions.norm_changes import affine_only, bypass, freeze_scale, insert, unit
from mech_grok.interventions.patching import patching
from mech_grok.interventions.patching_components import Component, default_components
from mech_grok.interventions.patching_hooks import patch
from mech_grok.interventions.replacements import mean, resample, zero
from mech_grok.interventions.scaling import scale
from mech_grok.interventions.temperature import temperature, temperature_for_entropy

__all__ = [
    "PATHWAY_SETS",
    "Component",
    "ablate",
    "affine_only",
    "bypass",
    "default_components",
    "freeze_scale",
    "insert",
    "mean",
    "patch",
    "patching",
    "resample",
    "scale",
    "temperature",
    "temperature_for_entropy",
    "unit",
    "zero",
]
