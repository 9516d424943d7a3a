"""On a GPU, a step as one launch: its kernels are recorded once, as a CUDA graph, and replayed from then on.

A step of the paper's model is a few hundred kernels of some microseconds each, which take longer to launch
one by one than to run. A replay reads and writes the same memory as the recording did: what is computed must
depend on nothing but tensors that stay where they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Work = Callable[[], Sequence[Tensor]]

_WARM_UP = 3
"""Calls before the recording, in which libraries choose their kernels and take their memory."""


def captured(work: Work, device: torch.device) -> Work:
    """`work`, recorded and replayed where `device` is a GPU; elsewhere as it is."""
    return _Captured(work) if device.type == "cuda" else work


class _Captured:
    """Every call does the work once, the first ones kernel by kernel."""

    def __init__(self, work: Work):
        self._work, self._calls = work, 0
        self._graph = torch.cuda.CUDAGraph()
        self._results: Sequence[Tensor] = ()

    def __call__(self) -> list[Tensor]:
        self._calls += 1
        if self._calls <= _WARM_UP:
            return self._aside()
        if not self._results:
            with torch.cuda.graph(self._graph):  # which records, and does not compute
                self._results = self._work()
        self._graph.replay()
        return [result.clone() for result in self._results]  # the next replay overwrites them

    def _aside(self) -> list[Tensor]:
        """On a stream of its own, as what is recorded later must be."""
        stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results = self._work()
        here.wait_stream(stream)
        return list(results)
