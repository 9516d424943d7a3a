"""Runs that begin from a checkpoint of another one: weights, AdamW's state, scales, and what is recorded."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.interventions import bypass, insert
from mech_grok.model import GrokTransformer
from mech_grok.placement import Placement, all_placements
from mech_grok.run import Run
from mech_grok.signals import Interrupted
from mech_grok.study_config import set_dotted
from mech_grok.surgery import check_surgery
from mech_grok.surgery.match_scale import match_scale
from mech_grok.surgery.transplant import transplant
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import load_tensors, optimiser_path, save_tensors, weights_path
from mech_grok.training.parameters import ParameterStack

BASE: dict[str, Any] = {
    "task": {"p": 11},
    "model": {"d_model": 16, "n_heads": 2},
    "training": {
        "steps": 40,
        "seeds": [3, 1],
        "checkpoint_every": 10,
        "optimiser_state_every": 20,
        "dtype": "float64",
        "threads": 1,
    },
}
slow = pytest.mark.slow
STEP = 20  # its optimiser state is on disk; that of step 30 is not


def cell(**dotted: object) -> CellConfig:
    """The base config with changes: `model__placement="M"`."""
    tree = BASE
    for key, value in dotted.items():
        tree = set_dotted(tree, key.replace("__", "."), value)
    return CellConfig.model_validate(tree)


def child_of(parent: Run, placement: str, step: int = STEP, **changes: object) -> CellConfig:
    """A config that goes on from a parent, `surgery__match_scale=True` and the like included."""
    tree = parent.config.model_dump()
    tree["model"]["placement"] = Placement.parse(placement)
    tree["surgery"] = {"parent": parent.name, "step": step}
    for key, value in changes.items():
        tree = set_dotted(tree, key.replace("__", "."), value)
    return CellConfig.model_validate(tree)


def train(path: Path, config: CellConfig, resume: bool = False) -> Run:
    return train_cell(path, config, resume, command="test")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `off` (float32), and `exact-off`, `exact-M`, `exact-v` (float64)."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "off", cell(training__dtype="float32"))
    for name, placement in (("exact-off", "off"), ("exact-M", "M"), ("exact-v", "A^v")):
        train(folder / name, cell(model__placement=placement))
    return folder


@pytest.fixture
def parent(home: Path, tmp_path: Path) -> Run:
    """A copy of `off`, alone in its folder."""
    return Run(shutil.copytree(home / "off", tmp_path / "off"))


def same_future(child: Run, parent: Run) -> None:
    """Every row and every weight after the fork is the parent's, bit for bit."""
    later = slice(child.config.first_step + 1, None)
    assert child.metrics.identical(parent.metrics.sel(step=later))
    assert child.norms.identical(parent.norms.sel(step=later))
    for step in child.config.checkpoint_steps:
        here, there = child.weights(step), parent.weights(step)
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)


# The same placement: a control that has to be exact


@pytest.mark.parametrize(
    ("step", "origin"),
    [(0, "empty"), (20, "the parent's at step 20"), (30, "the parent's at step 30, replayed from step 20")],
)
def test_the_same_placement_has_the_parents_future(parent: Run, step: int, origin: str) -> None:
    child = train(parent.path.parent / "child", child_of(parent, "off", step))
    same_future(child, parent)
    assert child.surgery["optimiser"] == origin


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
        ("exact-v", "A*", lambda model: insert(model, {"q", "k"})),
        ("exact-v", "M", lambda model: [*bypass(model, {"v"}), *insert(model, {"mlp"})]),
    ],
)
def test_the_first_loss_is_that_of_the_parent_with_the_norms_changed_by_hooks(
    home: Path, tmp_path: Path, name: str, placement: str, hooks: Callable
) -> None:
    parent = Run(shutil.copytree(home / name, tmp_path / name))
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
    parent = Run(shutil.copytree(home / name, tmp_path / name))
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


