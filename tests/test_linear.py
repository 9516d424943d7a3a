"""The products of the training step, in the dtype that it trains in."""

import pytest
import torch
from torch import Tensor

from mech_grok.training import linear as module
from mech_grok.training.linear import linear

SHAPES = [(227, 128, 128), (160, 128, 512), (160, 512, 128), (160, 128, 114), (1, 3, 5)]


def operands(shape: tuple[int, int, int], dtype: torch.dtype, seeds: int = 1) -> list[Tensor]:
    n, i, o = shape
    generator = torch.Generator().manual_seed(n + i + o)
    sizes = ((seeds, n, i), (seeds, i, o), (seeds, o), (seeds, n, o))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in sizes]


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, relu: bool) -> list[Tensor]:
    """Output and gradients with respect to x, weight and bias, in float64."""
    x, weight, bias, gradient = (t.double() for t in (x, weight, bias, gradient))
    y = torch.einsum("sni,sio->sno", x, weight) + bias[:, None]
    passed = gradient * (y > 0) if relu else gradient
    return [
        y.clamp_min(0) if relu else y,
        torch.einsum("sno,sio->sni", passed, weight),
        torch.einsum("sni,sno->sio", x, passed),
        passed.sum(1),
    ]


def output_and_gradients(
    x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, relu: bool
) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = linear(*leaves, relu=relu)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relu", [False, True])
def test_one_float32_seed_is_exact_to_rounding(shape: tuple[int, int, int], relu: bool) -> None:
    given = operands(shape, torch.float32)
    expected = by_hand(*given, relu)
    for actual, exact in zip(output_and_gradients(*given, relu), expected, strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("relu", [False, True])
def test_stacked_seeds_in_float64(relu: bool) -> None:
    given = operands((9, 4, 6), torch.float64, seeds=3)
    for actual, exact in zip(output_and_gradients(*given, relu), by_hand(*given, relu), strict=True):
        torch.testing.assert_close(actual, exact)


def test_gradients_that_are_slices_are_as_exact() -> None:
    x, weight, bias, gradient = operands((227, 128, 128), torch.float32)
    wider = torch.cat([torch.zeros(1, 227, 4), gradient], dim=2)[..., 4:]
    assert not wider.is_contiguous()
    sliced = output_and_gradients(x, weight, bias, wider, relu=False)
    for one, other in zip(sliced, output_and_gradients(x, weight, bias, gradient, relu=False), strict=True):
        assert torch.equal(one, other)


def test_without_bias_and_twice_the_same_bits() -> None:
    x, weight, _, _ = operands((160, 128, 512), torch.float32)
    first = linear(x, weight)
    torch.testing.assert_close(first, x @ weight, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(linear(x, weight), first) for _ in range(5))


def test_without_onednn_the_stock_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands((160, 128, 114), torch.float32)
    fast = output_and_gradients(*given, relu=True)
    monkeypatch.setattr(module, "_has_onednn", lambda: False)
    for one, other in zip(fast, output_and_gradients(*given, relu=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
