"""The run directory: what it holds, and that no way of stopping a run damages it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mech_grok import load_run
from mech_grok.config import CellConfig
from mech_grok.config_difference import first_difference
from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.run_lock import locked
from mech_grok.run_writer import prepare
from mech_grok.signals import Interrupted
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import load_tensors, saved_steps, weights_path

CONFIG = CellConfig.model_validate(
    {
        "task": {"p": 11},
        "model": {"placement": "M", "d_model": 16, "n_heads": 2},
        "training": {"steps": 60, "seeds": [3, 1], "checkpoint_every": 20, "optimiser_state_every": 40},
    }
)
_TRAIN = """
import sys, torch
from pathlib import Path
from mech_grok.config_file import load_cell
from mech_grok.signals import Interrupted, unwinding
from mech_grok.train_stage import train_cell
torch.set_num_threads(1)
try:
    with unwinding():
        train_cell(Path(sys.argv[1]), load_cell(sys.argv[2]), resume=True, command="test")
except Interrupted as error:
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_cell(tmp_path_factory.mktemp("runs") / "cell", CONFIG, resume=False, command="a command")


def long_config(steps: int) -> CellConfig:
    training = CONFIG.training.model_copy(update={"steps": steps})
    return CONFIG.model_copy(update={"training": training})


def same_run(a: Run, b: Run) -> None:
    assert a.metrics.identical(b.metrics)
    final = a.config.training.steps
    weights = [load_tensors(weights_path(r.checkpoint_folder, final)) for r in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def test_reading_a_run(trained: Run) -> None:
    run = load_run(trained.path)
    assert run.steps == (0, 20, 40, 60)
    assert run.config == CONFIG
    assert dict(run.metrics.sizes) == {"seed": 2, "step": 60}
    frame = run.metrics.to_dataframe()
    assert frame.loc[(1, 60), "train_loss"] > 0
    evaluated = run.metrics.step[run.metrics.evaluated].values
    assert list(evaluated) == [1, 10, 20, 30, 40, 50, 60]
    assert np.isfinite(run.metrics.test_loss.sel(step=evaluated)).all()
    assert np.isnan(run.metrics.test_loss.sel(step=2)).all()
    assert run.tokens("train", seed=1).shape == (37, 3)
    assert run.tokens().shape == (121, 3)
    assert run.environment["command"] == "a command"
    assert run.environment["threads"] == torch.get_num_threads()
    assert run.diverged == {}
    assert run.probe_names == ()
    assert run.ablations is None


def test_model_at_a_checkpoint_has_the_recorded_loss(trained: Run) -> None:
    """Row t + 1 holds the train loss of the parameters after t updates, row t the test loss after t."""
    task = CONFIG.task.task
    for seed in CONFIG.training.seeds:
        for split, row, column in (("train", 41, "train_loss"), ("test", 40, "test_loss")):
            tokens = trained.tokens(split, seed=seed)
            answers = torch.from_numpy(task.answers(tokens[:, :2].numpy()))
            logits = trained.model(seed=seed, step=40)(tokens)[:, -1].detach().double()
            loss = torch.nn.functional.cross_entropy(logits, answers).item()
            assert loss == pytest.approx(float(trained.metrics[column].sel(seed=seed, step=row)), rel=1e-5)


def test_optimiser_states_are_thinned(trained: Run) -> None:
    kept = sorted(p.name for p in trained.checkpoint_folder.glob("optimiser_*"))
    assert kept == ["optimiser_000040.safetensors", "optimiser_000060.safetensors"]


def test_unknown_seed_step_probe(trained: Run) -> None:
    with pytest.raises(UserError, match="no seed 2; did you mean"):
        trained.model(seed=2)
    with pytest.raises(UserError, match="no checkpoint at step 42; nearest: 40 and 60"):
        trained.model(step=42)
    with pytest.raises(UserError, match="no probe 'fourier' here; recorded: none"):
        trained.probe("fourier")
    with pytest.raises(UserError, match="not a run directory"):
        load_run(trained.path.parent)


def test_a_finished_run_is_left_alone(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.path.rglob("*") if p.name != ".lock"}
    train_cell(trained.path, CONFIG, resume=False, command="other")
    assert "trained already (60 steps)" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in trained.path.rglob("*") if p.name != ".lock"}


def test_another_config_is_refused(trained: Run) -> None:
    other = CONFIG.model_copy(update={"optimiser": CONFIG.optimiser.model_copy(update={"lr": 0.01})})
    with pytest.raises(UserError, match=r"another config \(optimiser.lr: 0.001 there, 0.01 asked for\)"):
        train_cell(trained.path, other, resume=True, command="")
    assert first_difference(CONFIG, CONFIG) is None


