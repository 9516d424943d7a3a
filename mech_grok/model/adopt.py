"""Any HookedTransformer that reads `a b =`, with this project's hook points."""

import copy
from dataclasses import replace

import torch
from torch import nn
from transformer_lens import HookedTransformer
from transformer_lens.components import TransformerBlock
from transformer_lens.config import HookedTransformerConfig

from mech_grok.errors import UserError
from mech_grok.model.block import GrokBlock
from mech_grok.model.norm_sites import BlockSites, NormSite
from mech_grok.model.norms import Norm, OwnNorm
from mech_grok.model.unembed import GrokUnembed
from mech_grok.placement import PATHWAYS, Pathway

_KINDS = {None: None, "LN": "ln", "LNPre": "ln", "RMS": "rms", "RMSPre": "rms"}


def adopt(model: HookedTransformer) -> HookedTransformer:
    """The same function with the hook points of a `GrokTransformer`; the model itself if it has them.

    Attention, MLP and embeddings are copied as they are, replaced activation functions included; the norms
    before attention and MLP become `norm_q`, `norm_k`, `norm_v`, `norm_mlp` with their four hook points,
    and the norm before the unembedding moves into it. The given model is left as it was.

    Args:
        model: with at least three tokens of context, a vocabulary of p + 1 (the last one is `=`), and p or
            p + 1 logits; causal or not, with biases or without.

    Raises:
        UserError: a context, vocabulary or block that the probes cannot read.
    """
    if all(isinstance(block, GrokBlock) for block in model.blocks):
        return model
    _check(model.cfg)
    kind = _KINDS[model.cfg.normalization_type]
    folded = model.cfg.normalization_type in ("LNPre", "RMSPre")
    norm = NormSite(kind, model.cfg.eps, None if folded or kind is None else "ln")
    adopted = copy.deepcopy(model)
    adopted.cfg = copy.copy(model.cfg)
    adopted.cfg.normalization_type = None  # the stock forward pass would apply the final norm twice
    for layer, block in enumerate(adopted.blocks):
        adopted.blocks[layer] = _block(block, layer, adopted.cfg, norm)
    adopted.unembed = _unembed(adopted, norm)
    adopted.setup()
    return adopted


def _check(cfg: HookedTransformerConfig) -> None:
    problems = {
        f"a context of {cfg.n_ctx} tokens (`a b =` needs 3)": cfg.n_ctx < 3,
        f"{cfg.d_vocab_out} logits for {cfg.d_vocab} tokens": (
            cfg.d_vocab_out not in (cfg.d_vocab - 1, cfg.d_vocab)
        ),
        f"normalisation '{cfg.normalization_type}'": cfg.normalization_type not in _KINDS,
        f"positions of type '{cfg.positional_embedding_type}'": cfg.positional_embedding_type != "standard",
        "no MLP": cfg.attn_only,
        "attention and MLP in parallel": cfg.parallel_attn_mlp,
        "norms before and after each sublayer": cfg.use_normalization_before_and_after,
        "a norm on the embedding": cfg.post_embedding_ln,
        "soft-capped logits": cfg.output_logits_soft_cap > 0,
    }
    found = [problem for problem, there in problems.items() if there]
    if found:
        raise UserError(f"the probes cannot read a model with {', '.join(found)}")


def _block(stock: TransformerBlock, layer: int, cfg: HookedTransformerConfig, norm: NormSite) -> GrokBlock:
    keys: dict[Pathway, str] = {"q": "ln1", "k": "ln1", "v": "ln1", "mlp": "ln2"}
    sites: dict[Pathway, NormSite] = {x: replace(norm, affine=norm.affine and keys[x]) for x in PATHWAYS}
    block = GrokBlock(cfg, layer, BlockSites(sites, {}))
    block.attn, block.mlp = stock.attn, stock.mlp
    for key in block.sites.affines:
        _copy_affine(stock.get_submodule(key), block.get_submodule(key))
    return block


def _unembed(adopted: HookedTransformer, norm: NormSite) -> GrokUnembed:
    final_norm = None
    if norm.kind is not None:
        cfg, stock = adopted.cfg, adopted.ln_final
        has_affine = norm.affine is not None
        final_norm = OwnNorm(norm, cfg.d_model, cfg.dtype) if has_affine else Norm(norm)
        if has_affine:
            _copy_affine(stock, final_norm)
        adopted.ln_final = final_norm
    unembed = GrokUnembed(adopted.cfg, readout_scale=1.0, final_norm=final_norm)
    unembed.W_U, unembed.b_U = adopted.unembed.W_U, adopted.unembed.b_U
    return unembed


@torch.no_grad()
def _copy_affine(given: nn.Module, own: nn.Module) -> None:
    for name, parameter in own.named_parameters(recurse=False):
        parameter.copy_(given.get_parameter(name)).requires_grad_(given.get_parameter(name).requires_grad)
