"""Fourier structure of the embedding and the unembedding along the number axis; weights only.

Both are read as [p, d_model]: the embedding without the row of `=`, the unembedding without its class. No
share depends on the readout scale, which is left out.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mech_grok.probes.fourier_basis import by_frequency, fourier_basis, spectrum
from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Probe, Quantity

_EPS = 1e-8
"""Added to the variance within modes, as in the paper's code."""

_FFD_THRESHOLD = 0.5
_ROUNDING = 1e-12


class CFourier(NamedTuple):
    """C_Fourier and the two variances that it is the ratio of."""

    ratio: Float[Tensor, ""]
    between: Float[Tensor, ""]
    within: Float[Tensor, ""]


def c_fourier(W_E: Float[Tensor, "p d_model"]) -> CFourier:
    """C_Fourier of arXiv 2602.06702: spread of amplitude between Fourier modes over the spread within them.

    With X[k, i] the modulus of the unnormalised discrete Fourier transform of embedding dimension i at
    mode k = 0..p//2, and mu[k] its mean over dimensions: between = var_k(mu), within = mean((X - mu)^2),
    ratio = between / (within + 1e-8). The zero mode counts. It measures sparsity in frequency together
    with the choice of axes: an embedding and a rotated copy of it differ in the ratio, not in the model.
    Follows the notebook of github.com/jaisidhsingh/layernorm-grok, in float64.
    """
    modulus = torch.fft.rfft(W_E.double(), dim=0).abs()
    mean = modulus.mean(dim=1, keepdim=True)
    between = mean.var(correction=0)
    within = (modulus - mean).square().mean()
    return CFourier(between / (within + _EPS), between, within)


def component_norms(W: Float[Tensor, "p d_model"]) -> Float[Tensor, " p"]:
    """Norm over dimensions along each row of `fourier_basis`: constant, cos 1, sin 1, ..., in float64."""
    return (fourier_basis(W.shape[0]).to(W.device) @ W.double()).norm(dim=1)


