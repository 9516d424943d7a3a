"""Forward passes that change something late, without computing again what no change reaches.

A full pass over all pairs projects the keys and values of 3 p^2 positions, though in the first block they
depend on one token each. All functions call the model's own modules, so that hooks on what they compute fire
and replaced activations count.
"""

from collections.abc import Iterator
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
        return torch.cat([from_resid_mid(model, x) for x in seen.at_equals[resid_mid(model)].split(_PAIRS)])


def logits_of_norm_change(seen: Observation, hooks: Hooks) -> Float[Tensor, "n classes"]:
    """`logits_under` hooks on any norms of the blocks, which run once for each token if it has one block."""
    model = seen.model
    if not reads_one_token_each(model):
        return logits_under(model, seen.tokens, hooks)
    with model.hooks(fwd_hooks=list(hooks)):
        batches = resid_mid_of_tokens(model, seen.tokens)
        return torch.cat([from_resid_mid(model, x) for x in batches])


def reads_one_token_each(model: HookedTransformer) -> bool:
    """Whether `resid_mid_of_tokens` serves a model: its keys and values depend on one token each."""
    cfg = model.cfg
    causal = cfg.attention_dir == "causal"  # the mask expects as many queries as keys
    return cfg.n_layers == 1 and not (causal or cfg.use_split_qkv_input or cfg.use_attn_in)


def read_out(model: HookedTransformer, stream: Float[Tensor, "n d_model"]) -> Float[Tensor, "n classes"]:
    """Logits of what the last block's sum is, through the norm on it, the final norm and the unembedding."""
    block = cast(GrokBlock, model.blocks[-1])
    return torch.cat([model.unembed(block.norm_resid_post(x[:, None]))[:, 0] for x in stream.split(_PAIRS)])


def from_resid_mid(
    model: HookedTransformer,
    stream: Float[Tensor, "n d_model"],
    mlp_reads: Float[Tensor, "n d_model"] | None = None,
) -> Float[Tensor, "n classes"]:
    """Logits of the residual stream before the last MLP at `=`.

    Args:
        model: whose last MLP, norms and unembedding are run.
        stream: few rows at a time, so that activations stay in the processor's cache.
        mlp_reads: what the MLP reads in place of the norm of the stream.
    """
    block = cast(GrokBlock, model.blocks[-1])
    reads = block.norm_mlp(stream[:, None]) if mlp_reads is None else mlp_reads[:, None]
    return read_out(model, stream + block.norm_mlp_out(block.mlp(reads))[:, 0])


def resid_mid_of_tokens(
    model: HookedTransformer,
    tokens: Int[Tensor, "n 3"],
    keys_of: Int[Tensor, "n 3"] | None = None,
    values_of: Int[Tensor, "n 3"] | None = None,
) -> Iterator[Float[Tensor, "_ d_model"]]:
    """The residual stream before the first MLP at `=`, in batches.

    Queries, keys, values and scores are those of every token at every position, as the sequences `t t t`;
    each pair then picks its own. Norms and projections of keys and values carry [token, 3, ...], norms of
    queries [1, 3, d_model], and what comes after those the row of `=` alone.

    Args:
        model: one that `reads_one_token_each`.
        tokens: the pairs; all end in `=`.
        keys_of: other pairs, whose keys these read; None for their own.
        values_of: the same for values.
    """
    block = cast(GrokBlock, model.blocks[0])
    every_token = torch.arange(model.cfg.d_vocab, device=tokens.device)[:, None].expand(-1, 3)
    stream = model.embed(every_token) + model.pos_embed(every_token)
    equals = stream[-1:]
    queries = block.norm_q(equals)[:, -1:].expand(len(stream), -1, -1)
    inputs = (queries, block.norm_k(stream), block.norm_v(stream))
    of_keys, of_values = (tokens if x is None else x for x in (keys_of, values_of))
    for keys, values in zip(of_keys.split(_PAIRS), of_values.split(_PAIRS), strict=True):
        hooks: Hooks = [
            ("blocks.0.attn.hook_attn_scores", partial(_pick_scores, rows=_rows(keys))),
            ("blocks.0.attn.hook_v", partial(_pick_values, rows=_rows(values))),
        ]
        with model.hooks(fwd_hooks=list(hooks)):
            attn_out = block.norm_attn_out(block.attn(*inputs))
        yield block.norm_resid_mid(equals[:, -1:] + attn_out)[:, 0]


def _rows(tokens: Int[Tensor, "n 3"]) -> Int[Tensor, "n 3"]:
    """Rows of tokens in a table of every token at every position."""
    return 3 * tokens + torch.arange(3, device=tokens.device)


def _pick_scores(
    scores: Float[Tensor, "token head 1 3"], hook: HookPoint, *, rows: Int[Tensor, "n 3"]
) -> Float[Tensor, "n head 1 3"]:
    return scores.movedim(-1, 1).flatten(0, 1)[rows].movedim(1, -1)


def _pick_values(
    values: Float[Tensor, "token 3 head d_head"], hook: HookPoint, *, rows: Int[Tensor, "n 3"]
) -> Float[Tensor, "n 3 head d_head"]:
    return values.flatten(0, 1)[rows]
