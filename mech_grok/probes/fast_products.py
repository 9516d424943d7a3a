"""The hooked model's large products in oneDNN, while probes look at it."""

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mech_grok.training.linear import onednn_takes, product


class FastProducts(TorchFunctionMode):
    """Inside, `F.linear` and `torch.addmm` without gradient take oneDNN's products where those are faster.

    The same numbers to rounding (see `mech_grok.training.linear`), at half the time of a forward pass.
    """

    @no_type_check  # called for every operation of torch: checking its types would cost more than they do
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (F.linear, torch.addmm) and not kwargs and not torch.is_grad_enabled():
            bias, x, weight = args if func is torch.addmm else (_third(args), args[0], args[1].t())
            if _is_large(x) and onednn_takes(x) and (bias is None or bias.ndim == 1):
                return product(x.contiguous(), weight, bias)
        return func(*args, **(kwargs or {}))


def _third(args: tuple[Any, ...]) -> Tensor | None:
    return args[2] if len(args) > 2 else None


def _is_large(x: Tensor) -> bool:
    """Whether there are enough rows that the start of a oneDNN kernel does not matter."""
    return x.ndim >= 2 and x[..., 0].numel() >= 64
