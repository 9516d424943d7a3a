"""Attention over the three positions of a pair, with its gradient written out.

A batched product gets a matrix of three positions by d_head for every pair and head, and spends its time on
the calls. Here each step is one operation over all pairs; the sum over the dimensions of a head is a product
with ones and zeros.

Shape suffixes: s seed, n pair, q query, k key, h head, e d_head.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def attend(q_snqhe: Tensor, k_snkhe: Tensor, v_snkhe: Tensor) -> Tensor:
    """The values weighted by the softmax over keys of `q . k`: [s, n, q, h, e]. No mask, no scale."""
    return _Attend.apply(q_snqhe[:, :, :, None], k_snkhe[:, :, None], v_snkhe[:, :, None])


class _Attend(torch.autograd.Function):
    """On [s, n, q, k, h, e], where queries have one key and keys and values one query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = _over_head(q * k)
        exponentials = scores.sub_(scores.amax(3, keepdim=True)).exp_()
        weights = exponentials.div_(exponentials.sum(3, keepdim=True))
        ctx.save_for_backward(q, k, v, weights)
        return _sum_of_products(weights.unbind(3), v.unbind(3))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, weights = ctx.saved_tensors
        gradient = gradients[0].unsqueeze(3)
        to_weights = _over_head(gradient * v)
        to_scores = to_weights.sub_((weights * to_weights).sum(3, keepdim=True)).mul_(weights)
        to_q = _sum_of_products(to_scores.unbind(3), k.unbind(3))
        to_k = _sum_of_products(to_scores.unbind(2), q.unbind(2))
        to_v = _sum_of_products(weights.unbind(2), gradient.unbind(2))
        return to_q.unsqueeze(3), to_k.unsqueeze(2), to_v.unsqueeze(2)


def _over_head(x_snqkhe: Tensor) -> Tensor:
    """The sum over e, which keeps its dimension."""
    n_heads, d_head = x_snqkhe.shape[-2:]
    heads = torch.eye(n_heads, dtype=x_snqkhe.dtype, device=x_snqkhe.device)
    return (x_snqkhe.flatten(-2) @ heads.repeat_interleave(d_head, 0)).unsqueeze(-1)


def _sum_of_products(these: Iterable[Tensor], those: Iterable[Tensor]) -> Tensor:
    """The sum of the products of pairs, which broadcast."""
    (a, b), *others = zip(these, those, strict=True)
    total = a * b
    for a, b in others:
        total.addcmul_(a, b)
    return total
