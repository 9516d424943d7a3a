"""One transformer block whose q, k, v and MLP inputs each pass through a norm of their own."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.components import Attention, TransformerBlock
from transformer_lens.config import HookedTransformerConfig
from transformer_lens.utilities import repeat_along_head_dimension

from mech_grok.model.norm_sites import BlockSites, NormSite, qk_site
from mech_grok.model.norms import Affine, Norm, OwnNorm

RESIDUAL_NORMS = ("norm_attn_out", "norm_resid_mid", "norm_mlp_out", "norm_resid_post")
"""Modules of a block that hold a norm on no pathway, or an identity."""


class GrokAttention(Attention):
    """TransformerLens' attention; its norms on queries and keys get the four hook points of every norm.

    Attributes:
        score_factor: [head], what each head's scores are multiplied by before `hook_attn_scores`; not
            trained. None where the model has no such factors.
    """

    score_factor: nn.Parameter | None

    def __init__(self, cfg: HookedTransformerConfig, layer: int, factors: Sequence[float] | None = None):
        super().__init__(cfg, "global", layer)
        given = None if factors is None else torch.tensor(factors, dtype=cfg.dtype)
        self.score_factor = None if given is None else nn.Parameter(given, requires_grad=False)
        if cfg.use_qk_norm:
            self.q_norm = OwnNorm(qk_site("q_norm"), cfg.d_head, cfg.dtype)  # pyright: ignore[reportAttributeAccessIssue]
            self.k_norm = OwnNorm(qk_site("k_norm"), cfg.d_head, cfg.dtype)  # pyright: ignore[reportAttributeAccessIssue]

    def _apply_qk_norm(self, x: Tensor, norm_module: nn.Module) -> Tensor:
        # The stock method flattens batch, position and head before the norm, and with them the hooks' shapes.
        return norm_module(x)

    def calculate_attention_scores(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        """Query times key over the root of the head's width, times the head's factor."""
        scores = super().calculate_attention_scores(q, k)
        return scores if self.score_factor is None else scores * self.score_factor[:, None, None]


class GrokBlock(TransformerBlock):
    """A TransformerLens block with `norm_q`, `norm_k`, `norm_v`, `norm_mlp`, each with its own hook points.

    The stock block calls one `ln1` three times, so that its hooks fire three times and a cache keeps the
    last call only. Shared affines are stored once, as `ln1.w/b` and `ln2.w/b`.
    """

    norm_q: Norm
    norm_k: Norm
    norm_v: Norm
    norm_mlp: Norm
    norm_attn_out: nn.Module
    norm_resid_mid: nn.Module
    norm_mlp_out: nn.Module
    norm_resid_post: nn.Module

    def __init__(self, cfg: HookedTransformerConfig, layer: int, sites: BlockSites):
        super().__init__(cfg, layer)
        self.sites = sites
        for key, with_bias in sites.affines.items():
            if not key.startswith("norm_"):
                setattr(self, key, Affine(cfg.d_model, with_bias, cfg.dtype))
        for pathway, site in sites.pathways.items():
            setattr(self, f"norm_{pathway}", self._norm(site, cfg.d_model, cfg.dtype))
        for name in RESIDUAL_NORMS:
            site = sites.residual.get(name)
            setattr(self, name, self._norm(site, cfg.d_model, cfg.dtype) if site else nn.Identity())

    def _norm(self, site: NormSite, width: int, dtype: torch.dtype) -> Norm:
        if site.affine is None:
            return Norm(site)
        if site.affine.startswith("norm_"):
            return OwnNorm(site, width, dtype)
        return Norm(site, getattr(self, site.affine))

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: Tensor | None = None,
        past_kv_cache_entry: object = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after the block; the other arguments are the stock ones and must be None."""
        if any(x is not None for x in (shortformer_pos_embed, past_kv_cache_entry, attention_mask)):
            raise ValueError("GrokBlock takes no shortformer embedding, key-value cache or attention mask")
        resid_pre = self.hook_resid_pre(resid_pre)
        q, k, v = self._attention_inputs(resid_pre)
        attn_out = self.attn(query_input=self.norm_q(q), key_input=self.norm_k(k), value_input=self.norm_v(v))
        attn_out = self.hook_attn_out(self.norm_attn_out(attn_out))
        resid_mid = self.hook_resid_mid(self.norm_resid_mid(resid_pre + attn_out))
        mlp_in = self.hook_mlp_in(resid_mid.clone()) if self.cfg.use_hook_mlp_in else resid_mid
        mlp_out = self.hook_mlp_out(self.norm_mlp_out(self.mlp(self.norm_mlp(mlp_in))))
        return self.hook_resid_post(self.norm_resid_post(resid_mid + mlp_out))

    def _attention_inputs(self, resid_pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What q, k and v read, with TransformerLens' optional per-head copies and their hooks."""
        if self.cfg.use_split_qkv_input:
            copies = repeat_along_head_dimension(resid_pre, n_heads=self.cfg.n_heads)
            return self.hook_q_input(copies), self.hook_k_input(copies), self.hook_v_input(copies)
        if self.cfg.use_attn_in:
            resid_pre = self.hook_attn_in(repeat_along_head_dimension(resid_pre, n_heads=self.cfg.n_heads))
        return resid_pre, resid_pre, resid_pre
