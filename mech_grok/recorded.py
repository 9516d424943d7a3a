"""What is recorded of a run at its scheduled checkpoints, judged from its stores: nothing is measured."""

from collections.abc import Iterable

from mech_grok.array_store import StepStore
from mech_grok.run import Run


def lacking_probes(run: Run, names: Iterable[str], final: int) -> dict[str, list[int]]:
    """Probe -> scheduled steps at which it is not recorded yet.

    Args:
        final: the last checkpoint; what was recorded with key frequencies of another one is lacking.
    """
    return {name: _lacking(probe_store(run, name), final) for name in names}


def _lacking(store: StepStore, final: int) -> list[int]:
    return store.missing_steps(**({"final_step": final} if store.holds("final_step") else {}))


def lacking_ablations(run: Run, final: int) -> list[int]:
    """Scheduled steps whose ablations are not scored yet with the key frequencies of step `final`."""
    return ablation_store(run).missing_steps(final_step=final)


def probe_store(run: Run, name: str) -> StepStore:
    """Where a probe is recorded."""
    return _store(run, f"probes/{name}.zarr")


def ablation_store(run: Run) -> StepStore:
    """Where the ablation grid is recorded."""
    return _store(run, "ablations.zarr")


def _store(run: Run, name: str) -> StepStore:
    """The steps are those of the config: a checkpoint that a signal asked for is there to continue from."""
    return StepStore(run.path / name, run.seeds, run.config.checkpoint_steps)
