"""The numbers in the embedding's plane of a key frequency: a clock's face where there is a clock."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.fourier_basis import fourier_basis, spectrum
from mech_grok.probes.key_frequencies import frozen_key_frequencies, key_frequency_hooks
from mech_grok.probes.observation import Observation
from mech_grok.probes.probe import Labels, Probe, Quantity
from mech_grok.task import Task

CIRCLES = 4
"""Key frequencies that are kept, the strongest first."""

AXES = ("cos", "sin")

_PARALLEL = 1e-6


class Circle(NamedTuple):
    """The numbers 0..p-1 in the plane of one frequency.

    Attributes:
        coordinates: along the plane's two axes, [p, 2].
        share: how much of their variance in the plane the frequency holds; 1 for waves of its own.
    """

    coordinates: Float[Tensor, "p 2"]
    share: Float[Tensor, ""]


def embedding_circle(W_E: Float[Tensor, "p d_model"], k: int) -> Circle:
    """The embedding of every number in the plane of frequency k, in float64.

    With c and s the embedding's components along cos(w_k n) and sin(w_k n) of the number n, the plane is
    that of c and s. Its axes are the orthonormal pair nearest to c and s (the polar factor of the two), so
    that n -> n + 1 turns the picture and changes nothing else. The mean over numbers is at 0. A rotation of
    the embedding space changes nothing; distances are those of the embedding.

    Args:
        W_E: the rows of the numbers.
        k: 1..(p-1)//2.

    Returns:
        nan where c and s are parallel, or zero: there is no plane then.
    """
    W_E = W_E.double()
    waves = fourier_basis(len(W_E))[2 * k - 1 : 2 * k + 1].to(W_E.device)
    left, lengths, right = torch.linalg.svd(waves @ W_E, full_matrices=False)
    coordinates = (W_E - W_E.mean(0)) @ (left @ right).T
    if not lengths[-1] > _PARALLEL * lengths[0]:
        coordinates = torch.full_like(coordinates, math.nan)
    share = (waves @ coordinates).square().sum() / coordinates.square().sum()
    return Circle(coordinates, share)


def strongest_key_frequencies(seen: Observation) -> list[int]:
    """At most `CIRCLES` key frequencies of the training, largest norm of its last embedding first.

    p/2 is left out, which has no sine.
    """
    norms = seen.at_final(_embedding_spectrum)
    keys = [k for k in frozen_key_frequencies(seen) if 0 < 2 * k < seen.task.p]
    return sorted(keys, key=lambda k: -float(norms[k]))[:CIRCLES]


def _embedding_spectrum(seen: Observation) -> Float[Tensor, " frequency"]:
    return spectrum(seen.model.W_E[: seen.task.p])


def _compute(seen: Observation) -> dict[str, Tensor]:
    p = seen.task.p
    found = {
        "embedding_circle": torch.full((CIRCLES, len(AXES), p), math.nan),
        "embedding_circle_frequency": torch.full((CIRCLES,), math.nan),
        "embedding_circle_share": torch.full((CIRCLES,), math.nan, dtype=torch.float64),
    }
    for i, k in enumerate(strongest_key_frequencies(seen)):
        circle = embedding_circle(seen.model.W_E[:p], k)
        found["embedding_circle"][i] = circle.coordinates.T
        found["embedding_circle_frequency"][i] = k
        found["embedding_circle_share"][i] = circle.share
    return found


def _coordinates(model: HookedTransformer, task: Task) -> dict[str, Labels]:
    return {"circle": range(CIRCLES), "circle_axis": AXES, "number": range(task.p)}


_FEWER = f"the training has fewer key frequencies with a sine, of which there can be {CIRCLES}"
_NO_PLANE = "the embedding's components along cosine and sine are parallel or zero"

PROBE = Probe(
    name="embedding_circles",
    title="The numbers in the embedding's plane of a key frequency",
    source="ours, after the circles of Liu et al., arXiv 2205.10343, and Nanda et al., arXiv 2301.05217",
    seconds=0.002,
    quantities={
        "embedding_circle": Quantity(
            ("circle", "circle_axis", "number"),
            "embedding in the plane of a frequency",
            "1",
            "Rows 0..p-1 of W_E, less their mean, along the two axes of the plane that their components "
            "along cosine and sine of `embedding_circle_frequency` span. The axes are the orthonormal pair "
            "nearest to those two components.",
            nan=f"{_FEWER}; {_NO_PLANE}",
            dtype="float32",
        ),
        "embedding_circle_frequency": Quantity(
            ("circle",),
            "frequency of the circle",
            "1",
            "The key frequencies of the last checkpoint, the largest norm of the last checkpoint's embedding "
            "first. At all checkpoints the same.",
            nan=_FEWER,
        ),
        "embedding_circle_share": Quantity(
            ("circle",),
            "share of the frequency in its plane",
            "1",
            "Share of the variance of `embedding_circle` over the numbers and both axes that the frequency "
            "itself holds. 1 for a circle or an ellipse without anything else; about a half for an untrained "
            "embedding with d_model near p, since the plane is chosen for this frequency.",
            nan=f"{_FEWER}; {_NO_PLANE}",
        ),
    },
    compute=_compute,
    coordinates=_coordinates,
    at_equals=key_frequency_hooks,
    reads_final=True,
)
