"""Runs that begin from a checkpoint of another one: what they begin with, their future, what is recorded."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import STEP, alone, cell, child_of, same_future, train, train_parents
from test_cli import stop_at

from mech_grok.errors import UserError
from mech_grok.interventions import bypass, insert
from mech_grok.model import GrokTransformer
from mech_grok.run import Run, beside
from mech_grok.signals import Interrupted
from mech_grok.training.checkpoints import load_tensors, optimiser_path, weights_path

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs to begin from."""
    return train_parents(tmp_path_factory.mktemp("runs"), "off", "exact-off", "exact-M", "exact-v")


@pytest.fixture
def parent(home: Path, tmp_path: Path) -> Run:
    """A copy of `off`, alone in its folder."""
    return alone(home, "off", tmp_path)


# The same placement: a control that has to be exact


@pytest.mark.parametrize(
    ("step", "origin"),
    [
        (0, "empty"),
        pytest.param(20, "the parent's at step 20", marks=slow),
        (30, "the parent's at step 30, replayed from step 20"),
    ],
)
def test_the_same_placement_has_the_parents_future(parent: Run, step: int, origin: str) -> None:
    child = train(parent.path.parent / "child", child_of(parent, "off", step))
    same_future(child, parent)
    assert child.surgery["optimiser"] == origin


@slow
def test_a_run_that_was_forked_can_be_forked_again(parent: Run) -> None:
    """The replay for the second goes back to the first checkpoint of the first, and no further."""
    folder = parent.path.parent
    changes = {"training__checkpoint_every": 5, "training__optimiser_state_every": 1000}
    child = train(folder / "child", child_of(parent, "off", **changes))
    assert not optimiser_path(child.checkpoint_folder, 35).exists()
    shutil.rmtree(parent.path)
    grandchild = train(folder / "grandchild", child_of(child, "off", 35))
    assert grandchild.surgery["optimiser"] == "the parent's at step 35, replayed from step 20"
    same_future(grandchild, child)


