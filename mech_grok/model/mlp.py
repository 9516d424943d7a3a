"""The gated MLP of the paper's code, which TransformerLens' own gated MLP cannot express."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.components.mlps.can_be_used_as_mlp import CanBeUsedAsMLP
from transformer_lens.config import HookedTransformerConfig
from transformer_lens.hook_points import HookPoint


class GatedMLP(CanBeUsedAsMLP):
    """`(silu(x W_gate + b_gate) * (x W_in + b_in)) W_out + b_out`, with TransformerLens' names.

    TransformerLens adds `b_in` after the product and has no `b_gate`. Hook points as there: `hook_pre`
    (the gate before silu), `hook_pre_linear`, `hook_post` (the product), each [batch, pos, d_mlp].
    """

    def __init__(self, cfg: HookedTransformerConfig):
        super().__init__(cfg)
        self.select_activation_function()
        d, m, dtype = cfg.d_model, self.d_mlp, cfg.dtype
        self.W_gate = nn.Parameter(torch.empty(d, m, dtype=dtype))
        self.b_gate = nn.Parameter(torch.zeros(m, dtype=dtype))
        self.W_in = nn.Parameter(torch.empty(d, m, dtype=dtype))
        self.b_in = nn.Parameter(torch.zeros(m, dtype=dtype))
        self.W_out = nn.Parameter(torch.empty(m, d, dtype=dtype))
        self.b_out = nn.Parameter(torch.zeros(d, dtype=dtype))
        self.hook_pre = HookPoint()
        self.hook_pre_linear = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        gate = self.hook_pre(F.linear(x, self.W_gate.T, self.b_gate))
        linear = self.hook_pre_linear(F.linear(x, self.W_in.T, self.b_in))
        return F.linear(self.hook_post(self.act_fn(gate) * linear), self.W_out.T, self.b_out)
