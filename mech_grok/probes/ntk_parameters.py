"""Where a model reads each of its trained parameters, for the neural tangent kernel."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.model.block import GrokAttention
from mech_grok.model.norms import Norm
from mech_grok.probes.ntk_outer_products import Gram, Inputs, KeyInputs, TableRows

EMBEDDING = "hook_embed"
"""Hook point of the rows of the token table; the model adds those of the position table to it."""

_ATTENTION = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
_HEADS_IN_WIDTH = "c n slot head d -> n slot 1 (c head d)"
_MLP = ("W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out")

Seen = Mapping[str, Tensor]


@dataclass(frozen=True)
class Map:
    """Weight and bias of a linear map: their gradients are sums of outer products.

    Attributes:
        at: hook point of its output, whose gradient is the right side.
        left: inner products of the left sides.
        right: how that gradient, with the kernel's outputs first, becomes the right side.
    """

    at: str
    left: Gram
    right: str = "c n slot d -> n slot 1 (c d)"


@dataclass(frozen=True)
class Vector:
    """A gain or a bias: its gradient is a sum of vectors.

    Attributes:
        uses: hook point of what it is multiplied into or added to -> what it is multiplied with, or None.
    """

    uses: Mapping[str, Tensor | None]


def unknown_parameters(model: HookedTransformer) -> list[str]:
    """Trained parameters that the kernel does not know how to count: none in a `GrokTransformer`.

    In an adopted model: gains of its own norms on projected queries and keys, attention sinks, keys that
    heads share, norms inside an activation, experts, and whatever is stored under two names.
    """
    known = {"embed.W_E", "pos_embed.W_pos", "unembed.W_U", "unembed.b_U"}
    for layer in range(model.cfg.n_layers):
        known |= {f"blocks.{layer}.attn.{leaf}" for leaf in _ATTENTION}
        known |= {f"blocks.{layer}.mlp.{leaf}" for leaf in _MLP}
    affines = _affines(model)
    trained = {n: id(p) for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    owners = list(trained.values())
    return [n for n, key in trained.items() if owners.count(key) > 1 or not (n in known or key in affines)]


def is_trained(model: HookedTransformer, name: str) -> bool:
    """Whether the model has this parameter and does not keep it frozen."""
    owner, _, leaf = name.rpartition(".")
    parameter = dict(model.get_submodule(owner).named_parameters(recurse=False)).get(leaf)
    return parameter is not None and parameter.requires_grad


def maps(model: HookedTransformer, tokens: Int[Tensor, "n 3"], seen: Seen) -> list[Map]:
    """Every trained table and linear map before the unembedding.

    Args:
        model: whose parameters are all known.
        tokens: its inputs.
        seen: hook point -> activation for these inputs; positions that nothing reads may be left out.
    """
    blocks = [f"blocks.{layer}" for layer in range(model.cfg.n_layers)]
    found = [one for block in blocks for one in _attention(model, block, seen) + _mlp(model, block, seen)]
    tables = [is_trained(model, name) for name in ("embed.W_E", "pos_embed.W_pos")]
    if any(tables):
        found.append(Map(EMBEDDING, TableRows(tokens, *tables, dtype=seen[EMBEDDING].dtype)))
    return found


def vectors(model: HookedTransformer, seen: Seen) -> list[Vector]:
    """Every trained gain and bias that is no linear map's; an affine that several norms read is one."""
    found = [
        Vector({f"{n}.hook_out": seen[f"{n}.hook_normalized"] if leaf == "w" else None for n, leaf in uses})
        for uses in _affines(model).values()
    ]
    for layer in range(model.cfg.n_layers):
        mlp = f"blocks.{layer}.mlp"
        if _adds_after_the_gate(model, mlp) and is_trained(model, f"{mlp}.b_in"):
            found.append(Vector({f"{mlp}.hook_post": None}))
    return found


