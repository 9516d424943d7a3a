"""Affine maps over a stack of seeds, on the fastest exact matrix product there is.

On a CPU, torch's float32 products go to MKL, which does not use the widest instructions of processors other
than Intel's. oneDNN, which torch ships as well, compiles its kernels for the processor it finds: on an AMD
EPYC its products take less than half the time. Both are exact to rounding, and repeat bit for bit.

Shape suffixes: s seed, n row, i input, o output.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor


def linear(x_sni: Tensor, weight_sio: Tensor, bias_so: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """`x W + b`, each seed with its own; with `relu`, its positive part."""
    if len(x_sni) == 1 and onednn_takes(x_sni):
        bias_o = None if bias_so is None else bias_so[0]
        return _OneDnnLinear.apply(x_sni[0], weight_sio[0], bias_o, relu)[None]
    y_sno = x_sni @ weight_sio if bias_so is None else torch.baddbmm(bias_so[:, None], x_sni, weight_sio)
    return y_sno.relu() if relu else y_sno


def onednn_takes(x: Tensor) -> bool:
    """Whether oneDNN has the product for a tensor's device and dtype."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn()


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _OneDnnLinear(torch.autograd.Function):
    """oneDNN's linear layer, with the positive part fused into it, and its gradient in oneDNN's products."""

    @staticmethod
    def forward(ctx: Any, x_ni: Tensor, weight_io: Tensor, bias_o: Tensor | None, relu: bool) -> Tensor:
        y_no = product(x_ni, weight_io, bias_o, "relu" if relu else "none")
        ctx.save_for_backward(x_ni, weight_io, y_no if relu else None)
        ctx.has_bias = bias_o is not None
        return y_no

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g_no = gradients[0].contiguous()  # of a slice oneDNN takes a thousand times longer
        x_ni, weight_io, y_no = ctx.saved_tensors
        if y_no is not None:
            g_no = torch.ops.aten.threshold_backward(g_no, y_no, 0)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            product(g_no, weight_io.t()) if needs_x else None,
            weight_gradient(x_ni, g_no) if needs_weight else None,
            g_no.sum(0) if needs_bias and ctx.has_bias else None,
            None,
        )


def weight_gradient(x_ni: Tensor, g_no: Tensor) -> Tensor:
    """`x^T g`, computed with its longer side as columns, which is faster by a fifth."""
    if g_no.shape[1] >= x_ni.shape[1]:
        return product(x_ni.t(), g_no)
    return product(g_no.t(), x_ni).t()


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """`a b + bias`; oneDNN takes the second factor transposed, in any layout."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, activation, [], "")
