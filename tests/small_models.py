"""Small models that the tests share, and the space of model configs."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.placement import Placement, all_placements

P, D = 7, 16
TOKENS = torch.tensor([[a, b, P] for a in range(P) for b in range(P)])

configs = st.builds(
    ModelConfig,
    placement=st.sampled_from(all_placements()),
    norm=st.sampled_from(["ln", "rms"]),
    qk_norm=st.booleans(),
    shared_affine=st.booleans(),
    freeze_norm_affine=st.booleans(),
    final_norm=st.sampled_from(["off", "on", "frozen"]),
    n_layers=st.integers(1, 2),
    activation=st.sampled_from(["relu", "swiglu"]),
    tied_unembed=st.booleans(),
    readout_scale=st.sampled_from([1.0, 0.5]),
    n_heads=st.sampled_from([1, 2, 4]),
    d_model=st.just(D),
)
some = settings(max_examples=12, deadline=None)


def build(
    placement: str = "off", *, seed: int = 0, random_affines: bool = True, **settings
) -> GrokTransformer:
    """A small float64 model; gains and biases are drawn too, so that a norm that skips its affine shows."""
    config = ModelConfig(placement=Placement.parse(placement), **{"d_model": D, "n_heads": 2} | settings)
    model = GrokTransformer(config, P, seed, torch.float64)
    return draw_affines(model) if random_affines else model


@torch.no_grad()
def draw_affines(model: GrokTransformer) -> GrokTransformer:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("w", "b", "b_in", "b_out", "b_gate"):
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


@torch.no_grad()
def run(model: HookedTransformer, tokens: Tensor = TOKENS) -> Tensor:
    return model(tokens)
