"""The ablation stage: every checkpoint and seed, with the last checkpoint's key frequencies, only once."""

import shutil
from pathlib import Path

import pytest
import xarray as xr

from mech_grok import checkpoint_stages
from mech_grok.array_store import StepStore
from mech_grok.checkpoint_stages import ablate_run
from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.interventions import ablate
from mech_grok.probes import Anchors, measure
from mech_grok.run import Run
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import weights_path

pytestmark = pytest.mark.whole

CONFIG = CellConfig.model_validate(
    {
        "task": {"p": 7},
        "model": {"placement": "M", "d_model": 16, "n_heads": 2},
        "training": {"steps": 10, "seeds": [3, 1], "checkpoint_every": 10},
    }
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_cell(tmp_path_factory.mktemp("runs") / "cell", CONFIG, resume=False, command="test").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    return Run(shutil.copytree(trained, tmp_path / "cell"))


def keys_at(run: Run, seed: int, step: int) -> tuple[int, ...]:
    task = run.config.task.task
    found = measure(run.model(seed, step), task, run.split(seed), ["key_frequencies"])["key_frequencies"]
    mask = found["key_frequency"]
    return tuple(mask["frequency"].values[mask.values == 1].tolist())


def assert_recorded(run: Run, final: int) -> None:
    """What is on disk of the last seed at the first checkpoint is what `ablate` gives."""
    seed, step = run.seeds[-1], run.steps[0]
    anchors = Anchors(key_frequencies=keys_at(run, seed, final))
    expected = ablate(run.model(seed, step), run.config.task.task, run.split(seed), anchors)
    assert (run.ablations["final_step"] == final).all()
    recorded = run.ablations.sel(seed=seed, step=step, drop=True).drop_vars("final_step")
    xr.testing.assert_allclose(recorded, expected, rtol=1e-9)


def test_every_checkpoint_and_seed_is_scored_and_only_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.ablations is None
    ablate_run(run)
    assert run.ablations["step"].values.tolist() == [0, 10]
    assert run.ablations["seed"].values.tolist() == [3, 1]
    assert_recorded(run, final=10)
    assert run.ablations["loss_change"].attrs["units"] == "nats"
    monkeypatch.setattr(checkpoint_stages, "ablate", None)
    ablate_run(run)


def test_where_a_run_has_gone_on_every_checkpoint_is_scored_again(run: Run) -> None:
    last = weights_path(run.checkpoint_folder, 10)
    hidden = last.rename(run.path / "hidden")
    ablate_run(run)
    assert run.ablations["step"].values.tolist() == [0]
    assert_recorded(run, final=0)
    hidden.rename(last)
    ablate_run(run)
    assert run.ablations["step"].values.tolist() == [0, 10]
    assert_recorded(run, final=10)


def test_a_store_of_another_layout_is_not_written_into(run: Run) -> None:
    other = xr.Dataset({"loss_change": ("intervention", [0.0, 1.0])}, {"intervention": ["bypass", "insert"]})
    StepStore(run.path / "ablations.zarr", run.seeds, run.steps).write(0, [other, other])
    with pytest.raises(UserError, match=r"ablations\.zarr: holds other arrays than these; delete it"):
        ablate_run(run)