def _attention(model: HookedTransformer, block: str, seen: Seen) -> list[Map]:
    attn, read = f"{block}.attn", {x: _one_copy(seen[f"{block}.norm_{x}.hook_out"]) for x in "qkv"}
    z = seen[f"{attn}.hook_z"]
    queries, pattern = seen[f"{attn}.hook_q"].shape[1], seen[f"{attn}.hook_pattern"][:, :, -z.shape[1] :]
    # Attention is linear in the values: the map that gives them reads, for each head, what it attends to.
    attended = einsum(pattern, read["v"], "n head query key, n key d -> n query head d")
    attends = rearrange(pattern.sum(-1), "n head query -> n query head 1")
    out = _before_norm(model, f"{block}.norm_attn_out", f"{block}.hook_attn_out")
    per_head = "c n slot head d -> n slot head (c d)"
    return [
        *_linear(model, attn, "Q", f"{attn}.hook_q", read["q"][:, -queries:], right=_HEADS_IN_WIDTH),
        *_keys(model, attn, read["k"], seen),
        *_linear(model, attn, "V", f"{attn}.hook_z", attended, attends, right=per_head),
        *_linear(model, attn, "O", out, z.flatten(2)),
    ]


def _keys(model: HookedTransformer, attn: str, read: Tensor, seen: Seen) -> list[Map]:
    """The map that gives the keys, if possible by the gradient of the scores, which has fewer numbers.

    That takes a single query, and scores that are known to be its products with the keys, as they are in
    this project's attention without norms on the two.
    """
    module, query = model.get_submodule(attn), seen[f"{attn}.hook_q"]
    if query.shape[1] > 1 or not isinstance(module, GrokAttention) or module.cfg.use_qk_norm:
        return _linear(model, attn, "K", f"{attn}.hook_k", read, right=_HEADS_IN_WIDTH)
    if not is_trained(model, f"{attn}.W_K"):
        return []
    if module.score_factor is not None:
        query = query * module.score_factor[:, None]
    left = KeyInputs((read[:, :-1] - read[:, -1:])[:, :, None], query / module.attn_scale)
    return [Map(f"{attn}.hook_attn_scores", left, "c n head query key -> n key head (c query)")]


def _mlp(model: HookedTransformer, block: str, seen: Seen) -> list[Map]:
    mlp, read = f"{block}.mlp", seen[f"{block}.norm_mlp.hook_out"]
    gated = f"{mlp}.hook_pre_linear" in seen
    linear = f"{mlp}.hook_pre_linear" if gated else f"{mlp}.hook_pre"
    out = _before_norm(model, f"{block}.norm_mlp_out", f"{block}.hook_mlp_out")
    return [
        *_linear(model, mlp, "in", linear, read, has_bias=not _adds_after_the_gate(model, mlp)),
        *(_linear(model, mlp, "gate", f"{mlp}.hook_pre", read) if gated else []),
        *_linear(model, mlp, "out", out, seen[f"{mlp}.hook_post"]),
    ]


def _linear(
    model: HookedTransformer,
    owner: str,
    leaf: str,
    at: str,
    read: Tensor,
    ones: Tensor | None = None,
    right: str = Map.right,
    has_bias: bool = True,
) -> list[Map]:
    """The map `W_leaf` and its bias, if either is trained; `ones` is what the bias is multiplied with."""
    weight = is_trained(model, f"{owner}.W_{leaf}")
    bias = has_bias and is_trained(model, f"{owner}.b_{leaf}")
    x = read if read.ndim == 4 else read[:, :, None]
    ones = torch.ones_like(x[..., :1]) if ones is None else ones
    return [Map(at, Inputs(x, ones, weight, bias), right)] if weight or bias else []


def _one_copy(read: Tensor) -> Tensor:
    """One of TransformerLens' optional copies per head, which are equal."""
    return read[:, :, 0] if read.ndim == 4 else read


def _before_norm(model: HookedTransformer, norm: str, output: str) -> str:
    """Hook point of what a norm on a sublayer's output reads, or of the output where there is none."""
    return f"{norm}.hook_in" if isinstance(model.get_submodule(norm), Norm) else output


def _adds_after_the_gate(model: HookedTransformer, mlp: str) -> bool:
    """Whether the MLP is TransformerLens' gated one, which adds `b_in` to the product."""
    names = dict(model.get_submodule(mlp).named_parameters(recurse=False))
    return "W_gate" in names and "b_gate" not in names


def _affines(model: HookedTransformer) -> dict[int, list[tuple[str, str]]]:
    """Identity of each trained gain and bias of a norm -> the norms that read it, and `w` or `b`."""
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, module in model.named_modules():
        affine = module.affine if isinstance(module, Norm) else None
        for leaf, parameter in affine.named_parameters(recurse=False) if affine else ():
            if parameter.requires_grad:
                found[id(parameter)].append((name, leaf))
    return found
