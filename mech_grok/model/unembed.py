"""The unembedding: final norm, W_U, readout scale."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.components import Embed, Unembed
from transformer_lens.config import HookedTransformerConfig


class GrokUnembed(Unembed):
    """`hook_out = readout_scale * final_norm(residual) W_U`; `W_U` itself stays raw.

    TransformerLens applies `ln_final` only where `normalization_type` is set, so it is applied here,
    before `hook_in`. `loss_scale` is what the loss multiplies the logits by, 1 unless the model's readout
    scale is applied there.
    """

    def __init__(self, cfg: HookedTransformerConfig, readout_scale: float, final_norm: nn.Module | None):
        super().__init__(cfg)
        self.readout_scale = readout_scale
        self.loss_scale = 1.0
        # In a tuple, so that the norm stays registered at the model, as `ln_final`.
        self._final_norm = (final_norm,)

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm before the unembedding, or None."""
        return self._final_norm[0]

    def forward(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab_out"]:
        final_norm = self.final_norm
        # The transpose made contiguous, as in the stock module, so that logits are equal to the last bit.
        residual = self.hook_in(residual if final_norm is None else final_norm(residual))
        return self.hook_out(self.readout_scale * F.linear(residual, self.W_U.T.contiguous(), self.b_U))


class TiedUnembed(GrokUnembed):
    """`GrokUnembed` that reads the transpose of the embedding as its W_U, which is stored once."""

    def __init__(
        self,
        cfg: HookedTransformerConfig,
        readout_scale: float,
        final_norm: nn.Module | None,
        embed: Embed,
    ):
        super().__init__(cfg, readout_scale, final_norm)
        del self._parameters["W_U"]
        self._embed = (embed,)

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:  # noqa: N802 # pyright: ignore[reportIncompatibleVariableOverride]
        return self._embed[0].W_E.T
