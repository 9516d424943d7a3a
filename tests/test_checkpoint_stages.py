"""The probe stage: only what is missing, against the first and the last checkpoint, whatever the threads."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from mech_grok import checkpoint_stages
from mech_grok.checkpoint_stages import probe_run
from mech_grok.config import CellConfig
from mech_grok.probes import PROBES, Anchor, Anchors, measure
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import Observation, observe
from mech_grok.run import Run
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import weights_path

pytestmark = pytest.mark.whole

CONFIG = CellConfig.model_validate(
    {
        "task": {"p": 7},
        "model": {"placement": "M", "d_model": 16, "n_heads": 2},
        "training": {"steps": 60, "seeds": [3, 1], "checkpoint_every": 20},
    }
)
FINAL = [name for name, probe in PROBES.items() if probe.reads_final]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_cell(tmp_path_factory.mktemp("runs") / "cell", CONFIG, resume=False, command="test").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy of the trained run, without probes."""
    return Run(shutil.copytree(trained, tmp_path / "cell"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is asked of `measure`, once for every seed and checkpoint."""
    calls: list[tuple[str, ...]] = []

    def recording(*arguments: object) -> dict[str, xr.Dataset]:
        calls.append(tuple(arguments[3]))
        return measure(*arguments)

    monkeypatch.setattr(checkpoint_stages, "measure", recording)
    return calls


def anchored(run: Run, seed: int, final: int) -> Anchors:
    task, split = run.config.task.task, run.split(seed)

    def at(step: int) -> Anchor:
        def seen() -> Observation:
            model = run.model(seed, step)
            return observe(model, task, split, needs_of(list(PROBES.values()), model))

        return Anchor(seen)

    return Anchors(at(0), at(final))


def assert_recorded(run: Run, names: Sequence[str], final: int) -> None:
    """What is on disk is what `measure` gives, for every seed at the first and the last checkpoint."""
    for seed in run.seeds:
        anchors = anchored(run, seed, final)
        for step in (run.steps[0], run.steps[-1]):
            found = measure(run.model(seed, step), run.config.task.task, run.split(seed), names, anchors)
            for name, data in found.items():
                recorded = run.probe(name).sel(seed=seed, step=step, drop=True)
                xr.testing.assert_allclose(recorded.drop_vars("final_step", errors="ignore"), data, rtol=1e-9)


def test_every_probe_is_recorded_at_every_seed_and_checkpoint(run: Run) -> None:
    probe_run(run)
    assert set(run.probe_names) == set(PROBES)
    assert_recorded(run, list(PROBES), final=60)
    kernel = run.probe("kernel")
    assert kernel["ntk_drift"].sel(step=0).values == pytest.approx(0)
    assert (kernel["ntk_drift"].sel(step=60).values > 0).all()
    assert (run.probe("dynamics")["moved_norm"].sel(step=0).values == 0).all()
    frozen = run.probe("key_frequencies")["key_frequency_frozen"]
    assert (frozen == frozen.isel(step=-1)).all()


def test_a_probe_that_comes_later_is_measured_alone(run: Run, asked: list[tuple[str, ...]]) -> None:
    probe_run(run, ["attention", "fourier"])
    before = run.probe("attention")
    assert set(asked) == {("attention", "fourier")}
    assert len(asked) == 8
    asked.clear()
    probe_run(run, ["fourier", "stability", "attention"])
    assert set(asked) == {("stability",)}
    assert run.probe("attention").identical(before)
    asked.clear()
    probe_run(run, ["stability"])
    assert asked == []


def test_where_a_run_has_gone_on_only_what_reads_the_last_checkpoint_is_measured_again(
    run: Run, asked: list[tuple[str, ...]]
) -> None:
    last = weights_path(run.checkpoint_folder, 60)
    hidden = last.rename(run.path / "hidden")
    probe_run(run)
    assert (run.probe("progress")["final_step"] == 40).all()
    assert list(run.probe("progress")["step"].values) == [0, 20, 40]
    hidden.rename(last)
    asked.clear()
    probe_run(run)
    assert (run.probe("progress")["final_step"] == 60).all()
    assert sorted(asked, key=len) == [tuple(FINAL)] * 6 + [tuple(PROBES)] * 2
    assert_recorded(run, FINAL, final=60)


def test_threads_change_nothing(trained: Path, tmp_path: Path) -> None:
    names = ["attention", "key_frequencies", "progress", "kernel", "dynamics"]
    before, recorded = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            copy = Run(shutil.copytree(trained, tmp_path / str(threads)))
            probe_run(copy, names)
            assert torch.get_num_threads() == threads
            recorded.append({name: copy.probe(name) for name in names})
    finally:
        torch.set_num_threads(before)
    for name in names:
        xr.testing.assert_identical(recorded[0][name], recorded[1][name])


def test_an_interrupted_stage_goes_on_where_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(*arguments: object) -> dict[str, xr.Dataset]:
        calls.append(arguments)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(checkpoint_stages, "measure", failing)
    with pytest.raises(KeyboardInterrupt):
        probe_run(run, ["fourier"])
    monkeypatch.undo()
    assert 0 < run.probe("fourier").sizes["step"] < 4
    probe_run(run, ["fourier"])
    assert_recorded(run, ["fourier"], final=60)


def test_norms_by_part_add_up_to_those_of_the_metrics(run: Run) -> None:
    norms, metrics = run.norms, run.metrics
    assert dict(norms.sizes) == {"seed": 2, "step": 60, "group": 10}
    assert "0_mlp_in" in norms["group"].values
    for of in ("grad", "weight", "update"):
        total = np.sqrt((norms[f"group_{of}_norm"] ** 2).sum("group"))
        np.testing.assert_allclose(total.values, metrics[f"{of}_norm"].values, rtol=1e-12)
