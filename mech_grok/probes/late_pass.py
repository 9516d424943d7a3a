"""Forward passes that change something late, without computing again what no change reaches.

A full pass over all pairs projects the keys and values of 3 p^2 positions, though in the first block they
depend on one token each. All functions call the model's own modules, so that hooks on what they compute fire
and replaced activations count.
"""

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.model.block import GrokBlock
from mech_grok.probes.observation import Hooks, Observation, logits_under

_PAIRS = 1024
"""Pairs at a time, so few that activations stay in the processor's cache."""


def resid_mid(model: HookedTransformer) -> str:
    """Hook point of the residual stream before the last MLP; `logits_of_mlp_change` needs it at `=`."""
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_mid"


def logits_of_mlp_change(seen: Observation, hooks: Hooks) -> Float[Tensor, "n classes"]:
    """`logits_under` hooks on MLPs, their norms and what comes after; attention runs again at depth > 1."""
    model = seen.model
    if model.cfg.n_layers > 1:
        return logits_under(model, seen.tokens, hooks)
    with model.hooks(fwd_hooks=list(hooks)):
        return _from_resid_mid(model, seen.at_equals[resid_mid(model)].split(_PAIRS))


def logits_of_norm_change(seen: Observation, hooks: Hooks) -> Float[Tensor, "n classes"]:
    """`logits_under` hooks on any norms of the blocks, which run once for each token if it has one block."""
    model, cfg = seen.model, seen.model.cfg
    # A causal mask expects as many queries as keys.
    causal = cfg.attention_dir == "causal"
    if cfg.n_layers > 1 or causal or cfg.use_split_qkv_input or cfg.use_attn_in:
        return logits_under(model, seen.tokens, hooks)
    with model.hooks(fwd_hooks=list(hooks)):
        return _from_resid_mid(model, _resid_mid_of_tokens(model, seen.tokens))


def read_out(model: HookedTransformer, stream: Float[Tensor, "n d_model"]) -> Float[Tensor, "n classes"]:
    """Logits of what the last block's sum is, through the norm on it, the final norm and the unembedding."""
    block = cast(GrokBlock, model.blocks[-1])
    return torch.cat([model.unembed(block.norm_resid_post(x[:, None]))[:, 0] for x in stream.split(_PAIRS)])


def _from_resid_mid(
    model: HookedTransformer, batches: Iterable[Float[Tensor, "_ d_model"]]
) -> Float[Tensor, "n classes"]:
    block = cast(GrokBlock, model.blocks[-1])

    def mlp_out(x: Tensor) -> Tensor:
        return block.norm_mlp_out(block.mlp(block.norm_mlp(x[:, None])))[:, 0]

    return torch.cat([read_out(model, x + mlp_out(x)) for x in batches])


def _resid_mid_of_tokens(
    model: HookedTransformer, tokens: Int[Tensor, "n 3"]
) -> Iterable[Float[Tensor, "_ d_model"]]:
    """The residual stream before the first MLP at `=`, in batches.

    Queries, keys, values and scores are those of every token at every position; each pair then picks its own.
    """
    block = cast(GrokBlock, model.blocks[0])
    every_token = torch.arange(model.cfg.d_vocab, device=tokens.device)[:, None].expand(-1, 3)
    stream = model.embed(every_token) + model.pos_embed(every_token)
    rows, equals = stream.flatten(0, 1)[None], stream[-1:, -1:]
    inputs = (block.norm_q(equals), block.norm_k(rows), block.norm_v(rows))
    for batch in tokens.split(_PAIRS):
        own = 3 * batch + torch.arange(3, device=batch.device)
        hooks: Hooks = [
            ("blocks.0.attn.hook_attn_scores", partial(_pick_scores, rows=own)),
            ("blocks.0.attn.hook_v", partial(_pick_values, rows=own)),
        ]
        with model.hooks(fwd_hooks=list(hooks)):
            attn_out = block.norm_attn_out(block.attn(*inputs))
        yield block.norm_resid_mid(equals + attn_out)[:, 0]


def _pick_scores(
    scores: Float[Tensor, "1 head 1 row"], hook: HookPoint, *, rows: Int[Tensor, "n 3"]
) -> Float[Tensor, "n head 1 3"]:
    return scores[0].movedim(-1, 0)[rows].movedim(1, -1)


def _pick_values(
    values: Float[Tensor, "1 row head d_head"], hook: HookPoint, *, rows: Int[Tensor, "n 3"]
) -> Float[Tensor, "n 3 head d_head"]:
    return values[0][rows]
