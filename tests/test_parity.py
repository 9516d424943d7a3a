"""Training from the reference's initial weights follows its recorded run, column by column.

The recordings are float32. Ours is gated in float64, because in float32 one ReLU whose input is within
rounding of zero for one example is enough to leave 1e-4 (at p = 113 one such unit does so at step 7 on some
processors); the table shows float32 as well.
"""

import numpy as np
import pytest
import torch
from recordings import NAMES, Recording, load

from mech_grok.model import import_reference
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import COLUMNS, Rows, Trainer

EXACT_STEPS, LOOSE_STEPS = 8, 100
LOSSES = ("train_loss", "test_loss")


def train(recording: Recording, dtype: torch.dtype, steps: int) -> Rows:
    weights = {name: tensor.to(dtype) for name, tensor in recording.weights(0).items()}
    model = import_reference(weights, recording.meta["model"])
    rows = Trainer(recording.config, ParameterStack.of_models([model])).advance(steps)
    rows["weight_norm"] = np.sqrt(rows["weight_norm"] ** 2 + recording.unread_gains)
    return rows


@pytest.fixture(scope="module", params=NAMES)
def replay(request: pytest.FixtureRequest) -> tuple[Recording, Rows]:
    recording = load(request.param)
    return recording, train(recording, torch.float64, EXACT_STEPS if recording.is_large else LOOSE_STEPS)


def relative_difference(recording: Recording, rows: Rows, column: str) -> np.ndarray:
    ours = rows[column][0]
    theirs = np.array(recording.log[column][: len(ours)])
    return np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-12)


@pytest.mark.parametrize("column", COLUMNS)
def test_first_steps_match(replay: tuple[Recording, Rows], column: str) -> None:
    recording, rows = replay
    assert recording.log["step"][:EXACT_STEPS] == list(range(1, EXACT_STEPS + 1))
    assert relative_difference(recording, rows, column)[:EXACT_STEPS].max() < 1e-4


@pytest.mark.parametrize("column", LOSSES)
def test_losses_stay_close(replay: tuple[Recording, Rows], column: str) -> None:
    """Chaos sets in within tens of steps (the reference differs from itself too), so the bound is loose."""
    recording, rows = replay
    if recording.is_large:
        pytest.skip("100 steps at p = 113 take half a minute: they are in -m slow")
    assert rows[column].shape[1] == LOOSE_STEPS
    assert relative_difference(recording, rows, column).max() < 0.05


def test_print_table(replay: tuple[Recording, Rows], capsys: pytest.CaptureFixture[str]) -> None:
    """The parity table: recording x column x largest relative difference, in float64 and in float32."""
    recording, exact = replay
    single = train(recording, torch.float32, exact["train_loss"].shape[1])
    with capsys.disabled():
        print()
        for column in COLUMNS:
            print(f"{recording.name:16} {column:15}", end="")
            for dtype, rows in (("float64", exact), ("float32", single)):
                d = relative_difference(recording, rows, column)
                first, all_of_them = d[:EXACT_STEPS].max(), d.max()
                print(f"  {dtype}: {first:.1e} in {EXACT_STEPS} steps, {all_of_them:.1e} in {len(d)}", end="")
            print()
    assert np.isfinite(single["train_loss"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("column", LOSSES)
def test_losses_stay_close_at_full_size(column: str) -> None:
    recording = load("p113_off")
    rows = train(recording, torch.float32, LOOSE_STEPS)
    assert relative_difference(recording, rows, column).max() < 0.05
