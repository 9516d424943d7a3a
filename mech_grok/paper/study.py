"""The paper's cells as one study, so that a cell of several figures is trained once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mech_grok.config import ModelConfig, TrainingConfig
from mech_grok.paper.cells import LATTICE, PLACEMENTS, PaperCell
from mech_grok.paper.curves import CURVES, METRICS
from mech_grok.paper.figures import FIGURES, find_figure
from mech_grok.study_config import StudyConfig

SEED_GROUPS: tuple[tuple[int, ...], ...] = ((456, 789), (111, 222, 333))
"""The published seeds, in the order in which they are trained."""

CHECKPOINT_EVERY = 200
"""As often as the authors' code measures what it measures at intervals."""

BaseActivation = Literal["relu", "gelu"]


@dataclass(frozen=True)
class PaperRun:
    """A cell over a group of seeds, which are trained together.

    Attributes:
        curves: names of those that it is to have (`curves.CURVES`).
    """

    cell: PaperCell
    seeds: tuple[int, ...]
    curves: tuple[str, ...]

    @property
    def name(self) -> str:
        """That of its directory: `mlp-pre_seeds=456-789`."""
        return self.cell.run_name(self.seeds)

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that record its curves."""
        sources = dict.fromkeys(CURVES[curve].source for curve in self.curves)
        return tuple(source for source in sources if source != METRICS)

    def dotted(self) -> dict[str, object]:
        """Its entry in a study of named cells that are only trained, unless they say otherwise."""
        work = {"stages": ["train", "probe"], "probes": list(self.probes)} if self.probes else {}
        return {**self.cell.dotted(self.seeds), **work}


def figure_cells(figures: Sequence[str] = ()) -> tuple[PaperCell, ...]:
    """Every cell of some figures once, in the order of training.

    Cells with the same settings but for the placement stand together, where the first of them is needed, in
    the order of `LATTICE`; the placements that the paper has no name for come apart from those.

    Args:
        figures: their names; none: all of them.

    Raises:
        UserError: a figure is unknown.
    """
    cells = dict.fromkeys(cell for name in _names(figures) for cell in find_figure(name).cells)
    together = list(dict.fromkeys(map(_variation, cells)))
    return tuple(sorted(cells, key=lambda c: (together.index(_variation(c)), LATTICE.index(c.placement))))


def cell_curves(figures: Sequence[str] = ()) -> dict[PaperCell, tuple[str, ...]]:
    """Each cell of some figures, as `figure_cells` has them -> the curves that those that show it draw.

    Raises:
        UserError: a figure is unknown.
    """
    shown = [(cell, figure) for figure in map(find_figure, _names(figures)) for cell in figure.cells]
    return {
        cell: tuple(
            dict.fromkeys(curve for other, figure in shown if other == cell for curve in figure.curves)
        )
        for cell in figure_cells(figures)
    }


def paper_runs(
    figures: Sequence[str] = (), seeds: Sequence[Sequence[int]] = SEED_GROUPS
) -> tuple[PaperRun, ...]:
    """All cells of some figures over the first group of seeds, then over the next.

    Raises:
        UserError: a figure is unknown.
    """
    curves = cell_curves(figures)
    return tuple(PaperRun(cell, (*group,), curves[cell]) for group in seeds for cell in curves)


def paper_study(
    figures: Sequence[str] = (),
    seeds: Sequence[Sequence[int]] = SEED_GROUPS,
    activation: BaseActivation = "gelu",
) -> StudyConfig:
    """The study `paper` of some figures; each run records the probes that they take, and no others.

    Args:
        figures: their names; none: all of them.
        seeds: groups that train as one run each.
        activation: of every cell whose own settings do not say. The published numbers fit the default of the
            authors' code, GELU; with ReLU the study is called `paper-relu`, so that runs are kept apart.

    Raises:
        UserError: a figure is unknown.
    """
    return StudyConfig(
        study="paper" if activation == "gelu" else f"paper-{activation}",
        description="The cells of arXiv 2602.06702.",
        model=ModelConfig(activation=activation),
        training=TrainingConfig(checkpoint_every=CHECKPOINT_EVERY),
        cells={run.name: run.dotted() for run in paper_runs(figures, seeds)},
        stages=("train",),
    )


def _variation(cell: PaperCell) -> tuple[object, bool]:
    return cell.settings, cell.placement in PLACEMENTS


def _names(figures: Sequence[str]) -> Iterable[str]:
    return figures or [figure.name for figure in FIGURES]
