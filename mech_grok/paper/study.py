"""The paper's cells as one study, so that a cell of several figures is trained once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mech_grok.config import ModelConfig, TrainingConfig
from mech_grok.paper.cells import LATTICE, PLACEMENTS, PaperCell
from mech_grok.paper.figures import FIGURES, find_figure
from mech_grok.study_config import Stage, StudyConfig

SEED_GROUPS: tuple[tuple[int, ...], ...] = ((456, 789), (111, 222, 333))
"""The published seeds, in the order in which they are trained."""

CHECKPOINT_EVERY = 200
"""As often as the authors' code measures what it measures at intervals."""

BaseActivation = Literal["relu", "gelu"]


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


def paper_study(
    figures: Sequence[str] = (),
    seeds: Sequence[Sequence[int]] = SEED_GROUPS,
    activation: BaseActivation = "gelu",
) -> StudyConfig:
    """The study `paper` of some figures: all cells over the first group of seeds, then the next group.

    Args:
        figures: their names; none: all of them.
        seeds: groups that train as one run each.
        activation: of every cell whose own settings do not say. The published numbers fit the default of the
            authors' code, GELU; with ReLU the study is called `paper-relu`, so that runs are kept apart.

    Raises:
        UserError: a figure is unknown.
    """
    cells = figure_cells(figures)
    probes = tuple(dict.fromkeys(probe for name in _names(figures) for probe in find_figure(name).probes))
    stages: tuple[Stage, ...] = ("train", "probe") if probes else ("train",)
    return StudyConfig(
        study="paper" if activation == "gelu" else f"paper-{activation}",
        description="The cells of arXiv 2602.06702.",
        model=ModelConfig(activation=activation),
        training=TrainingConfig(checkpoint_every=CHECKPOINT_EVERY),
        cells={cell.run_name(group): cell.dotted(group) for group in seeds for cell in cells},
        stages=stages,
        probes=probes,
    )


def cell_probes(figures: Sequence[str] = ()) -> Mapping[str, tuple[str, ...]]:
    """Name of each cell (without seeds) -> the probes that those of the figures that show it need.

    Fewer than the study's, which are those of all its figures.

    Raises:
        UserError: a figure is unknown.
    """
    shown = [(cell, figure) for figure in map(find_figure, _names(figures)) for cell in figure.cells]
    return {
        cell.name: tuple(dict.fromkeys(p for other, figure in shown if other == cell for p in figure.probes))
        for cell in figure_cells(figures)
    }


def _variation(cell: PaperCell) -> tuple[object, bool]:
    return cell.settings, cell.placement in PLACEMENTS


def _names(figures: Sequence[str]) -> Iterable[str]:
    return figures or [figure.name for figure in FIGURES]
