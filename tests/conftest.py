"""Shapes are checked at run time here, and only here."""

import torch
from jaxtyping import install_import_hook

install_import_hook("mech_grok", "beartype.beartype")
torch.set_num_threads(2)