@slow
def test_a_run_that_follows_entropies_is_replayed_with_them(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text("step,entropy\n0,1.05\n40,0.9\n")
    follow = {"of": "curve.csv", "every": 7}
    parent = train(tmp_path / "p", cell(model__attention_factor=1.0, training__follow_entropy=follow))
    child = train(tmp_path / "c", child_of(parent, "off", 30, training__follow_entropy=None))
    factor = next(name for name in child.weights(30) if name.endswith("factor"))
    assert factor in child.surgery["kept"]
    for step in (30, 40):  # it keeps the factors that it found, and does not follow any more
        assert torch.equal(child.weights(step)[factor], parent.weights(30)[factor])
    row = child.metrics.sel(step=31).train_loss.values
    assert (row == parent.metrics.sel(step=31).train_loss.values).all()


# Another placement


def hooked_loss(run: Run, seed: int, hooks: Callable[[GrokTransformer], list]) -> float:
    """Train loss of a checkpoint through the hooked model, in float64."""
    model, tokens = run.model(seed, STEP), run.tokens("train", seed)
    answers = torch.from_numpy(run.config.task.task.answers(tokens[:, :2].numpy()))
    with torch.no_grad(), model.hooks(fwd_hooks=hooks(model)):
        return float(torch.nn.functional.cross_entropy(model(tokens)[:, -1], answers))


@pytest.mark.parametrize(
    ("name", "placement", "hooks"),
    [
        ("exact-M", "off", lambda model: bypass(model, {"mlp"})),
        pytest.param("exact-off", "M", lambda model: insert(model, {"mlp"}), marks=slow),
        ("exact-off", "M+A*", lambda model: insert(model, {"q", "k", "v", "mlp"})),
        pytest.param("exact-v", "A*", lambda model: insert(model, {"q", "k"}), marks=slow),
        ("exact-v", "M", lambda model: [*bypass(model, {"v"}), *insert(model, {"mlp"})]),
    ],
)
def test_the_first_loss_is_that_of_the_parent_with_the_norms_changed_by_hooks(
    home: Path, tmp_path: Path, name: str, placement: str, hooks: Callable
) -> None:
    parent = alone(home, name, tmp_path)
    child = train(tmp_path / "child", child_of(parent, placement, training__steps=STEP + 1))
    for seed in parent.seeds:
        expected = hooked_loss(parent, seed, hooks)
        assert abs(expected - float(parent.metrics.train_loss.sel(seed=seed, step=STEP + 1))) > 1e-5
        first = float(child.metrics.train_loss.sel(seed=seed, step=STEP + 1))
        assert first == pytest.approx(expected, rel=1e-12)


def moments_by_name(run: Run, seed: int, which: str) -> dict[str, torch.Tensor]:
    """A seed's stored moments, cut up by the order and shapes of the model's own parameters."""
    flat = load_tensors(optimiser_path(run.checkpoint_folder, STEP))[which][run.seeds.index(seed)]
    found, start = {}, 0
    for name, parameter in run.model(seed, STEP).trained_parameters().items():
        found[name] = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    assert start == len(flat)
    return found


def step_by_torch(parent: Run, child: Run, seed: int, optimiser: str) -> GrokTransformer:
    """One update of the child's first model by a stock AdamW, one state per parameter, hooked model."""
    model, tokens = child.model(seed, STEP), child.tokens("train", seed)
    o = child.config.optimiser
    trained = model.trained_parameters()
    adamw = torch.optim.AdamW(
        trained.values(), lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay
    )
    if optimiser == "keep":
        before = {which: moments_by_name(parent, seed, which) for which in ("exp_avg", "exp_avg_sq")}
        for name, parameter in trained.items():
            state = {which: before[which].get(name, torch.zeros_like(parameter)) for which in before}
            adamw.state[parameter] = {**state, "step": torch.tensor(float(STEP))}
    answers = torch.from_numpy(child.config.task.task.answers(tokens[:, :2].numpy()))
    torch.nn.functional.cross_entropy(model(tokens)[:, -1], answers).backward()
    adamw.step()
    return model


@pytest.mark.parametrize(
    ("name", "placement", "optimiser"),
    [
        ("exact-M", "off", "keep"),
        ("exact-off", "M+A*", "keep"),
        ("exact-v", "A*", "reset"),
        pytest.param("exact-v", "A*", "keep", marks=slow),
        pytest.param("exact-off", "M", "reset", marks=slow),
    ],
)
def test_the_first_update_is_that_of_a_stock_adamw(
    home: Path, tmp_path: Path, name: str, placement: str, optimiser: str
) -> None:
    parent = alone(home, name, tmp_path)
    config = child_of(parent, placement, training__steps=STEP + 1, surgery__optimiser=optimiser)
    child = train(tmp_path / "child", config)
    for seed in child.seeds:
        expected = step_by_torch(parent, child, seed, optimiser).trained_parameters()
        found = child.model(seed, STEP + 1).trained_parameters()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)


