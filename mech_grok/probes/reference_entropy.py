"""The attention entropy of the paper's own measurement snippet, as one call."""

from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mech_grok.errors import UserError
from mech_grok.model.block import GrokBlock
from mech_grok.model.transformer import GrokTransformer


@torch.no_grad()
def reference_attention_entropy(
    model: GrokTransformer, tokens: Int[Tensor, "n 3"], eps: float = 1e-12
) -> float:
    """The number (nats) that the README of github.com/jaisidhsingh/layernorm-grok shows how to measure.

    Entropy of the last block's attention weights, averaged over heads before the entropy is taken, then
    over all three queries and the examples, in the model's own precision. No block ever updates the
    residual stream there, so the last one reads the embeddings at any depth; `entropy_headavg_allrows` of
    the probe `attention` is the same for one layer and is that of every block as it runs for more.

    Args:
        model: `run.model(seed, step)`, or `import_reference(state_dict, config)`; left as it was.
        tokens: `run.tokens("train", seed)`.
        eps: from below to which every weight is clamped, both inside and outside the log. The snippet
            takes it from a config that the repository does not hold; up to 1e-8, it hardly matters.

    Raises:
        UserError: `post`, `peri` or `mlp-inpnorm`, for which the snippet has no branch and fails.
    """
    placement = model.config.placement
    if placement.arrangement != "pre":
        raise UserError(
            f"the reference's entropy snippet has no branch for '{placement}' and fails there; allowed: "
            "norms on any of q, k, v, mlp (the probe 'attention' measures every placement)"
        )
    weights = _last_pattern(model, tokens.to(model.W_E.device)).mean(1).clamp(min=eps)
    return float(-(weights * weights.log()).sum(-1).mean())


def _last_pattern(model: GrokTransformer, tokens: Int[Tensor, "n 3"]) -> Float[Tensor, "n head 3 3"]:
    """The attention pattern of the last block when it reads the embeddings."""
    x = model.embed(tokens) + model.pos_embed(tokens)
    block = cast(GrokBlock, model.blocks[-1])
    kept: list[Tensor] = []
    name = f"blocks.{model.cfg.n_layers - 1}.attn.hook_pattern"
    with model.hooks(fwd_hooks=[(name, partial(_keep, kept=kept))]):
        block.attn(query_input=block.norm_q(x), key_input=block.norm_k(x), value_input=block.norm_v(x))
    return kept[0]


def _keep(pattern: Tensor, hook: HookPoint, *, kept: list[Tensor]) -> None:
    kept.append(pattern)
