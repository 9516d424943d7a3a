"""What is not in the results yet, by seeds and curves."""

from collections.abc import Collection, Mapping, Sequence

from mech_grok.paper.results import Training
from mech_grok.paper.study import PaperRun


def lacking_curves(
    trainings: Sequence[Training], seeds: Collection[int], curves: Collection[str]
) -> tuple[str, ...]:
    """Of some curves those that are not there for every one of the seeds."""
    held = {(seed, curve) for training in trainings for seed in training.seeds for curve in training.curves}
    return tuple(curve for curve in curves if any((seed, curve) not in held for seed in seeds))


def missing_runs(
    runs: Sequence[PaperRun], trainings: Mapping[str, Sequence[Training]]
) -> tuple[PaperRun, ...]:
    """Those of some runs of which a curve that they are to have is not in the results.

    Args:
        trainings: cell's name -> its runs that are in the results.
    """
    return tuple(
        run for run in runs if lacking_curves(trainings.get(run.cell.name, ()), run.seeds, run.curves)
    )