@pytest.mark.parametrize("subtract", [False, True])
def test_stopping_and_resuming_changes_nothing(
    subtract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle of a checkpoint interval, by a signal to this process."""
    from mech_grok.training.trainer import Trainer

    update = Trainer._update

    def update_then_signal(self: Trainer) -> dict:
        row = update(self)
        if self.step == 27:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    training = CONFIG.training.model_copy(update={"subtract_initial_prediction": subtract})
    config = CONFIG.model_copy(update={"training": training})
    untouched = train_cell(tmp_path / "untouched", config, resume=False, command="")
    path = tmp_path / "cell"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", update_then_signal)
        with pytest.raises(Interrupted) as stopped:
            train_cell(path, config, resume=False, command="")
    assert stopped.value.exit_code == 143
    assert saved_steps(path / "checkpoints") == (0, 20, 27)
    assert dict(Run(path).metrics.sizes)["step"] == 27
    with pytest.raises(UserError, match="unfinished at step 27; continue with --resume"):
        train_cell(path, config, resume=False, command="")
    same_run(untouched, train_cell(path, config, resume=True, command=""))


def start(path: Path, config_path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _TRAIN, str(path), str(config_path)], stdout=subprocess.DEVNULL
    )


def wait_for_step(path: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(s >= step for s in saved_steps(path / "checkpoints")):
        assert time.monotonic() < deadline, "the training process wrote no checkpoint"
        time.sleep(0.002)


@pytest.mark.workers
@pytest.mark.parametrize("kills", [(140,), pytest.param((40, 140, 200), marks=pytest.mark.slow)])
def test_kill_9_then_resume_is_bit_identical(tmp_path: Path, kills: tuple[int, ...]) -> None:
    from mech_grok.config_file import to_yaml

    config = long_config(300)
    config_path = tmp_path / "cell.yaml"
    config_path.write_text(to_yaml(config))
    untouched = train_cell(tmp_path / "untouched", config, resume=False, command="")
    path = tmp_path / "killed"
    for step in kills:
        process = start(path, config_path)
        wait_for_step(path, step)
        with pytest.raises(UserError, match="another process is writing"), locked(path):
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        run = Run(path)
        assert step <= run.steps_done < 300
        assert np.isfinite(run.metrics.train_loss).all()
    same_run(untouched, train_cell(path, config, resume=True, command=""))


@pytest.mark.workers
def test_usr1_writes_a_checkpoint_and_sigterm_stops(tmp_path: Path) -> None:
    from mech_grok.config_file import to_yaml

    config = long_config(100_000).model_copy(
        update={"training": long_config(100_000).training.model_copy(update={"checkpoint_every": 50_000})}
    )
    config_path = tmp_path / "cell.yaml"
    config_path.write_text(to_yaml(config))
    path = tmp_path / "cell"
    process = start(path, config_path)
    wait_for_step(path, 0)
    deadline = time.monotonic() + 120
    while len(saved_steps(path / "checkpoints")) < 2:  # before it listens, SIGUSR1 finds nothing to write
        assert process.poll() is None
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as schedulers do
    assert process.wait(timeout=60) == 143
    assert 0 < saved_steps(path / "checkpoints")[-1] < 50_000


def test_a_truncated_checkpoint_is_named(trained: Run, tmp_path: Path) -> None:
    prepare(tmp_path / "cell", CONFIG)
    folder = tmp_path / "cell" / "checkpoints"
    folder.mkdir()
    whole = weights_path(trained.checkpoint_folder, 20).read_bytes()
    weights_path(folder, 20).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"step_000020.safetensors: not a whole safetensors file"):
        Run(tmp_path / "cell").model(step=20)
    weights_path(folder, 20).write_bytes(b"hello")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Run(tmp_path / "cell").model(step=20)


def test_a_checkpoint_of_another_model_is_named(trained: Run, tmp_path: Path) -> None:
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"d_model": 32})})
    prepare(tmp_path / "cell", other)
    folder = tmp_path / "cell" / "checkpoints"
    folder.mkdir()
    weights_path(folder, 20).write_bytes(weights_path(trained.checkpoint_folder, 20).read_bytes())
    with pytest.raises(UserError, match=r"has shape \(2, .*\), this run's model has"):
        Run(tmp_path / "cell").model(step=20)


def test_a_diverged_seed_leaves_the_others_alone(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mech_grok.training.trainer import Trainer

    update = Trainer._update

    def poison(self: Trainer) -> dict:
        if self.step == 30:
            self.parameters.flat[0, 5] = torch.nan
        return update(self)

    monkeypatch.setattr(Trainer, "_update", poison)
    run = train_cell(tmp_path / "cell", CONFIG, resume=False, command="")
    assert run.diverged == {3: 31}
    assert "seed 3 diverged at step 31" in capsys.readouterr().out
    assert run.metrics.sel(seed=1).identical(trained.metrics.sel(seed=1))
    assert (run.metrics.train_accuracy.sel(seed=3, step=slice(32, None)) == 0).all()
