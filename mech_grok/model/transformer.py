"""`GrokTransformer`: a `HookedTransformer` with normalisation on chosen pathways."""

import warnings

import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.config import HookedTransformerConfig

from mech_grok.config import ModelConfig
from mech_grok.model.block import GrokAttention, GrokBlock
from mech_grok.model.initialise import initialise
from mech_grok.model.mlp import GatedMLP
from mech_grok.model.norm_sites import block_sites, final_site, key_only_affine
from mech_grok.model.norms import OwnNorm
from mech_grok.model.unembed import GrokUnembed, TiedUnembed

_ZERO_BIASES = frozenset({"b_Q", "b_K", "b_V", "b_O", "b_U"})
"""TransformerLens' biases that the architecture does not have: zero, frozen, never counted."""


class GrokTransformer(HookedTransformer):
    """The paper's transformer, as a real `HookedTransformer`.

    Reads the tokens `a b =` ([batch, 3], ids 0..p) and gives logits [batch, 3, p + 1]; only the last
    position is trained. Attention is bidirectional. Besides the stock hook points of a model without
    normalisation, every block has `norm_q`, `norm_k`, `norm_v`, `norm_mlp` with `hook_in`, `hook_scale`
    (the divisor, 1 where not normalised), `hook_normalized` and `hook_out`, in every placement.

    TransformerLens' own logit attribution (`cache.logit_attrs`) knows neither norms on the residual stream
    (`post`, `peri`, `ln_final`) nor the readout scale; `mech_grok.probes.residual.decompose_residual` does.

    Args:
        config: size, placement and initialisation.
        p: the modulus; token p is `=`.
        seed: of the initial weights.
        dtype: of parameters and activations.
        device: where the parameters live; Apple's `mps` is refused, since it computes silently wrong
            results for some of the operations (TransformerLens issue 1178).
    """

    def __init__(
        self,
        config: ModelConfig,
        p: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ):
        if torch.device(device).type == "mps":
            raise ValueError("device 'mps' can give silently wrong results; use 'cpu' or 'cuda'")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
            super().__init__(_hooked_config(config, p, dtype, device))
        self.config = config
        for layer in range(config.n_layers):
            self.blocks[layer] = self._block(layer)
        self._build_readout()
        self._freeze()
        initialise(self, config, seed)
        torch.nn.Module.to(self, device)  # TransformerLens' own `to` prints
        self.setup()

    def _block(self, layer: int) -> GrokBlock:
        block = GrokBlock(self.cfg, layer, block_sites(self.config))
        factors = self.config.attention_factors
        block.attn = GrokAttention(self.cfg, layer, factors[layer] if factors else None)
        if self.config.gated_mlp:
            block.mlp = GatedMLP(self.cfg)
        return block

    def _build_readout(self) -> None:
        site = final_site(self.config)
        final_norm = OwnNorm(site, self.config.d_model, self.cfg.dtype) if site else None
        if final_norm is not None:
            self.ln_final = final_norm
        scale = 1.0 if self.config.scale_in_loss else self.config.readout_scale
        self.unembed = (
            TiedUnembed(self.cfg, scale, final_norm, self.embed)
            if self.config.tied_unembed
            else GrokUnembed(self.cfg, scale, final_norm)
        )
        self.unembed.loss_scale = self.config.loss_scale

    def _freeze(self) -> None:
        key_only = key_only_affine(self.config)
        for name, parameter in self.named_parameters():
            owner, _, leaf = name.rpartition(".")
            frozen = leaf in (*_ZERO_BIASES, "score_factor") or (
                leaf in ("w", "b")
                and (
                    self.config.freeze_norm_affine
                    or (owner == "ln_final" and self.config.final_norm == "frozen")
                    or (leaf == "b" and owner.rpartition(".")[2] == key_only)
                )
            )
            parameter.requires_grad_(not frozen)

    def trained_parameters(self) -> dict[str, Tensor]:
        """Name -> parameter of everything that training changes, which is all that norms and decay count."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def frozen_parameters(self) -> dict[str, Tensor]:
        """Name -> parameter of frozen norm affines and attention factors.

        TransformerLens' zero biases are not listed.
        """
        return {
            n: p
            for n, p in self.named_parameters()
            if not p.requires_grad and n.rpartition(".")[2] not in _ZERO_BIASES
        }


def _hooked_config(config: ModelConfig, p: int, dtype: torch.dtype, device: str) -> HookedTransformerConfig:
    return HookedTransformerConfig(
        model_name="mech_grok",
        n_layers=config.n_layers,
        n_ctx=3,
        d_model=config.d_model,
        d_head=config.d_head,
        n_heads=config.n_heads,
        d_mlp=config.d_mlp,
        d_vocab=p + 1,
        d_vocab_out=p + 1,
        act_fn="silu" if config.gated_mlp else config.activation,
        gated_mlp=config.gated_mlp,
        attention_dir="bidirectional",
        normalization_type=None,
        use_qk_norm=config.qk_norm,
        tie_word_embeddings=config.tied_unembed,
        init_weights=False,
        dtype=dtype,
        device=device,
    )
