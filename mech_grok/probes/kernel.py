"""Drift and alignment of the neural tangent kernel: whether the features move, and towards what.

A kernel that stays as it was at initialisation means training in the lazy regime; one that moves means that
features are learnt. Drift is measured twice: with its scale, as arXiv 2602.06702 does, where it follows
mostly the growth of the weights, and without.
"""

import math
from typing import NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.ntk import Output, ntk
from mech_grok.probes.ntk_parameters import unknown_parameters
from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Labels, Probe, Quantity
from mech_grok.task import Task

N_PAIRS = 256
"""How many training pairs the probe's kernels have."""

_OUTPUTS: tuple[Output, ...] = get_args(Output)


def relative_drift(kernel: Float[Tensor, "n n"], initial: Float[Tensor, "n n"]) -> float:
    """`||K - K_0||_F / ||K_0||_F`, in float64; nan where K_0 is zero.

    It depends on the scale of the kernel, and so on that of the weights (arXiv 2602.06702).
    """
    change, length = (kernel.double() - initial.double()).norm(), initial.double().norm()
    return float(change / length) if length > 0 else math.nan


def kernel_alignment(one: Float[Tensor, "n n"], other: Float[Tensor, "n n"]) -> float:
    """`<K, L>_F / (||K||_F ||L||_F)`, in float64; nan where either is zero."""
    x, y = one.double(), other.double()
    lengths = x.norm() * y.norm()
    return float((x * y).sum() / lengths) if lengths > 0 else math.nan


def label_kernel(answers: Int[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """`Y Y^T` of one-hot answers Y: 1 for two examples with one answer, else 0."""
    return (answers[:, None] == answers).double()


def centred(kernel: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """`H K H` with `H = I - 1 1^T / n`: the kernel of features less their mean, in float64."""
    k = kernel.double()
    return k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()


def label_alignment(kernel: Float[Tensor, "n n"], answers: Int[Tensor, " n"]) -> float:
    """Alignment of a kernel with `label_kernel`, as in Kumar et al. (arXiv 2310.06110), for many classes.

    They print the formula for one output, not centred, and call it centred; `centred_label_alignment` is.
    """
    return kernel_alignment(kernel, label_kernel(answers))


def centred_label_alignment(kernel: Float[Tensor, "n n"], answers: Int[Tensor, " n"]) -> float:
    """Alignment of a kernel with `label_kernel`, both centred; nan where all answers are one."""
    target = centred(label_kernel(answers))
    return kernel_alignment(centred(kernel), target) if len(answers.unique()) > 1 else math.nan


def kernel_drift(
    initial: HookedTransformer, model: HookedTransformer, tokens: Int[Tensor, "n 3"], output: Output = "sum"
) -> float:
    """`relative_drift` of the kernels of two models on any inputs, such as all training pairs.

    `mech_grok.probes.ntk.ntk` gives the kernels themselves, for the other functions here.
    """
    return relative_drift(ntk(model, tokens, output), ntk(initial, tokens, output))


class Kernels(NamedTuple):
    """The kernels of the sum of all logits and of the trace over them, [n, n], on the same pairs."""

    sum: Tensor
    trace: Tensor


def kernels(seen: Observation) -> Kernels | None:
    """Both kernels on the first `N_PAIRS` training pairs, in the order of the split.

    None without training pairs, or where a trained parameter is of a kind that `ntk` does not know.
    """
    tokens = seen.tokens[seen.indices("train")[:N_PAIRS]]
    if len(tokens) == 0 or unknown_parameters(seen.model):
        return None
    return Kernels(*(ntk(seen.model, tokens, output) for output in _OUTPUTS))


def _compute(seen: Observation) -> dict[str, float | np.ndarray]:
    now = kernels(seen)
    if now is None:
        nothing = np.full(len(_OUTPUTS), math.nan)
        return {name: nothing if q.dims else math.nan for name, q in PROBE.quantities.items()}
    initial = seen.at_initial(kernels) or Kernels(*(torch.full_like(k, math.nan) for k in now))
    pairs = list(zip(now, initial, strict=True))
    answers = seen.answers[seen.indices("train")[:N_PAIRS]]
    return {
        "ntk_norm": np.array([float(k.double().norm()) for k in now]),
        "ntk_drift": np.array([relative_drift(k, k_0) for k, k_0 in pairs]),
        "ntk_alignment_drift": np.array([1 - kernel_alignment(k, k_0) for k, k_0 in pairs]),
        "ntk_label_alignment": label_alignment(now.trace, answers),
        "ntk_label_alignment_centred": centred_label_alignment(now.trace, answers),
    }


def _coordinates(model: HookedTransformer, task: Task) -> dict[str, Labels]:
    return {"ntk_output": _OUTPUTS}


_KERNELS = (
    f"K is the exact empirical tangent kernel of the logits at '=' over all classes and all trained "
    f"parameters, on the first {N_PAIRS} training pairs (fewer where there are fewer), in the model's dtype; "
    "'sum' is that of the sum of all logits, which no loss depends on and which is C h h^T, of the features "
    "h that the unembedding reads, once the unembedding's columns add up to zero; 'trace' is the sum over "
    "classes of each logit's kernel."
)
_NO_KERNEL = (
    "there are no training pairs, or parameters of an adopted model of a kind not known to the kernel"
)
_NO_INITIAL = f"the first checkpoint is not known, or its kernel is zero; {_NO_KERNEL}"
_K_0 = (
    "K_0 that of the first checkpoint (the untrained model's, or, of a run that began from a checkpoint of "
    "another one, that of what it began with)"
)
_KUMAR = "arXiv 2310.06110"
_LABELS = (
    "for the trace kernel; T_ij is 1 where two pairs have one answer, else 0. On training pairs: a second "
    "kernel, on test pairs, on which the paper measures it, would take as long again. "
)

PROBE = Probe(
    name="kernel",
    title="Drift and alignment of the neural tangent kernel",
    source="arXiv 2602.06702",
    seconds=0.8,
    quantities={
        "ntk_norm": Quantity(
            ("ntk_output",),
            "length of the tangent kernel",
            "1",
            f"||K||_F. {_KERNELS}",
            nan=_NO_KERNEL,
        ),
        "ntk_drift": Quantity(
            ("ntk_output",),
            "drift of the tangent kernel",
            "1",
            f"||K - K_0||_F / ||K_0||_F, with {_K_0}; grows with the weights. {_KERNELS}",
            nan=_NO_INITIAL,
        ),
        "ntk_alignment_drift": Quantity(
            ("ntk_output",),
            "drift of the tangent kernel's direction",
            "1",
            f"1 - <K, K_0> / (||K||_F ||K_0||_F), with {_K_0}; blind to the kernel's scale. {_KERNELS}",
            nan=_NO_INITIAL,
        ),
        "ntk_label_alignment": Quantity(
            (),
            "alignment of the tangent kernel with the answers",
            "1",
            f"<K, T> / (||K||_F ||T||_F), not centred, {_LABELS}{_KERNELS}",
            source=_KUMAR,
            nan=f"the kernel is zero; {_NO_KERNEL}",
        ),
        "ntk_label_alignment_centred": Quantity(
            (),
            "alignment of the tangent kernel with the answers, centred",
            "1",
            f"<HKH, HTH> / (||HKH||_F ||HTH||_F) with H = I - 1 1^T / n, {_LABELS}{_KERNELS}",
            source=_KUMAR,
            nan=f"the kernel is constant, or all pairs have one answer; {_NO_KERNEL}",
        ),
    },
    compute=_compute,
    coordinates=_coordinates,
)
