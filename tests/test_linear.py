"""The products of the training step, in the dtype that it trains in."""

import pytest
import torch
from torch import Tensor

from mech_grok.training import linear as module
from mech_grok.training.linear import linear, relu_mlp

SHAPES = [(227, 128, 128), (160, 128, 512), (160, 512, 128), (160, 128, 114), (1, 3, 5)]


def operands(shape: tuple[int, int, int], dtype: torch.dtype, seeds: int = 1) -> list[Tensor]:
    n, i, o = shape
    generator = torch.Generator().manual_seed(n + i + o)
    sizes = ((seeds, n, i), (seeds, i, o), (seeds, o), (seeds, n, o))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in sizes]


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output and gradients with respect to x, weight and bias, in float64."""
    x, weight, bias, gradient = (t.double() for t in (x, weight, bias, gradient))
    return [
        torch.einsum("sni,sio->sno", x, weight) + bias[:, None],
        torch.einsum("sno,sio->sni", gradient, weight),
        torch.einsum("sni,sno->sio", x, gradient),
        gradient.sum(1),
    ]


def output_and_gradients(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = linear(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


def assert_exact_to_rounding(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, exact in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_one_float32_seed_is_exact_to_rounding(shape: tuple[int, int, int]) -> None:
    given = operands(shape, torch.float32)
    assert_exact_to_rounding(output_and_gradients(*given), by_hand(*given))


def test_stacked_seeds_in_float64() -> None:
    given = operands((9, 4, 6), torch.float64, seeds=3)
    for actual, exact in zip(output_and_gradients(*given), by_hand(*given), strict=True):
        torch.testing.assert_close(actual, exact)


@pytest.mark.parametrize(("seeds", "dtype"), [(1, torch.float32), (1, torch.float64), (2, torch.float32)])
def test_mlp_is_two_layers_with_the_positive_part_between(seeds: int, dtype: torch.dtype) -> None:
    x, w_in, b_in, _ = operands((160, 16, 64), dtype, seeds)
    _, w_out, b_out, gradient = operands((160, 64, 16), dtype, seeds)
    leaves = [t.clone().requires_grad_() for t in (x, w_in, b_in, w_out, b_out)]
    y = relu_mlp(*leaves)
    actual = [y.detach(), *torch.autograd.grad(y, leaves, gradient)]
    exact = [t.double().requires_grad_() for t in (x, w_in, b_in, w_out, b_out)]
    z = (exact[0] @ exact[1] + exact[2][:, None]).clamp_min(0) @ exact[3] + exact[4][:, None]
    expected = [z.detach(), *torch.autograd.grad(z, exact, gradient.double())]
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def test_gradients_that_are_slices_are_as_exact() -> None:
    x, weight, bias, gradient = operands((227, 128, 128), torch.float32)
    wider = torch.cat([torch.zeros(1, 227, 4), gradient], dim=2)[..., 4:]
    assert not wider.is_contiguous()
    sliced = output_and_gradients(x, weight, bias, wider)
    for one, other in zip(sliced, output_and_gradients(x, weight, bias, gradient), strict=True):
        assert torch.equal(one, other)


def test_without_bias_and_twice_the_same_bits() -> None:
    x, weight, _, _ = operands((160, 128, 512), torch.float32)
    first = linear(x, weight)
    torch.testing.assert_close(first, x @ weight, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(linear(x, weight), first) for _ in range(5))


def test_without_onednn_the_stock_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands((160, 128, 114), torch.float32)
    monkeypatch.setattr(module, "_has_onednn", lambda: False)
    assert_exact_to_rounding(output_and_gradients(*given), by_hand(*given))


def test_onednn_is_what_runs_where_it_is_there() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    x, weight, _, _ = operands((160, 128, 114), torch.float32)
    assert "OneDnn" in type(linear(x.requires_grad_(), weight).grad_fn).__name__
