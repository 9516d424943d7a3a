"""Attention's mix of the values of a, b and `=`, gathered from tables, with its gradient written out.

Autograd would pad the gradient of every slice with zeros and add the pieces up, which costs more than the mix
itself.

Shape suffixes: s seed, n pair, r table row, h head, e d_head, v h * e.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mix(scores_srh: Tensor, values_srv: Tensor, rows_2sn: Tensor) -> Tensor:
    """For each pair the values of a, b and `=`, weighted by the softmax of their scores: [s, n, v].

    Args:
        scores_srh: of the query at `=` against every table row; the last row is that of `=`.
        values_srv: of every table row, those of all heads side by side.
        rows_2sn: table rows of each pair's a and b, counted through the rows of all seeds.
    """
    return _Mix.apply(scores_srh, values_srv, rows_2sn)


class _Mix(torch.autograd.Function):
    """Weights [key, s, n, h] are of the keys a, b and `=` in that order.

    They add up to 1, so only values less those of `=` are weighted and then added to these; and only such
    differences matter to the scores.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, values: Tensor, rows: Tensor) -> Tensor:
        of_equals = values[:, -1:]
        flat_scores, flat_values = scores.flatten(0, 1), (values - of_equals).flatten(0, 1)
        scores_2snh, of_equals_1s1h = F.embedding(rows, flat_scores), scores[None, :, -1:]
        weights = torch.cat([scores_2snh, of_equals_1s1h.expand_as(scores_2snh[:1])]).softmax(0)
        heads = (scores.shape[-1], -1)
        of_a, of_b = of_keys = F.embedding(rows, flat_values).unflatten(-1, heads)
        on_a, on_b, _ = weights[..., None]
        ctx.n_rows = scores.shape[1]
        ctx.save_for_backward(weights, of_keys, rows)
        mixed = torch.addcmul(of_equals.unflatten(-1, heads), on_a, of_a)
        return mixed.addcmul_(on_b, of_b).flatten(-2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, of_keys, rows = ctx.saved_tensors
        g_snhe = gradients[0].unflatten(-1, (weights.shape[-1], -1))
        to_scores = weights.new_zeros(weights.shape)  # which relative to that of `=` are zero for `=`
        torch.mul((g_snhe * of_keys).sum(-1), weights[:2], out=to_scores[:2])
        to_scores.addcmul_(weights, to_scores.sum(0), value=-1)
        to_values = (weights[..., None] * g_snhe).flatten(-2)
        return *(_table_gradient(x, rows, ctx.n_rows) for x in (to_scores, to_values)), None


def _table_gradient(to_keys: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """What keys [key, s, n, w] pass back to the rows [s, r, w] of a table; `=` has the last one of each seed.

    Args:
        to_keys: their gradient.
        rows: of a and b [2, s, n], counted through those of all seeds.
        n_rows: of a seed.
    """
    seeds, width = to_keys.shape[1], to_keys.shape[-1]
    to_rows = to_keys.new_zeros(seeds * n_rows, width)
    to_rows.index_add_(0, rows.flatten(), to_keys[:2].flatten(0, 2))
    to_table_srw = to_rows.view(seeds, n_rows, width)
    to_table_srw[:, -1].add_(to_keys[2].sum(1))
    return to_table_srw
