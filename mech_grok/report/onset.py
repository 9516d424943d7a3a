"""When structure appears in a network and when it generalises: the data, one pair for each cell and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from mech_grok.generalisation import Happened, StepBySeed, generalisation_steps, happened
from mech_grok.report.cells import Cell, Run, identify
from mech_grok.structure import CONCENTRATION, Rule, by_seed, concentrated_step, halved_step

First = Literal["structure", "generalisation", "undecided", "neither"]


@dataclass(frozen=True)
class Structure:
    """What appears in a network, and in which words.

    Attributes:
        rule: when it has, on the curve of one seed.
        slug: in names of files and elements.
        title: HTML.
        happened: HTML, such as `effective rank halved`.
        definition: HTML, the end of a sentence.
    """

    rule: Rule
    slug: str
    title: str
    happened: str
    definition: str


STRUCTURES: Mapping[str, Structure] = {
    "c_fourier": Structure(
        concentrated_step,
        "fourier",
        "Onset of Fourier structure, against generalisation",
        f"C<sub>Fourier</sub> reached {CONCENTRATION:g}",
        "the first checkpoint of the trained model at which C<sub>Fourier</sub> is at least "
        f"{CONCENTRATION:g}.",
    ),
    "effective_rank": Structure(
        halved_step,
        "rank",
        "Onset of compressibility, against generalisation",
        "effective rank halved",
        "the first checkpoint of the trained model at which the effective rank of the final features over "
        "the test pairs is at most half of its highest until then.",
    ),
}
"""By the curve that shows it."""


@dataclass(frozen=True)
class Onset:
    """When structure appeared in one seed, and when it generalised."""

    cell: Cell
    seed: int
    appeared: Happened
    generalised: Happened

    @property
    def first(self) -> First:
        """Which of the two came first, if the steps at which they were looked for decide that.

        What was found at a step happened before what had not happened by that step.
        """
        appeared, generalised = self.appeared, self.generalised
        if appeared.by is None and generalised.by is None:
            return "neither"
        if appeared.by is not None and appeared.by <= generalised.after:
            return "structure"
        if generalised.by is not None and generalised.by <= appeared.after:
            return "generalisation"
        return "undecided"


def compute_onsets(name: str, runs: Sequence[Run]) -> list[Onset]:
    """One for each cell and seed that has the curve of a structure.

    Forked runs are left out: what they began with may have had it already.

    Args:
        name: of `STRUCTURES`.
    """
    found = []
    for cell, run in zip(identify(runs), runs, strict=True):
        curve = _curve(name, run)
        if curve is not None and run.config.surgery is None:
            known = generalisation_steps(run.metrics).accuracy
            found += paired(cell, name, curve, run.metrics["test_accuracy"], known)
    return found


def paired(
    cell: Cell, name: str, curve: xr.DataArray, accuracy: xr.DataArray, generalised: StepBySeed
) -> list[Onset]:
    """One for each seed that has both curves.

    Args:
        name: of `STRUCTURES`.
        curve: what shows that structure (seed, step).
        accuracy: on the test set (seed, step), not finite where it was not evaluated.
        generalised: what is found on it.
    """
    appeared = by_seed(curve, STRUCTURES[name].rule)
    return [
        Onset(
            cell,
            seed,
            happened(curve.sel(seed=seed), step),
            happened(accuracy.sel(seed=seed), generalised[seed]),
        )
        for seed, step in appeared.items()
        if seed in generalised
    ]


def _curve(name: str, run: Run) -> xr.DataArray | None:
    """The curve (seed, step) that shows a structure, if the run has it."""
    if name == "c_fourier":
        return run.probe("fourier")[name] if "fourier" in run.probe_names else None
    return (
        run.probe("compressibility")[name].sel(split="test") if "compressibility" in run.probe_names else None
    )
