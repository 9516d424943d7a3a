"""The cells of the paper's figures: by name, and by the settings in which they differ from the base."""

from collections.abc import Sequence
from dataclasses import dataclass

from mech_grok.placement import Placement, all_placements

Setting = float | int | str | bool

TRAINING_ORDER = ("M", "M+A^v", "A^v", "M+A*", "A*", "No LN", "A^qk")
"""The paper's placements, in the order in which they are trained."""

FOUR = ("M", "M+A*", "A*", "No LN")
"""The placements of most figures, in the order in which they are published to generalise."""

PLACEMENTS = tuple(Placement.parse(name) for name in TRAINING_ORDER)
LATTICE = PLACEMENTS + tuple(p for p in all_placements() if p.arrangement == "pre" and p not in PLACEMENTS)
"""All sixteen pathway subsets: those with a name in the paper, then the others."""

BASE_LR = 1e-3
READOUT_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
LEARNING_RATES = (1e-3, 3e-3, 5e-3, 1e-2)
WEIGHT_DECAYS = (0.1, 0.2, 0.5, 0.75, 1.0, 1.5)


@dataclass(frozen=True)
class PaperCell:
    """A cell, over whichever seeds.

    Attributes:
        placement: where it is normalised.
        settings: the other settings in which it differs from the base, as (dotted key, value).
    """

    placement: Placement
    settings: tuple[tuple[str, Setting], ...] = ()

    @property
    def name(self) -> str:
        """The placement's specifier, then what differs: `off_lr=0.003_weight_decay=0.3333`."""
        return "_".join([self.placement.specifier, *(f"{_leaf(k)}={_text(v)}" for k, v in self.settings)])

    @property
    def label(self) -> str:
        """What a reader is shown: `No LN, lr 0.003, weight decay 0.3333`."""
        return ", ".join([self.placement.label, *(_spoken(key, value) for key, value in self.settings)])

    def run_name(self, seeds: Sequence[int]) -> str:
        """The name of the run over some seeds: `mlp-pre_seeds=456-789`."""
        return f"{self.name}_seeds={'-'.join(map(str, seeds))}"

    def dotted(self, seeds: Sequence[int]) -> dict[str, object]:
        """Dotted key -> value of what differs from the base over some seeds, for a study of named cells."""
        named = {"model.placement": self.placement.specifier, **dict(self.settings)}
        return {**named, "training.seeds": list(seeds)}


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _text(value: Setting) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _spoken(key: str, value: Setting) -> str:
    words = _leaf(key).replace("_", " ")
    return words if value is True else f"{words} {_text(value)}"


def placed(names: Sequence[str], **settings: Setting) -> tuple[PaperCell, ...]:
    """Cells at placements of the given names, all with the same other settings (`__` for a dot)."""
    other = tuple((key.replace("__", "."), value) for key, value in settings.items())
    return tuple(PaperCell(Placement.parse(name), other) for name in names)


def no_ln(*settings: tuple[str, Setting]) -> PaperCell:
    """A cell without norms, as the authors' scripts have it in every sweep of the optimiser."""
    return PaperCell(Placement.of(), settings)


def learning_rates() -> tuple[PaperCell, ...]:
    """Learning rates with the weight decay at which their product stays: 1e-3 * 1.0 / lr."""
    return tuple(
        no_ln(("optimiser.lr", lr), ("optimiser.weight_decay", BASE_LR / lr)) if lr != BASE_LR else no_ln()
        for lr in LEARNING_RATES
    )


def weight_decays() -> tuple[PaperCell, ...]:
    """Weight decays at the base learning rate."""
    return tuple(no_ln(("optimiser.weight_decay", x)) if x != 1.0 else no_ln() for x in WEIGHT_DECAYS)


def readout_scales(lr_falls: bool, *others: tuple[str, Setting]) -> tuple[PaperCell, ...]:
    """Readout scales alpha, with the base learning rate or, where it falls, with 1e-3 / alpha^2.

    The weight decay stays as it is, so with the learning rate its product with it falls too.
    """
    return tuple(no_ln(*others, *_read_out(alpha, lr_falls)) for alpha in READOUT_SCALES)


def _read_out(alpha: float, lr_falls: bool) -> tuple[tuple[str, Setting], ...]:
    if alpha == 1.0:
        return ()
    scale = ("model.readout_scale", alpha)
    return (scale, ("optimiser.lr", BASE_LR / alpha**2)) if lr_falls else (scale,)


WITHOUT_EPS: tuple[tuple[str, Setting], ...] = (
    ("model.activation", "gelu"),
    ("model.init", "kaiming"),
    ("optimiser.eps", 0.0),
)
"""Adam without its epsilon. It needs an activation function without dead neurons: the gradient of one is
exactly zero, and zero over zero is no step."""