AFFINE_LEAVES = ("w", "b")


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(all_placements()),
    st.sampled_from(all_placements()),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["ln", "rms"]),
)
def test_kept_new_and_dropped(before: Placement, after: Placement, shared: bool, frozen: bool, norm: str):
    """Kept: bit for bit. New: only norms, at gain 1 and bias 0. Dropped: what only the parent has."""
    model = {**BASE["model"], "shared_affine": shared, "freeze_norm_affine": frozen, "norm": norm}
    model |= {"init_scale": 0.5, "n_layers": 2}
    parent, child = (
        cell(model={**model, "placement": placement}, training__seeds=[3, 1]) for placement in (before, after)
    )
    stack = ParameterStack.initial(parent)
    weights = {name: torch.randn_like(x) for name, x in {**stack.named(), **stack.frozen}.items()}
    moved = transplant(weights, parent.model, child)
    own = {**moved.parameters.named(), **moved.parameters.frozen}
    assert set(own) == {*moved.kept, *moved.new}
    assert set(weights) == {*moved.kept, *moved.dropped}
    assert all(torch.equal(own[name], weights[name]) for name in moved.kept)
    for name in moved.new:
        assert name.rpartition(".")[2] in AFFINE_LEAVES
        assert (own[name] == (1 if name.endswith(".w") else 0)).all()
    if before == after:
        assert (moved.new, moved.dropped) == ((), ())
    if "post" in (before.arrangement, after.arrangement) and before != after:
        assert not any(".ln" in name for name in moved.kept)  # ln1 and ln2 are on the stream there
    elif before.arrangement == after.arrangement == "pre" and shared:
        both = before.pathways & after.pathways
        assert ("blocks.1.ln2.w" in moved.kept) == ("mlp" in both)
        assert ("blocks.1.ln1.w" in moved.kept) == bool(
            before.pathways - {"mlp"} and after.pathways - {"mlp"}
        )


@pytest.mark.parametrize(("before", "after", "value"), [(None, 2.0, 2.0), (3.0, None, None), (3.0, 3.0, 5.0)])
def test_attention_factors(before: float | None, after: float | None, value: float | None) -> None:
    """New as the config has it; kept as the parent's checkpoint has it, which is what was solved last."""
    parent, child = cell(model__attention_factor=before), cell(model__attention_factor=after)
    stack = ParameterStack.initial(parent)
    stack.frozen = {name: torch.full_like(x, 5.0) for name, x in stack.frozen.items()}
    moved = transplant({**stack.named(), **stack.frozen}, parent.model, child)
    assert [float(x.unique()) for x in moved.parameters.frozen.values()] == ([] if value is None else [value])
    check_surgery(
        child.model_copy(update={"surgery": None}), parent, Path("parent")
    )  # allowed where one has none, or both the same


# Matched scales


def lengths(model: GrokTransformer, tokens: torch.Tensor, layer: int, reader: str, everywhere: bool) -> float:
    """Mean L2 norm of what a reader reads, from a cache of the hooked model."""
    _, cache = model.run_with_cache(tokens)
    name = {"resid_mid": "hook_resid_mid", "mlp_out": "hook_mlp_out"}.get(reader, f"norm_{reader}.hook_out")
    x = cache[f"blocks.{layer}.{name}"]
    return float((x if everywhere else x[:, -1:]).norm(dim=-1).mean())


@torch.no_grad()
def matched(parent: Run, placement: str, **changes: object) -> tuple[dict[int, GrokTransformer], dict]:
    """The child's first models under match_scale, and the gains chosen."""
    config = child_of(parent, placement, parent.steps[-1] - 10, surgery__match_scale=True, **changes)
    step = config.first_step
    moved = transplant(parent.weights(step), parent.config.model, config)
    gains = match_scale(parent, step, config, moved)
    own = {**moved.parameters.named(), **moved.parameters.frozen}
    models = {}
    for row, seed in enumerate(config.training.seeds):
        models[seed] = GrokTransformer(config.model, config.task.p, dtype=torch.float64)
        parameters = dict(models[seed].named_parameters())
        for name, value in own.items():
            parameters[name].copy_(value[row])
    return models, gains