def gini(x: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Gini coefficient of non-negative numbers: 0 if all are equal, 1 - 1/n if all but one are 0.

    `2 sum_i i x_(i) / (n sum x) - (n + 1) / n` for ascending x_(i), i = 1..n; nan if all are 0.
    """
    n = len(x)
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=x.device)
    ascending = x.double().sort().values
    return 2 * (rank @ ascending) / (n * ascending.sum()) - (n + 1) / n


def inverse_participation_ratio(W: Float[Tensor, "p d_model"]) -> Float[Tensor, " d_model"]:
    """sum_k P_k^2 / (sum_k P_k)^2 of every dimension, P_k its squares along frequency k = 0..p//2.

    1 for one frequency, whatever its phase: cosine and sine are added before the ratio is taken, which on
    separate coefficients would be anywhere from 1/2 to 1. nan for a dimension of zeros.
    """
    power = by_frequency((fourier_basis(W.shape[0]).to(W.device) @ W.double()).square())
    return power.square().sum(0) / power.sum(0).square()


def frequency_density(norms: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    """Share of the cosines and sines whose norm exceeds half of the largest cosine's, or sine's.

    Furuta et al.'s Fourier Frequency Density, threshold 0.5. Of `component_norms`; the constant is left out.
    """
    cos, sin = norms[1::2], norms[2::2]
    above = sum((x > _FFD_THRESHOLD * x.max()).sum() for x in (cos, sin) if len(x))
    return torch.as_tensor(above, dtype=torch.float64) / (len(norms) - 1)


def coefficient_ratio(norms: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    """Smaller over larger of cosine's and sine's norm, mean over frequencies.

    Furuta et al.'s Fourier Coefficient Ratio. Of `component_norms`; the constant and p/2, which has no sine,
    are left out, and so are frequencies below 1e-12 of the largest, which are rounding. nan if none is left.
    """
    sin = norms[2::2]
    cos = norms[1::2][: len(sin)]
    larger = torch.maximum(cos, sin)
    held = larger > _ROUNDING * norms.max()
    return (torch.minimum(cos, sin) / larger)[held].mean()


def _compute(seen: Observation) -> dict[str, Tensor]:
    p, model = seen.task.p, seen.model
    concentration = c_fourier(model.W_E[:p])
    return {
        "c_fourier": concentration.ratio,
        "c_fourier_between": concentration.between,
        "c_fourier_within": concentration.within,
        **_sparsity(model.W_E[:p], "embedding"),
        **_sparsity(model.W_U[:, :p].T, "unembedding"),
    }


def _sparsity(W: Float[Tensor, "p d_model"], name: str) -> dict[str, Tensor]:
    norms = component_norms(W)
    of_frequencies = spectrum(W)
    return {
        f"{name}_spectrum": of_frequencies,
        f"{name}_gini": gini(norms),
        f"{name}_gini_squared": gini(norms.square()),
        f"{name}_gini_frequency": gini(of_frequencies),
        f"{name}_ipr": inverse_participation_ratio(W).nanmean(),
        f"{name}_ffd": frequency_density(norms),
        f"{name}_fcr": coefficient_ratio(norms),
    }


def _quantities(name: str, weights: str) -> dict[str, Quantity]:
    """What `_sparsity` computes."""
    nanda = "Nanda et al., arXiv 2301.05217"
    furuta = "Furuta et al., arXiv 2402.16726"
    basis = f"of {weights} in the orthonormal real Fourier basis"

    def gini_of(what: str, variant: str = "") -> Quantity:
        return Quantity(
            (),
            f"Gini coefficient{variant}, {name}",
            "1",
            f"Gini coefficient of {what}; 0 where all are equal, 1 - 1/n where one of n is left.",
            source=nanda,
            nan="the weights are zero",
        )

    return {
        f"{name}_spectrum": Quantity(
            ("frequency",),
            f"{name} norm",
            "1",
            f"Norm along cosine and sine of each frequency, {basis}.",
            source=nanda,
        ),
        f"{name}_gini": gini_of(f"the p norms, the constant's among them, {basis}"),
        f"{name}_gini_squared": gini_of(
            f"the p squared norms, the constant's among them, {basis}", " of squares"
        ),
        f"{name}_gini_frequency": gini_of(
            f"the p//2 + 1 norms of `{name}_spectrum`, the constant's among them", " of frequencies"
        ),
        f"{name}_ipr": Quantity(
            (),
            f"inverse participation ratio, {name}",
            "1",
            f"sum_k P_k^2 / (sum_k P_k)^2 over the numbers, for each of the d_model dimensions of {weights}; "
            "P_k the squares along cosine and sine of frequency k = 0..p//2. Mean over the dimensions that "
            "are not zero. 1 for one frequency in each; depends on the choice of axes.",
            source="Doshi et al., arXiv 2310.13061",
            nan="the weights are zero",
        ),
        f"{name}_ffd": Quantity(
            (),
            f"Fourier frequency density, {name}",
            "1",
            "Share of the p - 1 norms along cosines and sines that exceed half of the largest cosine's, or "
            f"sine's, {basis}.",
            source=furuta,
        ),
        f"{name}_fcr": Quantity(
            (),
            f"Fourier coefficient ratio, {name}",
            "1",
            f"Smaller over larger of the norms along cosine and sine, {basis}; mean over the frequencies "
            "that hold more than 1e-12 of the largest norm.",
            source=furuta,
            nan="no frequency has both cosine and sine",
        ),
    }


_MODULUS = "Variance of the modulus of the embedding's unnormalised discrete Fourier transform, "

PROBE = Probe(
    name="fourier",
    title="Fourier structure of embedding and unembedding",
    source="arXiv 2602.06702",
    seconds=0.003,
    quantities={
        "c_fourier": Quantity(
            (),
            "C_Fourier",
            "1",
            "Variance between Fourier modes of the embedding's mean amplitude, over the variance within "
            "modes + 1e-8. Rows 0..p-1 of W_E, modes 0..p//2; depends on the choice of axes.",
        ),
        "c_fourier_between": Quantity(
            (), "variance between modes", "1", _MODULUS + "between modes of the mean over dimensions."
        ),
        "c_fourier_within": Quantity(
            (), "variance within modes", "1", _MODULUS + "over dimensions within a mode, mean over modes."
        ),
        **_quantities("embedding", "rows 0..p-1 of W_E"),
        **_quantities("unembedding", "the p answers' columns of W_U (no readout scale)"),
    },
    compute=_compute,
)
