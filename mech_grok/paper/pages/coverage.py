"""How much of a figure has been run, and what has not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mech_grok.paper.cells import PaperCell
from mech_grok.paper.figures import Figure
from mech_grok.paper.missing import lacking_curves
from mech_grok.paper.pages.quantities import QUANTITIES
from mech_grok.paper.pages.wording import counted, full_label, listed
from mech_grok.paper.published import Published
from mech_grok.paper.results import Result


@dataclass(frozen=True)
class Coverage:
    """What was run of a figure.

    Attributes:
        seeds: cell -> those of the wanted seeds that were run, all cells of the figure.
        wanted: the published seeds.
        steps: how long the longest run is, 0 without any.
        lacking: curve's name -> the cells of which a seed that was run does not have it.
        short: cell -> its last step, where that is before the published one.
    """

    seeds: Mapping[PaperCell, tuple[int, ...]]
    wanted: tuple[int, ...]
    steps: int
    lacking: Mapping[str, tuple[PaperCell, ...]]
    short: Mapping[PaperCell, int]

    @property
    def run(self) -> list[PaperCell]:
        """The cells with a seed."""
        return [cell for cell, seeds in self.seeds.items() if seeds]

    @property
    def is_complete(self) -> bool:
        """Whether every cell has every seed, curve and step."""
        all_seeds = all(seeds == self.wanted for seeds in self.seeds.values())
        return all_seeds and not self.lacking and not self.short

    @property
    def cells_text(self) -> str:
        """`4 of 7 cells`."""
        return f"{len(self.run)} of {counted(len(self.seeds), 'cell')}"

    @property
    def seeds_text(self) -> str:
        """`5 seeds`, `2 of 5 seeds`, `2 to 5 of 5 seeds`; of the cells that were run."""
        numbers = sorted({len(seeds) for seeds in self.seeds.values() if seeds})
        total = len(self.wanted)
        if not numbers or numbers == [total]:
            return counted(total if numbers else 0, "seed")
        span = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        return f"{span} of {counted(total, 'seed')}"

    @property
    def summary(self) -> tuple[str, ...]:
        """All of it in a few words: cells, seeds, steps."""
        if not self.run:
            return ("not run yet",)
        return self.cells_text, self.seeds_text, f"{self.steps:,} steps"

    def missing(self) -> list[str]:
        """Sentences (HTML) on what was not run or not measured."""
        return [*self._missing_seeds(), *self._lacking_curves(), *self._short_runs()]

    def _missing_seeds(self) -> list[str]:
        by_lack: dict[tuple[int, ...], list[PaperCell]] = {}
        for cell, seeds in self.seeds.items():
            by_lack.setdefault(tuple(s for s in self.wanted if s not in seeds), []).append(cell)
        told = {lack: _cells(cells, len(self.seeds)) for lack, cells in by_lack.items() if lack}
        return [
            f"Not run at all: {cells}." if lack == self.wanted else f"{_seeds_text(lack)} not run: {cells}."
            for lack, cells in told.items()
        ]

    def _lacking_curves(self) -> list[str]:
        return [
            f"{QUANTITIES[name].title} not measured, or not for all seeds: {_cells(cells, len(self.run))}."
            for name, cells in self.lacking.items()
        ]

    def _short_runs(self) -> list[str]:
        return [f"Trained for {step:,} steps only: {full_label(cell)}." for cell, step in self.short.items()]


def _seeds_text(seeds: Sequence[int]) -> str:
    return f"{'Seed' if len(seeds) == 1 else 'Seeds'} {listed(seeds)}"


def _cells(cells: Sequence[PaperCell], of: int) -> str:
    return f"all {of} cells" if len(cells) == of > 1 else "; ".join(map(full_label, cells))


def coverage(figure: Figure, results: Mapping[str, Result], values: Published) -> Coverage:
    """What was run of a figure's cells."""
    found = {cell: results[cell.name] for cell in figure.cells if cell.name in results}
    last = {cell: _last_step(result) for cell, result in found.items()}
    without = {cell: _lacking(result, figure.curves) for cell, result in found.items()}
    lacking = {name: tuple(c for c, names in without.items() if name in names) for name in figure.curves}
    return Coverage(
        seeds={cell: _seeds(found.get(cell), values.seeds) for cell in figure.cells},
        wanted=values.seeds,
        steps=max(last.values(), default=0),
        lacking={name: cells for name, cells in lacking.items() if cells},
        short={cell: step for cell, step in last.items() if step < values.steps},
    )


def _lacking(result: Result, curves: Sequence[str]) -> tuple[str, ...]:
    seeds = [seed for training in result.trainings for seed in training.seeds]
    return lacking_curves(result.trainings, seeds, curves)


def _seeds(result: Result | None, wanted: tuple[int, ...]) -> tuple[int, ...]:
    return () if result is None else tuple(seed for seed in wanted if seed in result.curves["seed"].values)


def _last_step(result: Result) -> int:
    return int(result.curves["step"].values.max(initial=0))