def test_a_gain_is_the_mean_length_over_the_root_of_the_width(home: Path) -> None:
    """A standardised vector has length sqrt(d_model), so the gain of M's norm has a closed form."""
    parent = Run(home / "exact-off")
    models, gains = matched(parent, "M")
    for seed, model in models.items():
        tokens = parent.tokens("train", seed)
        length = lengths(parent.model(seed, 30), tokens, 0, "resid_mid", everywhere=False)
        assert gains[seed] == {"blocks.0.ln2.w": pytest.approx(length / 4, rel=1e-9)}
        assert (model.blocks[0].ln2.w == gains[seed]["blocks.0.ln2.w"]).all()
        assert (model.blocks[0].ln2.b == 0).all()
        assert lengths(model, tokens, 0, "mlp", False) == pytest.approx(length, rel=1e-9)
    assert gains[3] != gains[1]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two layers, no norms."""
    config = cell(model__n_layers=2, training__steps=20, training__optimiser_state_every=10)
    return train(tmp_path_factory.mktemp("deep") / "off", config)


@pytest.mark.parametrize(
    ("placement", "groups"),
    [
        ("M+A*", [("q", "k", "v"), ("mlp",)]),
        ("post", [("resid_mid",)]),
        pytest.param("A^qk", [("q", "k")], marks=slow),
        pytest.param("peri", [("q", "k", "v"), ("mlp",), ("mlp_out",)], marks=slow),
    ],
)
def test_new_norms_write_vectors_as_long_as_were_read_there(deep: Run, placement: str, groups: list) -> None:
    """Sums over the pathways of one gain; in the last layer only k and v are read at all positions."""
    models, gains = matched(deep, placement)
    for seed, model in models.items():
        tokens, before = deep.tokens("train", seed), deep.model(seed, 10)
        for layer in (0, 1):
            for group in groups:
                measured = [
                    sum(lengths(m, tokens, layer, x, layer == 0 or x in ("k", "v")) for x in group)
                    for m in (before, model)
                ]
                assert measured[1] == pytest.approx(measured[0], rel=1e-9), (layer, group)
        assert all(gain > 0 and abs(gain - 1) > 1e-3 for gain in gains[seed].values())


def test_a_norm_that_joins_another_keeps_its_gain(home: Path) -> None:
    parent = Run(home / "exact-v")
    models, gains = matched(parent, "M+A*")
    assert gains[3].keys() == {"blocks.0.ln2.w"}
    assert torch.equal(models[3].blocks[0].ln1.w, parent.weights(30)["blocks.0.ln1.w"][0])


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
    assert (record["parent"], record["step"]) == (str(parent.path.resolve()), STEP)
    assert (record["new"], record["dropped"]) == (["blocks.0.ln2.w", "blocks.0.ln2.b"], [])
    assert {*record["kept"], *record["new"]} == child.weights(STEP).keys()
    for row, seed in enumerate(child.seeds):
        gain = child.weights(STEP)["blocks.0.ln2.w"][row]
        assert gain.unique().item() == pytest.approx(record["gains"][str(seed)]["blocks.0.ln2.w"], rel=1e-6)


def test_a_run_from_fresh_weights_has_no_parent(home: Path) -> None:
    run = Run(home / "off")
    assert (run.parent, run.parent_config, run.surgery) == (None, None, {})


# Stopping and going on


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    from mech_grok.training.trainer import Trainer

    update = Trainer._update

    def update_then_signal(self: Trainer) -> dict:
        row = update(self)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    monkeypatch.setattr(Trainer, "_update", update_then_signal)


@pytest.mark.parametrize("step", [35, *(pytest.param(step, marks=slow) for step in (21, 30))])
def test_stopped_and_resumed_without_its_parent(
    parent: Run, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = child_of(parent, "M")
    untouched = train(parent.path.parent / "untouched", config)
    path = parent.path.parent / "child"
    with monkeypatch.context() as patched:
        stop_at(patched, step)
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


# Mistakes


def complaint(parent: Run, config: CellConfig) -> str:
    """The one line with which training a child of a parent is refused; nothing is checkpointed then."""
    path = parent.path.parent / "child"
    with pytest.raises(UserError) as refused:
        train(path, config)
    assert Run(path).steps == ()
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (25, "no checkpoint at step 25; nearest: 20 and 30"),
        (39, "no checkpoint at step 39; nearest: 30 and 40"),
        (50, "no checkpoint at step 50 (trained to step 40); nearest: 40"),
    ],
)
def test_a_step_without_checkpoint(parent: Run, step: int, message: str) -> None:
    assert message in complaint(parent, child_of(parent, "M", step, training__steps=100))


def test_a_parent_that_is_missing_untrained_or_damaged(parent: Run) -> None:
    elsewhere = child_of(parent, "M", surgery__parent="../nowhere")
    assert "nowhere, and that is no run directory" in complaint(parent, elsewhere)
    shutil.rmtree(parent.path.parent / "child")
    config = child_of(parent, "M")
    weights = weights_path(parent.checkpoint_folder, STEP)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert "step_000020.safetensors: not a whole safetensors file" in complaint(parent, config)
    weights.write_bytes(whole)
    optimiser_path(parent.checkpoint_folder, STEP).write_bytes(b"hello")
    assert "optimiser_000020.safetensors: not a whole" in complaint(parent, config)
    shutil.rmtree(parent.checkpoint_folder)
    assert f"{parent.path}: no checkpoints yet; train it first" in complaint(parent, config)


def test_a_replay_that_does_not_come_out_as_saved(parent: Run) -> None:
    """As on another machine: the stored weights of step 30 are not those that a replay gives."""
    path = weights_path(parent.checkpoint_folder, 30)
    weights = load_tensors(path)
    weights["embed.W_E"][1, 2, 3] += 1e-6
    save_tensors(path, weights)
    environment = parent.path / "environment.json"
    environment.write_text(json.dumps({**json.loads(environment.read_text()), "torch": "1.0"}))
    line = complaint(parent, child_of(parent, "M", 30))
    assert "replayed to step 30, the weights differ from those saved (torch was 1.0, is" in line
    assert "--optimiser reset" in line
    shutil.rmtree(parent.path.parent / "child")
    child = train(parent.path.parent / "child", child_of(parent, "M", 30, surgery__optimiser="reset"))
    assert child.surgery["optimiser"] == "empty"
    assert torch.equal(child.weights(30)["embed.W_E"], weights["embed.W_E"])


def test_no_optimiser_state_to_replay_from(parent: Run) -> None:
    folder = parent.path.parent
    child = train(folder / "first", child_of(parent, "M"))
    for step in (20, 40):
        optimiser_path(child.checkpoint_folder, step).unlink()
    line = complaint(child, child_of(child, "off", 30))
    assert "first: no optimiser state up to step 30; begin with an empty one" in line


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task.p", 13, "task.p: 11 in runs/off, 13 asked for; a run that begins from another one differs"),
        ("model.d_model", 32, "model.d_model: 16 in runs/off, 32 asked for"),
        ("model.norm", "rms", "model.norm: ln in runs/off, rms asked for"),
        ("model.attention_factor", 2.0, "model.attention_factor: 1.5 in runs/off, 2.0 asked for"),
        ("optimiser.beta2", 0.99, "optimiser.beta2: 0.98 in runs/off, 0.99 asked for"),
        ("training.seeds", [3, 2], "training.seeds: [3, 1] in runs/off, [3, 2] asked for"),
        ("training.dtype", "float32", "training.dtype: float64 in runs/off, float32 asked for"),
        ("surgery.match_scale", True, "match_scale chooses the gain of a new norm; mlp-pre -> off adds none"),
    ],
)
def test_only_the_placement_and_how_training_goes_on_may_differ(
    key: str, value: object, message: str
) -> None:
    parent = cell(model__placement="M", model__attention_factor=1.5)
    tree = parent.model_dump() | {"surgery": {"parent": "off", "step": 10}}
    tree["model"] = tree["model"] | {"placement": "off"}
    changed = CellConfig.model_validate(set_dotted(tree, key, value))
    with pytest.raises(UserError) as refused:
        check_surgery(changed, parent, Path("runs/off"))
    assert message in str(refused.value)


def test_what_may_differ() -> None:
    parent = cell(model__attention_factor=1.5)
    changes = {
        "model.placement": "M",
        "model.attention_factor": 1.5,
        "optimiser.lr": 0.01,
        "optimiser.weight_decay": 0.0,
        "training.steps": 90,
        "training.evaluate_every": 3,
        "training.checkpoint_every": 7,
        "training.follow_entropy": {"of": "x"},
        "training.threads": None,
        "surgery": {"parent": "off", "step": 10, "match_scale": True},
    }
    tree = parent.model_dump()
    for key, value in changes.items():
        tree = set_dotted(tree, key, value)
    check_surgery(CellConfig.model_validate(tree), parent, Path("off"))


@pytest.mark.parametrize(
    ("before", "after"), [("M", "off"), ("off", "mlp-inpnorm"), ("A^v", "A*"), ("M", "M")]
)
def test_match_scale_without_a_gain_to_choose(before: str, after: str) -> None:
    parent = cell(model__placement=before)
    surgery = {"parent": "x", "step": 10, "match_scale": True}
    with pytest.raises(UserError, match="adds none that has a gain of its own"):
        check_surgery(cell(model__placement=after, surgery=surgery), parent, Path("x"))


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
