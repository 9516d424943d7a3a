"""What the report reads: runs, and each one's label and colour on the page."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import xarray as xr

from mech_grok.config import CellConfig
from mech_grok.report.contrast import shade
from mech_grok.report.labels import cell_label
from mech_grok.report.style import placement_colour


@runtime_checkable
class Run(Protocol):
    """A run, finished or not, as far as a report needs it; `mech_grok.run.Run` is one."""

    @property
    def name(self) -> str:
        """The cell's name, which begins with its placement's specifier."""
        ...

    @property
    def path(self) -> Path:
        """The run directory, which tells it from other runs."""
        ...

    @property
    def config(self) -> CellConfig:
        """What was trained."""
        ...

    @property
    def metrics(self) -> xr.Dataset:
        """Losses, accuracies and norms (seed, step), with the coordinate `evaluated` on step."""
        ...

    @property
    def diverged(self) -> Mapping[int, int]:
        """Seed -> step at which it diverged."""
        ...

    @property
    def probe_names(self) -> tuple[str, ...]:
        """The probes that have been taken."""
        ...

    def probe(self, name: str) -> xr.Dataset:
        """One probe at every checkpoint: (seed, step, ...)."""
        ...

    @property
    def ablations(self) -> xr.Dataset | None:
        """Changes under interventions: (seed, step, intervention, pathways, split)."""
        ...

    @property
    def attention_factors(self) -> xr.Dataset | None:
        """Attention factors solved for in training: factor, target, entropy (seed, step, layer, head)."""
        ...

    @property
    def parent(self) -> "Run | None":
        """The run from whose checkpoint this one began; None if there is none, or it is gone."""
        ...

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions, hardware, wall time."""
        ...


class ReadOnce:
    """A run whose datasets are read from disk once, when a figure first shows them."""

    def __init__(self, run: Run):
        self.name = run.name
        self.path = run.path
        self.config = run.config
        self._probe = cache(run.probe)
        self._property = cache(partial(getattr, run))
        self._parent = cache(lambda: ReadOnce(run.parent) if run.parent else None)

    def probe(self, name: str) -> xr.Dataset:
        """As `Run.probe`."""
        return self._probe(name)

    @property
    def parent(self) -> Run | None:
        """As `Run.parent`."""
        return self._parent()

    @property
    def metrics(self) -> xr.Dataset:
        """As `Run.metrics`."""
        return self._property("metrics")

    @property
    def diverged(self) -> Mapping[int, int]:
        """As `Run.diverged`."""
        return self._property("diverged")

    @property
    def probe_names(self) -> tuple[str, ...]:
        """As `Run.probe_names`."""
        return self._property("probe_names")

    @property
    def ablations(self) -> xr.Dataset | None:
        """As `Run.ablations`."""
        return self._property("ablations")

    @property
    def attention_factors(self) -> xr.Dataset | None:
        """As `Run.attention_factors`."""
        return self._property("attention_factors")

    @property
    def environment(self) -> Mapping[str, Any]:
        """As `Run.environment`."""
        return self._property("environment")


@dataclass(frozen=True)
class Cell:
    """How one run appears on the page.

    Attributes:
        index: its place among the runs of the page.
        name: the run's name, as in its directory.
        label: HTML: the paper's name of the placement (`A<sup>qk</sup>`), where it was forked from, and what
            else the cell varies.
        specifier: the placement's specifier (`attn-pre-qk`).
        colour: hex.
    """

    index: int
    name: str
    label: str
    specifier: str
    colour: str


def identify(runs: Sequence[Run]) -> tuple[Cell, ...]:
    """One Cell per run, in order.

    Runs that share a placement share its hue in shades; runs that would share a label are
    numbered.
    """
    labels = _distinct([cell_label(run.name, run.config) for run in runs])
    totals = Counter(run.config.model.placement for run in runs)
    seen: dict[object, int] = defaultdict(int)
    cells = []
    for index, (run, label) in enumerate(zip(runs, labels, strict=True)):
        placement = run.config.model.placement
        colour = shade(placement_colour(placement), seen[placement], totals[placement])
        seen[placement] += 1
        cells.append(Cell(index, run.name, label, placement.specifier, colour))
    return tuple(cells)


def _distinct(labels: list[str]) -> list[str]:
    totals, seen = Counter(labels), Counter[str]()
    distinct = []
    for label in labels:
        seen[label] += 1
        distinct.append(f"{label} ({seen[label]})" if totals[label] > 1 else label)
    return distinct


def with_probe(runs: Sequence[Run], name: str) -> list[tuple[Cell, xr.Dataset]]:
    """The cells that have this probe, each with its dataset."""
    pairs = zip(identify(runs), runs, strict=True)
    return [(cell, run.probe(name)) for cell, run in pairs if name in run.probe_names]
