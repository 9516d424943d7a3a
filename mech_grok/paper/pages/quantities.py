"""What each curve is called on the pages, how it is drawn, and what it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mech_grok.paper.pages.wording import lowered
from mech_grok.report import definitions

Split = Literal["train", "test", "all"]

PAPER = definitions.PAPER


@dataclass(frozen=True)
class Quantity:
    """A curve of `curves.CURVES` on a page; the texts are HTML.

    Attributes:
        unit: what its axis says.
        split: `train` is dashed, everything else solid.
        log: whether its axis starts logarithmic.
        extent: what its axis spans whatever the values are.
    """

    title: str
    unit: str
    definition: str
    split: Split = "all"
    log: bool = False
    extent: tuple[float, float] | None = None


_LOSS = dict(definitions.LEARNING)["Loss"]
_C_FOURIER = dict(definitions.FOURIER)["C<sub>Fourier</sub>"]
_UPDATE = dict(definitions.DYNAMICS)["Weight, gradient and update norm"]

QUANTITIES: Mapping[str, Quantity] = {
    "train_loss": Quantity("Train loss", "loss (nats)", _LOSS, "train", log=True),
    "test_loss": Quantity("Test loss", "loss (nats)", _LOSS, "test", log=True),
    "test_accuracy": Quantity(
        "Test accuracy",
        "test accuracy",
        "Share of the test pairs answered right, over all p + 1 classes, measured every ten steps.",
        "test",
        extent=(-0.03, 1.03),
    ),
    "update_norm": Quantity("Update norm", "update norm (L2)", _UPDATE, log=True),
    "c_fourier": Quantity("C<sub>Fourier</sub>", "C<sub>Fourier</sub>", _C_FOURIER),
    "attention_entropy": Quantity(
        "Attention entropy",
        "entropy (nats)",
        "&minus;&Sigma;<sub>key</sub> A log A of a row A of the attention pattern averaged over heads, in "
        f"nats; mean over query rows and training pairs ({PAPER}).",
        extent=(-0.03, 1.15),
    ),
    "sr_train": Quantity(
        "Train loss without scale (SR)",
        "loss (nats)",
        "Train loss when the MLP reads x/‖x‖<sub>2</sub> in place of its input. As in the authors' code, "
        f"whose switch drops all norms of the blocks with it, those of attention too ({PAPER}: SR-train).",
    ),
    "effective_rank": Quantity(
        "Effective rank",
        "effective rank",
        "exp(&minus;&Sigma; p<sub>i</sub> log p<sub>i</sub>) with p<sub>i</sub> = "
        "&sigma;<sub>i</sub>²/&Sigma;&sigma;², &sigma; the singular values of the final features at “=”, "
        "one row per test pair. As the authors' code computes it, in float32, whose rounding makes it a few "
        f"per cent too large ({PAPER}).",
    ),
    "power_law_alpha": Quantity(
        "Power-law exponent",
        "exponent",
        "Exponent of the power law fitted to the tail of the squared singular values of the same features, "
        "as the authors' code fits it.",
    ),
    "kernel_drift": Quantity(
        "Drift of the tangent kernel",
        "relative change of the kernel",
        "‖K<sub>t</sub> &minus; K<sub>0</sub>‖ / ‖K<sub>0</sub>‖ (Frobenius) of the tangent kernel of the "
        "summed logits, over the first 256 training pairs.",
        log=True,
    ),
}
"""Every curve that a figure draws, by its name."""


def spoken(name: str) -> str:
    """A curve within a sentence, plain text: `test loss`, `C_Fourier`."""
    return "C_Fourier" if name == "c_fourier" else lowered(QUANTITIES[name].title)
