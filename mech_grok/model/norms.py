"""Norm modules with hook points on everything they compute."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mech_grok.model.norm_sites import NormSite, centre_and_divisor

READ = "hook_in"
"""Key in the context of `hook_out` under which a running norm keeps its input, for hooks that rewrite."""


class HasAffine(nn.Module):
    """Whatever stores a gain `w` and, for LayerNorm, a bias `b` (None for RMSNorm)."""

    w: nn.Parameter
    b: nn.Parameter | None


class Affine(HasAffine):
    """A gain `w`, and for LayerNorm a bias `b`, stored once for all the norms that read it."""

    def __init__(self, width: int, with_bias: bool, dtype: torch.dtype):
        super().__init__()
        self.w = nn.Parameter(torch.ones(width, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(width, dtype=dtype)) if with_bias else None


class Norm(nn.Module):
    """Centre, divide, scale and shift, each step behind a hook point; identity where `site.kind` is None.

    Hook points: `hook_in` [..., d], `hook_scale` [..., 1] (the divisor), `hook_normalized` [..., d]
    (before the affine), `hook_out` [..., d].

    Attributes:
        notes: what interventions noted down during the last pass, for single heads to read after it.
    """

    def __init__(self, site: NormSite, affine: HasAffine | None = None):
        super().__init__()
        self.site = site
        self.notes: list[Any] = []
        # In a tuple, so that shared parameters are registered under their owner's key only.
        self._affine = (affine,)
        self.hook_in = HookPoint()
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()
        self.hook_out = HookPoint()

    @property
    def affine(self) -> HasAffine | None:
        """Gain and bias that this norm applies, or None."""
        return self._affine[0]

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        self.notes.clear()
        return self.steps(x, lambda point, value: point(value))

    def steps(
        self, x: Float[Tensor, "*batch d"], at: Callable[[HookPoint, Tensor], Tensor]
    ) -> Float[Tensor, "*batch d"]:
        """What the norm computes if `at` is what happens at each hook point."""
        x = at(self.hook_in, x)
        centred, divisor = centre_and_divisor(x, self.site)
        normalized = at(self.hook_normalized, centred / at(self.hook_scale, divisor))
        self.hook_out.ctx[READ] = x
        out = at(self.hook_out, apply_affine(normalized, self.affine))
        del self.hook_out.ctx[READ]
        return out


class OwnNorm(Norm, HasAffine):
    """A norm that stores its affine itself, under its own key: `ln_final.w`, `attn.q_norm.w`, `norm_q.w`."""

    def __init__(self, site: NormSite, width: int, dtype: torch.dtype):
        super().__init__(site)
        own = Affine(width, with_bias=site.kind == "ln", dtype=dtype)
        self.w, self.b = own.w, own.b
        self._affine = (self,)


def apply_affine(x: Float[Tensor, "*batch d"], affine: HasAffine | None) -> Float[Tensor, "*batch d"]:
    """`x * w + b`, or x itself without an affine."""
    if affine is None:
        return x
    return x * affine.w if affine.b is None else x * affine.w + affine.b
