"""The rules for memorising and generalising, on curves whose steps are known."""

import numpy as np
import pytest
import xarray as xr

from mech_grok.generalisation import generalisation_steps

STEPS = np.arange(1, 101)
NEVER = 10_000


def metrics(
    accuracy: tuple[int, ...], loss: tuple[int, ...] | None = None, memorised: int = 3, every: int = 10
) -> xr.Dataset:
    """Step functions: seed i reaches its test accuracy, test loss and train accuracy at the given steps."""
    evaluated = (STEPS % every == 0) | (STEPS == 1)

    def stairs(at: tuple[int, ...], low: float, high: float) -> np.ndarray:
        return np.where(np.array(at)[:, None] <= STEPS, high, low)

    test_accuracy = stairs(accuracy, 0.5, 0.995)
    test_loss = stairs(loss or accuracy, 4.7, 0.01)
    dims = ("seed", "step")
    return xr.Dataset(
        {
            "train_accuracy": (dims, stairs((memorised,) * len(accuracy), 0.98, 0.99)),
            "test_accuracy": (dims, np.where(evaluated, test_accuracy, np.nan)),
            "test_loss": (dims, np.where(evaluated, test_loss, np.nan)),
        },
        {"seed": 100 + np.arange(len(accuracy)), "step": STEPS, "evaluated": ("step", evaluated)},
    )


def test_each_seed_by_each_rule_at_evaluated_steps() -> None:
    steps = generalisation_steps(metrics(accuracy=(20, 33), loss=(41, 100)))
    assert steps.accuracy == {100: 20, 101: 40}
    assert steps.loss == {100: 50, 101: 100}
    assert steps.memorisation == {100: 3, 101: 3}
    assert steps.last_step == 100


def test_the_published_rule_is_of_the_mean_curve() -> None:
    steps = generalisation_steps(metrics(accuracy=(20, 60)))
    assert steps.mean_accuracy == 60
    above = metrics(accuracy=(20, 60))
    above["test_accuracy"].loc[{"seed": 100, "step": [30, 40]}] = 1.0
    above["test_accuracy"].loc[{"seed": 101, "step": 40}] = 0.99
    assert generalisation_steps(above).mean_accuracy == 40


def test_a_seed_that_never_gets_there_is_censored() -> None:
    steps = generalisation_steps(metrics(accuracy=(20, NEVER), memorised=NEVER))
    assert steps.accuracy == {100: 20, 101: None}
    assert steps.memorisation == {100: None, 101: None}
    assert steps.mean_accuracy is None


def test_the_first_step_counts_even_if_the_rule_is_broken_later() -> None:
    data = metrics(accuracy=(20,))
    data["test_accuracy"].loc[{"step": slice(30, None)}] = 0.1
    assert generalisation_steps(data).accuracy == {100: 20}


def test_a_diverged_seed_leaves_the_mean_undefined() -> None:
    data = metrics(accuracy=(20, 30))
    data["test_accuracy"].loc[{"seed": 101}] = np.nan
    steps = generalisation_steps(data)
    assert steps.accuracy == {100: 20, 101: None}
    assert steps.mean_accuracy is None


def test_the_first_perfect_step_is_of_the_best_seed() -> None:
    data = metrics(accuracy=(20, 30))
    assert generalisation_steps(data).first_perfect is None
    data["test_accuracy"].loc[{"seed": 101, "step": [50, 70]}] = 1.0
    data["test_accuracy"].loc[{"seed": 100, "step": 60}] = 1.0
    assert generalisation_steps(data).first_perfect == 50


@pytest.mark.parametrize("n", [0, 1])
def test_short_runs(n: int) -> None:
    steps = generalisation_steps(metrics(accuracy=(20,)).isel(step=slice(0, n)))
    assert steps.accuracy == {100: None}
    assert steps.last_step == n
