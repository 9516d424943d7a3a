"""The figures of the paper that can be reproduced, and one of ours."""

import difflib
from dataclasses import dataclass

from mech_grok.errors import UserError
from mech_grok.paper.cells import (
    FOUR,
    LATTICE,
    TRAINING_ORDER,
    WITHOUT_EPS,
    PaperCell,
    learning_rates,
    placed,
    readout_scales,
    weight_decays,
)
from mech_grok.paper.checks import compression, lattice, movement, reasons, speed
from mech_grok.paper.claims import Claim, Finding
from mech_grok.paper.curves import CURVES, METRICS
from mech_grok.paper.measures import Measured, of_common_seeds


@dataclass(frozen=True)
class Group:
    """Cells of a figure that are drawn in one panel.

    Attributes:
        title: what they have in common, or what varies among them; empty if the figure has one group.
    """

    title: str
    cells: tuple[PaperCell, ...]


@dataclass(frozen=True)
class Figure:
    """What a figure claims, and what it takes to see.

    Attributes:
        name: what the command line calls it.
        title: one line.
        claims: what the paper reads off it, each in a sentence; of our own figure, what it asks.
        groups: the cells that it shows; a cell may be in several.
        curves: names of the curves that it draws (`curves.CURVES`).
        scatter: names of two curves, across and up, drawn against each other checkpoint by checkpoint.
    """

    name: str
    title: str
    claims: tuple[Claim, ...]
    groups: tuple[Group, ...]
    curves: tuple[str, ...]
    scatter: tuple[str, str] | None = None

    @property
    def cells(self) -> tuple[PaperCell, ...]:
        """The cells of all groups, each once."""
        return tuple(dict.fromkeys(cell for group in self.groups for cell in group.cells))

    def findings(self, measured: Measured) -> list[tuple[Claim, Finding]]:
        """Every claim, checked over the seeds that all of the figure's measured cells have."""
        compared = of_common_seeds(measured, {cell.name for cell in self.cells})
        return [(claim, claim.check(compared)) for claim in self.claims]

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that have to be recorded for its curves; none if the metrics hold them all."""
        sources = dict.fromkeys(CURVES[name].source for name in self.curves)
        return tuple(source for source in sources if source != METRICS)


_LOSSES = ("train_loss", "test_loss", "test_accuracy")
_HELD = "Learning rate 1e-3"
_FALLING = "Learning rate 1e-3 / alpha²"
_SUBTRACTED = ("training.subtract_initial_prediction", True)


def _one(cells: tuple[PaperCell, ...]) -> tuple[Group, ...]:
    return (Group("", cells),)


FIGURES: tuple[Figure, ...] = (
    Figure(
        name="fig2",
        title="Placements: losses, and Fourier modes of the embedding",
        claims=(
            Claim(
                "Where LayerNorm sits decides how soon the network generalises: M first, then M+A*, "
                "A*, No LN.",
                speed.placements,
            ),
            Claim(
                "Generalising networks concentrate their embedding in few Fourier modes: C_Fourier "
                "rises, and the sooner a placement generalises, the sooner.",
                compression.concentration,
            ),
        ),
        groups=_one(placed(FOUR)),
        curves=(*_LOSSES, "c_fourier"),
        scatter=("c_fourier", "test_accuracy"),
    ),
    Figure(
        name="fig3",
        title="Why: a shortcut through the scale of the MLP's input, and attention entropy",
        claims=(
            Claim(
                "Without LayerNorm on the MLP's input, networks memorise through its length: with the "
                "length taken away the train loss is high. No LN's falls when it generalises, "
                "M's falls too, A^v's stays.",
                reasons.shortcut,
            ),
            Claim(
                "LayerNorm on the inputs of queries and keys lowers attention entropy; on the values' "
                "or the MLP's alone it keeps it near ln 3. A^qk does not generalise within 10,000 "
                "steps.",
                reasons.attention_entropy,
            ),
            Claim(
                "LayerNorm on the values' input helps instead: A^v is fast, and M+A^v a little faster "
                "than M.",
                speed.norm_of_values,
            ),
        ),
        groups=_one(placed(TRAINING_ORDER)),
        curves=(*_LOSSES, "sr_train", "attention_entropy"),
    ),
    Figure(
        name="fig4",
        title="Learning rate, and weight decay",
        claims=(
            Claim(
                "With the product of learning rate and weight decay held, a larger learning rate "
                "generalises earlier.",
                speed.larger_learning_rates,
            ),
            Claim(
                "More weight decay generalises earlier; with too little, nothing does within 10,000 steps.",
                speed.more_weight_decay,
            ),
            Claim(
                "A larger learning rate makes larger updates.",
                movement.larger_updates,
            ),
        ),
        groups=(
            Group("Learning rate; weight decay such that their product stays", learning_rates()),
            Group("Weight decay; learning rate 1e-3", weight_decays()),
        ),
        curves=(*_LOSSES, "update_norm"),
    ),
    Figure(
        name="fig5",
        title="Readout scale",
        claims=(
            Claim(
                "With a learning rate of 1e-3 / alpha^2 a smaller readout scale alpha generalises "
                "earlier, as if alpha made training lazy.",
                speed.smaller_scales_with_falling_rate,
            ),
            Claim(
                "With the learning rate held it is the other way round: what the readout scale was "
                "taken to do came from the learning rate, and through AdamW from weight decay.",
                speed.larger_scales_with_held_rate,
            ),
            Claim(
                "Neither Adam's epsilon nor the prediction at initialisation explains it.",
                speed.without_epsilon_or_prediction,
            ),
        ),
        groups=(
            Group(_HELD, readout_scales(False)),
            Group(_FALLING, readout_scales(True)),
            Group(f"{_HELD}; Adam without epsilon", readout_scales(False, *WITHOUT_EPS)),
            Group(f"{_FALLING}; Adam without epsilon", readout_scales(True, *WITHOUT_EPS)),
            Group(
                f"{_HELD}; without epsilon, initial prediction subtracted",
                readout_scales(False, *WITHOUT_EPS, _SUBTRACTED),
            ),
            Group(
                f"{_FALLING}; without epsilon, initial prediction subtracted",
                readout_scales(True, *WITHOUT_EPS, _SUBTRACTED),
            ),
        ),
        curves=(*_LOSSES, "update_norm"),
    ),
    Figure(
        name="fig6",
        title="Compressibility of the final features, and its onset",
        claims=(
            Claim(
                "Features change throughout training, also while networks only memorise: not first "
                "lazy, then rich.",
                compression.features_always_change,
            ),
            Claim(
                "A network generalises as its features become compressible: their effective rank "
                "falls when the test loss does, at every placement.",
                compression.compressibility,
            ),
        ),
        groups=_one(placed(FOUR)),
        curves=(*_LOSSES, "effective_rank", "power_law_alpha", "c_fourier"),
        scatter=("effective_rank", "test_accuracy"),
    ),
    Figure(
        name="fig7",
        title="RMSNorm in place of LayerNorm",
        claims=(
            Claim(
                "With RMSNorm the placements generalise in the same order.",
                speed.rms_placements,
            ),
        ),
        groups=_one((*placed(FOUR[:-1], model__norm="rms"), *placed(FOUR[-1:]))),
        curves=_LOSSES,
    ),
    Figure(
        name="fig8",
        title="Three layers of width 64",
        claims=(
            Claim(
                "With three layers the placements generalise in the same order, with many slingshots: "
                "falls of a network's test accuracy by more than 0.1 after it had reached 0.995.",
                speed.three_layers,
            ),
        ),
        groups=_one(placed(FOUR, model__n_layers=3, model__d_model=64)),
        curves=_LOSSES,
    ),
    Figure(
        name="fig9",
        title="Weight decay and compressibility",
        claims=(
            Claim(
                "The more weight decay, the earlier the features become compressible; where it is too "
                "weak to generalise, their effective rank stays high.",
                compression.decay_compresses,
            ),
        ),
        groups=_one(weight_decays()),
        curves=(*_LOSSES, "effective_rank", "power_law_alpha"),
        scatter=("effective_rank", "test_accuracy"),
    ),
    Figure(
        name="ntk",
        title="Drift of the tangent kernel",
        claims=(
            Claim(
                "The tangent kernel leaves its initial value by orders of magnitude within 200 steps "
                "at every readout scale: training is never lazy (in the authors' data, not in their "
                "text).",
                movement.kernel_leaves,
            ),
        ),
        groups=(Group(_HELD, readout_scales(False)), Group(_FALLING, readout_scales(True))),
        curves=("test_loss", "test_accuracy", "kernel_drift"),
    ),
    Figure(
        name="lattice",
        title="All sixteen pathway subsets, without and with QK-norm",
        claims=(
            Claim(
                "Ours: which of the sixteen subsets of {q, k, v, mlp} generalise, and does a norm on "
                "the projected queries and keys change the answer?",
                lattice.subsets,
            ),
        ),
        groups=(
            Group("Without QK-norm", tuple(PaperCell(p) for p in LATTICE)),
            Group("With QK-norm", tuple(PaperCell(p, (("model.qk_norm", True),)) for p in LATTICE)),
        ),
        curves=(*_LOSSES, "c_fourier", "attention_entropy", "effective_rank"),
    ),
)
"""In the order in which they are listed."""


def find_figure(name: str) -> Figure:
    """The figure of a name.

    Raises:
        UserError: there is none; the message gives the nearest.
    """
    known = {figure.name: figure for figure in FIGURES}
    if name not in known:
        (near,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise UserError(f"unknown figure '{name}'; did you mean '{near}'? allowed: {', '.join(known)}")
    return known[name]
