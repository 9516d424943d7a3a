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

_FEW_ROWS, _NARROW = 1024, 128


def linear(x_sni: Tensor, weight_sio: Tensor, bias_so: Tensor | None = None) -> Tensor:
    """`x W + b`, each seed with its own."""
    if _is_one_for_onednn(x_sni):
        return _OneDnnLinear.apply(x_sni, weight_sio, bias_so)
    return x_sni @ weight_sio if bias_so is None else torch.baddbmm(bias_so[:, None], x_sni, weight_sio)


def relu_mlp(x_snd: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
    """`relu(x W_in + b_in) W_out + b_out`, each seed with its own."""
    if _is_one_for_onednn(x_snd):
        return _OneDnnReluMlp.apply(x_snd, w_in, b_in, w_out, b_out)
    return linear(linear(x_snd, w_in, b_in).relu(), w_out, b_out)


def _is_one_for_onednn(x_sni: Tensor) -> bool:
    return len(x_sni) == 1 and onednn_takes(x_sni)


def onednn_takes(x: Tensor) -> bool:
    """Whether oneDNN has the product for a tensor's device and dtype."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn()


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _OneDnnLinear(torch.autograd.Function):
    """Of the only seed of a stack, whose dimension goes and comes back where autograd does not see it."""

    @staticmethod
    def forward(ctx: Any, x_1ni: Tensor, weight_1io: Tensor, bias_1o: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_1ni, weight_1io)
        return product(x_1ni[0], weight_1io[0], None if bias_1o is None else bias_1o[0])[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g_no = gradients[0][0].contiguous()  # of a slice oneDNN takes a thousand times longer
        x_ni, weight_io = (x[0] for x in ctx.saved_tensors)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(g_no, weight_io.t())[None] if needs_x else None,
            weight_gradient(x_ni, g_no)[None] if needs_weight else None,
            g_no.sum(0, keepdim=True) if needs_bias else None,
        )


class _OneDnnReluMlp(torch.autograd.Function):
    """The same of an MLP: the positive part is taken inside the first product, and its gradient in place."""

    @staticmethod
    def forward(ctx: Any, x_1nd: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        post_nm = product(x_1nd[0], w_in[0], b_in[0], "relu")
        ctx.save_for_backward(x_1nd, w_in, post_nm, w_out)
        return product(post_nm, w_out[0], b_out[0])[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        g_nd = gradients[0][0].contiguous()
        x_1nd, w_in, post_nm, w_out = ctx.saved_tensors
        to_pre_nm = product(g_nd, w_out[0].t())
        torch.ops.aten.threshold_backward.grad_input(to_pre_nm, post_nm, 0, grad_input=to_pre_nm)
        return (
            product(to_pre_nm, w_in[0].t())[None],
            weight_gradient(x_1nd[0], to_pre_nm)[None],
            to_pre_nm.sum(0, keepdim=True),
            weight_gradient(post_nm, g_nd)[None],
            g_nd.sum(0, keepdim=True),
        )


def weight_gradient(x_ni: Tensor, g_no: Tensor) -> Tensor:
    """`x^T g`. oneDNN has to transpose one factor first, which only pays where the product is large."""
    (n, inputs), outputs = x_ni.shape, g_no.shape[1]
    if n <= _FEW_ROWS and max(inputs, outputs) <= _NARROW:
        return x_ni.t() @ g_no
    # With the longer side as columns it is faster by a fifth.
    return product(x_ni.t(), g_no) if outputs >= inputs else product(g_no.t(), x_ni).t()


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """`a b + bias`; oneDNN takes the second factor transposed, in any layout."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, activation, [], "")
