"""What a CUDA graph does, on a CPU: operations are recorded with their memory, and replayed on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kernel = Callable[[], None]


class RecordedKernels:
    """Stands in for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []

    def replay(self) -> None:
        """Do again what was recorded, from what its memory holds now, into the same memory."""
        with torch.no_grad():
            for kernel in self.kernels:
                kernel()


class _Recorder(TorchDispatchMode):
    """What is recorded is computed as well, to have results to point at."""

    def __init__(self, into: RecordedKernels):
        super().__init__()
        self._kernels = into.kernels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host looks at a number while kernels are recorded")
        if func._schema.is_mutable:
            self._kernels.append(lambda: func(*args, **kwargs))
        elif not func.is_view:
            self._kernels.append(lambda: _again(func, args, kwargs, results))
        return results


def _again(func: Any, args: Any, kwargs: Any, results: Any) -> None:
    for old, new in zip(tree_leaves(results), tree_leaves(func(*args, **kwargs)), strict=True):
        if isinstance(old, Tensor):
            old.detach().copy_(new)


def stand_in_for_cuda(monkeypatch: pytest.MonkeyPatch, *changed: Tensor) -> None:
    """Have CUDA graphs record operations on the CPU; `changed` is what the recorded work changes."""

    @contextmanager
    def graph(kernels: RecordedKernels) -> Iterator[None]:
        before = [x.clone() for x in changed]
        with _Recorder(kernels):
            yield
        for x, was in zip(changed, before, strict=True):
            x.copy_(was)

    class Stream:
        def wait_stream(self, other: "Stream") -> None:
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedKernels)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