def test_steps_of_a_new_parameter_are_as_long_as_the_docstring_says() -> None:
    """AdamW at a constant gradient, zero moments and a large count of updates: step length over lr."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adamw = torch.optim.AdamW([weight], lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)
    zero = torch.zeros_like(weight)
    adamw.state[weight] = {"exp_avg": zero, "exp_avg_sq": zero.clone(), "step": torch.tensor(5000.0)}
    lengths = []
    for _ in range(201):
        before = float(weight.detach())
        weight.grad = torch.ones_like(weight)
        adamw.step()
        lengths.append(before - float(weight.detach()))
    assert lengths[0] == pytest.approx(0.1 / 0.02**0.5, rel=1e-6)
    assert max(lengths) == pytest.approx(1.55, abs=0.01)
    assert np.argmax(lengths) == 13
    assert lengths[200] == pytest.approx(1, abs=0.01)


def test_a_learning_rate_of_its_own(parent: Run) -> None:
    """The same gradient and moments; the update is longer by the ratio of the rates (decay goes with it)."""
    changes = {"training__steps": STEP + 1, "optimiser__lr": 2e-3}
    child = train(parent.path.parent / "child", child_of(parent, "off", **changes))
    ratio = child.metrics.update_norm.values[:, 0] / parent.metrics.update_norm.sel(step=STEP + 1).values
    np.testing.assert_allclose(ratio, 2.0, rtol=1e-4)


def test_fork_leaves_the_parent_alone(parent: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in parent.path.rglob("*")}
    train(parent.path.parent / "child", child_of(parent, "M", 30, surgery__match_scale=True))
    assert before == {p: p.stat().st_mtime_ns for p in parent.path.rglob("*")}


# What a run directory holds


def test_a_child_has_its_own_steps_only(home: Path) -> None:
    parent = Run(home / "off")
    child = train(home / "offset", child_of(parent, "M", 30, training__evaluate_every=5))
    assert child.steps == (30, 40)
    assert (child.steps_done, child.rows_done, child.is_trained) == (40, 10, True)
    for data in (child.metrics, child.norms):
        assert list(data.step.values) == list(range(31, 41))
        assert all(np.isfinite(data[name]).all() for name in data.data_vars if "test" not in str(name))
    assert list(child.metrics.step[child.metrics.evaluated].values) == [35, 40]
    assert "0_norms" in child.norms.group


def test_what_was_done_is_recorded_and_outlives_the_parent(parent: Run) -> None:
    config = child_of(parent, "M", surgery__match_scale=True)
    child = train(parent.path.parent / "child", config)
    assert child.parent is not None
    assert child.parent.path == parent.path
    shutil.rmtree(parent.path)
    assert child.parent is None
    assert child.parent_config == parent.config
    record = child.surgery
    assert (record["parent"], record["step"]) == ("off", STEP)
    assert (record["new"], record["dropped"]) == (["blocks.0.ln2.w", "blocks.0.ln2.b"], [])
    assert {*record["kept"], *record["new"]} == child.weights(STEP).keys()
    for row, seed in enumerate(child.seeds):
        gain = child.weights(STEP)["blocks.0.ln2.w"][row]
        assert gain.unique().item() == pytest.approx(record["gains"][str(seed)]["blocks.0.ln2.w"], rel=1e-6)


def test_a_study_that_was_moved_still_names_the_parent(parent: Run) -> None:
    child = train(parent.path.parent / "child", child_of(parent, "M", 30))
    moved = Run(child.path.parent.rename(parent.path.parent.with_name("moved")) / "child")
    assert Run(beside(moved.path, moved.surgery["parent"])).config == parent.config
    assert str(parent.path.parent) not in (moved.path / "surgery.json").read_text()


def test_a_run_from_fresh_weights_has_no_parent(home: Path) -> None:
    run = Run(home / "off")
    assert (run.parent, run.parent_config, run.surgery) == (None, None, {})


# Stopping and going on


@pytest.mark.parametrize("step", [35, *(pytest.param(step, marks=slow) for step in (21, 30))])
def test_stopped_and_resumed_without_its_parent(
    parent: Run, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = child_of(parent, "M")
    untouched = train(parent.path.parent / "untouched", config)
    path = parent.path.parent / "child"
    with monkeypatch.context() as patched:
        stop_at(patched, step, signal.SIGTERM)
        with pytest.raises(Interrupted):
            train(path, config)
    assert Run(path).rows_done == step - STEP
    shutil.rmtree(parent.path)
    with pytest.raises(UserError, match=f"unfinished at step {step}; continue with --resume"):
        train(path, config)
    child = train(path, config, resume=True)
    same_future(child, untouched)
    assert child.environment["threads"] == 1


@pytest.mark.parametrize("lost", ["weights", pytest.param("environment", marks=slow)])
def test_killed_around_the_first_checkpoint_it_begins_again(parent: Run, lost: str) -> None:
    """Without its weights the first checkpoint is not there; without rows nothing asks for --resume."""
    config = child_of(parent, "M", 30)
    untouched = train(parent.path.parent / "untouched", config)
    path = shutil.copytree(untouched.path, parent.path.parent / "child")
    weights_path(path / "checkpoints", 40).unlink()
    (weights_path(path / "checkpoints", 30) if lost == "weights" else path / "environment.json").unlink()
    same_future(train(path, config), untouched)
