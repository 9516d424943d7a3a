"""Attention's mix of the values of a, b and `=`, gathered from tables, with its gradient written out.

Autograd would pad the gradient of every slice with zeros and add the pieces up, which costs more than the mix
itself. Here each of the three weights and values is a tensor of its own from start to end.

Shape suffixes: s seed, n pair, r table row, h head, e d_head.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mix(scores_srh: Tensor, values_srhe: Tensor, rows_a_sn: Tensor, rows_b_sn: Tensor) -> Tensor:
    """For each pair the values of a, b and `=`, weighted by the softmax of their scores: [s, n, h, e].

    Args:
        scores_srh: of the query at `=` against every table row; the last row is that of `=`.
        values_srhe: of every table row.
        rows_a_sn: table row of each pair's a, counted through the rows of all seeds.
        rows_b_sn: table row of each pair's b.
    """
    return _Mix.apply(scores_srh, values_srhe, rows_a_sn, rows_b_sn)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, values: Tensor, rows_a: Tensor, rows_b: Tensor) -> Tensor:
        flat_scores, flat_values = scores.flatten(0, 1), values.flatten(0, 1).flatten(1)
        score_a, score_b = (F.embedding(rows, flat_scores) for rows in (rows_a, rows_b))
        weights = _softmax(score_a, score_b, scores[:, -1:])
        of_a, of_b = (
            F.embedding(rows, flat_values).unflatten(-1, values.shape[2:]) for rows in (rows_a, rows_b)
        )
        of_equals = values[:, -1:]
        on_a, on_b, on_equals = (w[..., None] for w in weights)
        ctx.n_rows = scores.shape[1]
        ctx.save_for_backward(*weights, of_a, of_b, of_equals, rows_a, rows_b)
        return (on_a * of_a).addcmul_(on_b, of_b).addcmul_(on_equals, of_equals)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g_snhe,) = gradients
        on_a, on_b, on_equals, of_a, of_b, of_equals, rows_a, rows_b = ctx.saved_tensors
        weights = (on_a, on_b, on_equals)
        to_weights = [(g_snhe * of).sum(-1) for of in (of_a, of_b, of_equals)]
        first, second, third = (w * g for w, g in zip(weights, to_weights, strict=True))
        mean = first + second + third
        to_scores = [w * (g - mean) for w, g in zip(weights, to_weights, strict=True)]
        to_a, to_b, to_equals = ((w[..., None] * g_snhe).flatten(2) for w in weights)
        rows, heads = (rows_a, rows_b), g_snhe.shape[2:]
        to_score_table = _table_gradient(to_scores[:2], to_scores[2].sum(1), rows, ctx.n_rows)
        to_value_table = _table_gradient((to_a, to_b), to_equals.sum(1), rows, ctx.n_rows)
        return to_score_table, to_value_table.unflatten(-1, heads), None, None


def _softmax(a_snh: Tensor, b_snh: Tensor, equals_s1h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The softmax over three scores, as three tensors."""
    highest = torch.maximum(torch.maximum(a_snh, b_snh), equals_s1h)
    exponentials = [(x - highest).exp_() for x in (a_snh, b_snh, equals_s1h)]
    total = exponentials[0] + exponentials[1] + exponentials[2]
    a, b, equals = (x.div_(total) for x in exponentials)
    return a, b, equals


def _table_gradient(
    to_pairs: Sequence[Tensor], to_equals_sw: Tensor, rows: Sequence[Tensor], n_rows: int
) -> Tensor:
    """What pairs pass back to the table rows that they were gathered from [s, r, w]; `=` has the last row."""
    seeds, width = to_equals_sw.shape
    to_rows = to_equals_sw.new_zeros(seeds * n_rows, width)
    for gradient, index in zip(to_pairs, rows, strict=True):
        to_rows.index_add_(0, index.flatten(), gradient.flatten(0, 1))
    to_table_srw = to_rows.unflatten(0, (seeds, n_rows))
    to_table_srw[:, -1] += to_equals_sw
    return to_table_srw
