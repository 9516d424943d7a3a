"""Shapes are checked at run time here, and only here."""

import torch
from jaxtyping import install_import_hook

install_import_hook("mech_grok", "beartype.beartype")

# One thread: the tests' matrices are small, and threads that wait for each other are slow on a busy machine.
torch.set_num_threads(1)
