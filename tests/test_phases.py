"""The rules for phases, on curves whose steps are known."""

import numpy as np
import pytest
import xarray as xr

from mech_grok.phases import Phases, phases

STEPS = np.arange(1, 1001)
CHECKPOINTS = np.arange(0, 1001, 50)
NEVER = 10_000


def metrics(memorised=(100,), generalised=(700,), test_loss=None, every=10) -> xr.Dataset:
    """Each seed's train and test accuracy step up where told; the test loss is the same function for all."""
    evaluated = STEPS % every == 0
    dims, n = ("seed", "step"), len(memorised)

    def stairs(at, low):
        return np.where(np.array(at)[:, None] <= STEPS, 1.0, low)

    loss = np.tile((test_loss or hump)(STEPS.astype(float)), (n, 1))
    data = {
        "train_accuracy": (dims, stairs(memorised, 0.98)),
        "test_accuracy": (dims, np.where(evaluated, stairs(generalised, 0.5), np.nan)),
        "test_loss": (dims, np.where(evaluated, loss, np.nan)),
    }
    return xr.Dataset(data, {"seed": 7 + np.arange(n), "step": STEPS, "evaluated": ("step", evaluated)})


def hump(step):
    """Rises to 20 at step 300, then falls by 0.05 a step."""
    return np.where(step <= 300, 5 + step / 20, np.maximum(20 - (step - 300) / 20, 0.001))


def progress(*curves, splits=("all", "train", "test")) -> xr.Dataset:
    """Excluded loss on the training pairs; what the other splits hold must not be read."""
    values = np.stack([curve(CHECKPOINTS.astype(float)) for curve in curves])
    by_split = np.stack([values if split == "train" else -values for split in splits], axis=-1)
    coordinates = {"seed": 7 + np.arange(len(curves)), "step": CHECKPOINTS, "split": list(splits)}
    return xr.Dataset({"excluded_loss": (("seed", "step", "split"), by_split)}, coordinates)


def valley(at):
    return lambda step: 0.1 + np.abs(step - at)


def test_each_phase_of_each_seed() -> None:
    found = phases(metrics(memorised=(100, 233), generalised=(700, 741)), progress(valley(350), valley(400)))
    # Half of 20 is passed after step 500, and tests are every 10 steps.
    assert found == {7: Phases(100, 350, 510, 700), 8: Phases(233, 400, 510, 750)}


def test_circuit_formation_is_looked_for_between_memorisation_and_generalisation() -> None:
    def before_and_after(step):
        return np.where((step < 100) | (step > 700), -5.0, valley(450)(step))

    assert phases(metrics(), progress(before_and_after))[7].circuit_formation == 450
    at_the_ends = metrics(memorised=(450,), generalised=(450,))
    assert phases(at_the_ends, progress(valley(450)))[7].circuit_formation == 450


def test_a_loss_that_does_not_turn_between_them_says_nothing_of_the_circuit() -> None:
    data = metrics(memorised=(120,), generalised=(690,))
    for never_turns in (
        lambda step: -step,
        lambda step: step,
        lambda step: 0 * step,
        valley(50),
        valley(750),
    ):
        assert phases(data, progress(never_turns))[7].circuit_formation is None


def test_a_checkpoint_without_a_value_does_not_count() -> None:
    def unknown_beside_the_valley(step):
        return np.where(step == 400, np.nan, valley(350)(step))

    assert phases(metrics(), progress(unknown_beside_the_valley))[7].circuit_formation == 350


@pytest.mark.parametrize(
    ("memorised", "generalised", "curve"),
    [
        (NEVER, 700, valley(350)),
        (100, NEVER, valley(350)),
        (400, 300, valley(350)),  # generalised before it memorised
        (101, 140, valley(350)),  # no checkpoint in between
        (100, 700, lambda step: np.full_like(step, np.nan)),  # no key frequencies
    ],
)
def test_circuit_formation_is_censored(memorised, generalised, curve) -> None:
    (found,) = phases(metrics((memorised,), (generalised,)), progress(curve)).values()
    assert found.circuit_formation is None
    assert found.memorised == (memorised if memorised < NEVER else None)
    assert found.generalised == (generalised if generalised < NEVER else None)


def test_cleanup_compares_with_the_largest_loss_before_generalisation() -> None:
    def cleanup(test_loss):
        (found,) = phases(metrics(test_loss=test_loss), progress(valley(350))).values()
        return found.cleanup

    assert cleanup(lambda step: np.where(step < 500, 4.0, 2.0)) is None  # half is not below half
    assert cleanup(lambda step: np.where(step < 500, 4.0, 1.99)) == 500
    assert cleanup(lambda step: np.where(step < 500, 1.0, 100.0)) is None  # what follows does not count
    assert cleanup(lambda step: np.where((step > 200) & (step < 400), np.inf, 4.0)) is None
    assert cleanup(lambda step: np.full_like(step, np.nan)) is None


def test_only_evaluated_steps_count() -> None:
    data = metrics()
    data["test_loss"].loc[{"step": 305}] = 0.001  # not evaluated
    assert phases(data, progress(valley(350)))[7].cleanup == 510


def test_a_seed_that_diverges_keeps_what_came_before() -> None:
    data, excluded = metrics(), progress(valley(350))
    data = data.where(data["step"] < 600)
    excluded = excluded.where(excluded["step"] < 600)
    assert phases(data, excluded)[7] == Phases(100, None, None, None)


def test_a_fall_that_does_not_last_is_no_cleanup() -> None:
    def spikes(step):
        return np.where(step % 100 == 0, 20.0, 8.0)

    assert phases(metrics(test_loss=spikes))[7].cleanup is None  # at 700, where it generalises, it is high
    assert phases(metrics(test_loss=spikes, generalised=(690,)))[7].cleanup == 610
    assert phases(metrics(test_loss=spikes, generalised=(NEVER,)))[7].cleanup is None


@pytest.mark.parametrize("n", [0, 1])
def test_short_runs(n) -> None:
    found = phases(metrics().isel(step=slice(0, n)), progress(valley(350)).isel(step=slice(0, n)))
    assert found == {7: Phases(None, None, None, None)}
