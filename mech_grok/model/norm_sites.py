"""Every place of a block that can hold a norm, as values: what it computes and whose affine it reads.

The model is built from these, and the fast forward passes read the same values, so that a placement is
spelled out once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.placement import PATHWAYS, NormKind, Pathway

UNIT_EPS = 1e-12
"""Smallest divisor of the unit norm, as in `torch.nn.functional.normalize`."""


@dataclass(frozen=True)
class NormSite:
    """One norm: what it computes, and the key under the block of the affine that it reads.

    Attributes:
        kind: `ln`, `rms`, `unit` (division by the L2 norm) or None (identity).
        eps: added under the root; None for the dtype's own, which torch's RMSNorm takes when none is given.
        affine: key of gain and bias inside the block (`ln1`), or None where there is no affine.
    """

    kind: NormKind | Literal["unit"] | None = None
    eps: float | None = 0.0
    affine: str | None = None


def centre_and_divisor(
    x: Float[Tensor, "*batch d"], site: NormSite
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch 1"]]:
    """What a norm divides, and by what: `normalized = centred / divisor`."""
    if site.kind is None:
        return x, torch.ones_like(x[..., :1])
    if site.kind == "unit":
        return x, x.norm(dim=-1, keepdim=True).clamp_min(UNIT_EPS)
    if site.kind == "ln":
        x = x - x.mean(-1, keepdim=True)
    return x, (x.square().mean(-1, keepdim=True) + numeric_eps(site, x.dtype)).sqrt()


def standardise(x: Float[Tensor, "*batch d"], site: NormSite) -> Float[Tensor, "*batch d"]:
    """`centred / divisor` in one fused kernel, for the fast forward passes."""
    if site.kind is None:
        return x
    if site.kind == "unit":
        return F.normalize(x, dim=-1, eps=UNIT_EPS)
    norm = F.layer_norm if site.kind == "ln" else F.rms_norm
    return norm(x, x.shape[-1:], eps=numeric_eps(site, x.dtype))


def numeric_eps(site: NormSite, dtype: torch.dtype) -> float:
    """The number that is added under the root.

    Instead of 0 it is the smallest normal one, which is lost on anything but zeros. A norm of zeros, which
    interventions make, is then what every epsilon gives: zeros, and not 0 / 0.
    """
    numbers = torch.finfo(dtype)
    return numbers.eps if site.eps is None else max(site.eps, numbers.tiny)


def pathway_sites(config: ModelConfig) -> dict[Pathway, NormSite]:
    """The norm on each of the four pathways' inputs; identity where the placement has none."""
    sites: dict[Pathway, NormSite] = {
        x: _pathway_site(config, x) if x in config.placement.pathways else NormSite() for x in PATHWAYS
    }
    if config.placement.arrangement == "mlp-inpnorm":
        sites["mlp"] = NormSite("unit")
    return sites


def _pathway_site(config: ModelConfig, pathway: Pathway) -> NormSite:
    if pathway == "mlp":
        late_eps = 1e-5 if config.norm == "ln" else None
        return NormSite(config.norm, late_eps if config.placement.arrangement == "peri" else 0.0, "ln2")
    return NormSite(config.norm, 0.0, "ln1" if config.shared_affine else f"norm_{pathway}")


def residual_sites(config: ModelConfig) -> dict[str, NormSite]:
    """The norms of a block that sit on no pathway: after the residual add (`post`) or on outputs (`peri`).

    Keys are the module names `norm_resid_mid`, `norm_resid_post`, `norm_attn_out`, `norm_mlp_out`. The
    affines live under TransformerLens' names: `ln1_post` and `ln2_post` are those of norms on outputs.
    """
    late_eps = 1e-5 if config.norm == "ln" else None
    return {
        "post": {
            "norm_resid_mid": NormSite(config.norm, 0.0, "ln1"),
            "norm_resid_post": NormSite(config.norm, 0.0, "ln2"),
        },
        "peri": {
            "norm_attn_out": NormSite(config.norm, 0.0, "ln1_post"),
            "norm_mlp_out": NormSite(config.norm, late_eps, "ln2_post"),
        },
    }.get(config.placement.arrangement, {})


def final_site(config: ModelConfig) -> NormSite | None:
    """The norm before the unembedding (`ln_final`), or None without one."""
    return None if config.final_norm == "off" else NormSite(config.norm, 1e-5, "ln_final")


def qk_site(name: Literal["q_norm", "k_norm"]) -> NormSite:
    """The RMS norm on each head's queries or keys after projection, with TransformerLens' epsilon."""
    return NormSite("rms", 1e-5, name)


@dataclass(frozen=True)
class BlockSites:
    """Every norm of a block: on its pathways, and on no pathway (by module name)."""

    pathways: Mapping[Pathway, NormSite]
    residual: Mapping[str, NormSite]

    @property
    def affines(self) -> dict[str, bool]:
        """Key of every affine that the block stores -> whether it has a bias, in reading order."""
        sites = (*self.pathways.values(), *self.residual.values())
        return {s.affine: s.kind == "ln" for s in sites if s.affine}


def block_sites(config: ModelConfig) -> BlockSites:
    """Every norm of a block of this model."""
    return BlockSites(pathway_sites(config), residual_sites(config))


def block_affines(config: ModelConfig) -> tuple[str, ...]:
    """Keys of the affines that a block stores, each once, in the order in which they are read."""
    return tuple(block_sites(config).affines)


def key_only_affine(config: ModelConfig) -> str | None:
    """The affine that only the keys read, if there is one.

    Its bias adds the same number to all scores of a query, which the softmax ignores: the gradient is
    exactly zero, and Adam would turn its rounding noise into steps. A norm after projection undoes this.
    """
    sites = pathway_sites(config)
    affine = sites["k"].affine
    others = [s.affine for name, s in (*sites.items(), *residual_sites(config).items()) if name != "k"]
    return affine if affine and affine not in others and not config.qk_norm else None
