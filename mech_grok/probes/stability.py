"""Softmax collapse: how far the logits are apart, against how far apart floating point can tell.

Once the right logit leads by so much that the others' exponentials vanish in the sum, loss and gradient of
the example are exactly zero, and nothing is learned from it any more (arXiv 2501.04697).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.observation import LOGITS, SPLITS, Observation, passes
from mech_grok.probes.probe import Probe, Quantity

_DTYPES = {"": torch.float32, "_float64": torch.float64}


def collapsed(
    logits: Float[Tensor, "*batch classes"], loss_scale: float, dtype: torch.dtype
) -> Float[Tensor, "*batch"]:
    """1 where `sum_c exp(z_c - max z) == 1` exactly in `dtype`, z = loss_scale * logits; nan if not finite.

    One competitor vanishes from a lead of ln 2^24 = 16.636 on in float32 (36.74 in float64), and n of them
    that are equal from 16.636 + ln n on at the latest: where between the two depends on the order of
    summation. There is no other case in which the loss of a right answer is exactly 0.
    """
    z = loss_scale * logits.to(dtype)
    total = (z - z.amax(-1, keepdim=True)).exp_().sum(-1)
    return (total == 1).double().where(total.isfinite(), math.nan)


def answer_margin(
    logits: Float[Tensor, "*batch classes"], answers: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The right answer's logit less the largest other one; negative where the answer is wrong."""
    right = logits.gather(-1, answers[..., None])[..., 0]
    others = logits.scatter(-1, answers[..., None], -math.inf)
    return right.double() - others.amax(-1).double()


def top2_margin(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """Largest less second largest logit; 0 for a tie."""
    # As fast as one pass, where topk sorts.
    return answer_margin(logits, logits.argmax(-1))


def _compute(seen: Observation) -> dict[str, Tensor]:
    # In parts that stay in the processor's cache.
    parts = [_per_pair(seen, *part) for part in zip(passes(seen.logits), passes(seen.answers), strict=True)]
    per_pair = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    means = {name: seen.split_means(x) for name, x in per_pair.items() if name != "largest_logit"}
    return {
        **means,
        "top2_margin_min": _over_splits(seen, per_pair["top2_margin"], torch.amin),
        "answer_margin_min": _over_splits(seen, per_pair["answer_margin"], torch.amin),
        "largest_logit": _over_splits(seen, per_pair["largest_logit"], torch.amax),
    }


def _per_pair(
    seen: Observation, logits: Float[Tensor, "n classes"], answers: Int[Tensor, " n"]
) -> dict[str, Float[Tensor, " n"]]:
    scale, margin = seen.unembed.loss_scale, answer_margin(logits, answers)
    largest = logits.abs().amax(-1).double()
    collapse = {x: collapsed(logits, scale, dtype) for x, dtype in _DTYPES.items()}
    found = {
        **{f"softmax_collapse{x}": zero for x, zero in collapse.items()},
        **{f"zero_loss{x}": zero * (margin >= 0) for x, zero in collapse.items()},
        "top2_margin": scale * top2_margin(logits),
        "answer_margin": scale * margin,
        "largest_logit": scale * largest,
    }
    return {name: x.where(largest.isfinite(), math.nan) for name, x in found.items()}


def _over_splits(
    seen: Observation, per_pair: Float[Tensor, " n"], extreme: Callable[[Tensor, int], Tensor]
) -> Float[Tensor, " 3"]:
    """The extreme value in each split; nan in an empty one."""
    of_split = [per_pair[seen.indices(split)] for split in SPLITS]
    return torch.stack([extreme(x, 0) if len(x) else x.new_tensor(math.nan) for x in of_split])


def _logits_only(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS,)


_WHERE = "over all classes at '=', times the loss's scale"
_EMPTY = "the split is empty, or a logit is not finite"


def _collapse(name: str, dtype: str) -> dict[str, Quantity]:
    """The quantities of one floating-point format."""
    return {
        f"softmax_collapse{name}": Quantity(
            ("split",),
            f"softmax collapse in {dtype}",
            "1",
            "Share of the pairs of the split for which sum_c exp(z_c - max z) is exactly 1 in "
            f"{dtype}, z the model's own logits {_WHERE}; the paper's is of the training set in float32.",
            nan=_EMPTY,
        ),
        f"zero_loss{name}": Quantity(
            ("split",),
            f"share of losses that are 0 in {dtype}",
            "1",
            f"Share of the pairs of the split whose cross-entropy over all classes is exactly 0 in {dtype}: "
            "the softmax has collapsed, and onto the right answer.",
            nan=_EMPTY,
        ),
    }


def _margin(name: str, long_name: str, definition: str) -> dict[str, Quantity]:
    """A margin's mean and minimum."""
    return {
        name: Quantity(
            ("split",),
            long_name,
            "logits",
            f"{definition} {_WHERE}, mean over the pairs of the split.",
            nan=_EMPTY,
        ),
        f"{name}_min": Quantity(
            ("split",),
            f"smallest {long_name}",
            "logits",
            f"{definition} {_WHERE}, the smallest of the pairs of the split.",
            nan=_EMPTY,
        ),
    }


PROBE = Probe(
    name="stability",
    title="Softmax collapse, and the margins of the logits",
    source="arXiv 2501.04697",
    seconds=0.014,
    quantities={
        **_collapse("", "float32"),
        **_collapse("_float64", "float64"),
        **_margin("top2_margin", "top-2 margin", "The largest logit less the second largest"),
        **_margin(
            "answer_margin",
            "margin of the right answer",
            "The right answer's logit less the largest other one",
        ),
        "largest_logit": Quantity(
            ("split",),
            "largest logit",
            "logits",
            f"Largest absolute value of any logit of any pair of the split, {_WHERE}.",
            nan=_EMPTY,
        ),
    },
    compute=_compute,
    at_equals=_logits_only,
)
