"""Training whose attention follows given entropies, measured on the models that it leaves behind."""

import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from mech_grok.checkpoint_stages import probe_run
from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.followed_curve import curve_of_csv, curve_of_run, curve_to_follow
from mech_grok.run import Run
from mech_grok.signals import Interrupted
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import load_tensors, optimiser_path, weights_path
from mech_grok.training.entropy_curve import EntropyCurve
from mech_grok.training.follow_entropy import solution_steps
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import Trainer

pytestmark = pytest.mark.whole


def cell(model=(), training=(), **rest):
    """Two seeds at p = 11 in float64; checkpoints at every tenth step."""
    tree = {
        "task": {"p": 11},
        "model": {"d_model": 16, "n_heads": 2, "attention_factor": 1.0, **dict(model)},
        "training": {
            "steps": 40,
            "seeds": [3, 1],
            "checkpoint_every": 10,
            "optimiser_state_every": 10,
            "dtype": "float64",
            "follow_entropy": {"of": "curve.csv", "every": 10},
            **dict(training),
        },
    }
    return CellConfig.model_validate(tree | rest)


def train(path, config, resume=False):
    return train_cell(path, config, resume=resume, command="test")


def write(folder, text):
    (folder / "curve.csv").write_text(text)
    return folder / "curve.csv"


@torch.no_grad()
def measured(run, seed, step):
    """Entropy at '=' [layer, head] of a checkpoint's model, mean over the seed's train set, in numpy."""
    _, cache = run.model(seed, step).run_with_cache(run.tokens("train", seed))
    found = []
    for layer in range(run.config.model.n_layers):
        x = cache[f"blocks.{layer}.attn.hook_attn_scores"][:, :, -1].double().numpy()
        weights = np.exp(x - x.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        found.append(-(weights * np.log(np.maximum(weights, 1e-300))).sum(-1).mean(0))
    return np.array(found)


def same_run(a, b):
    assert a.metrics.identical(b.metrics)
    assert a.attention_factors is not None
    assert a.attention_factors.identical(b.attention_factors)
    for step in a.config.checkpoint_steps:
        mine, other = (load_tensors(weights_path(r.checkpoint_folder, step)) for r in (a, b))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[n], other[n]) for n in mine)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [
        ({"placement": "off"}, 1e-9),
        ({"placement": "A^qk", "qk_norm": True, "n_layers": 2}, 1e-9),
        ({"placement": "pre", "n_layers": 3, "attention_factor": 5.0, "init_scale": 1.4}, 1e-9),
    ],
    ids=["one layer", "qk-norm depth 2", "depth 3"],
)
def test_every_solved_step_has_the_entropy_asked_for(tmp_path, model, tolerance):
    write(tmp_path, "step,entropy\n0,1.05\n20,0.4\n30,0.4\n")
    run = train(tmp_path / "cell", cell(model))
    record = run.attention_factors
    assert record.step.values.tolist() == [0, 10, 20, 30, 40]
    for step, target in zip(record.step.values, (1.05, 0.725, 0.4, 0.4, 0.4), strict=True):
        for seed in run.seeds:
            np.testing.assert_allclose(measured(run, seed, int(step)), target, atol=tolerance)
            at = record.sel(seed=seed, step=step)
            np.testing.assert_allclose(at.target, target, atol=1e-12)
            np.testing.assert_allclose(at.entropy, target, atol=1e-9)
            own = run.model(seed, int(step)).frozen_parameters()
            kept = [own[f"blocks.{layer}.attn.score_factor"].numpy() for layer in record.layer.values]
            assert np.array_equal(at.factor, kept)
    assert {record[name].attrs["units"] for name in ("target", "entropy")} == {"nats"}


def test_a_number_is_followed_at_every_step(tmp_path):
    run = train(tmp_path / "run", cell(training={"follow_entropy": {"of": 0.4, "every": 20}}))
    for step in (0, 20, 40):
        np.testing.assert_allclose(measured(run, 1, step), 0.4, atol=1e-9)


@pytest.mark.parametrize("of", [-0.1, 1.0987])
def test_numbers_that_are_no_entropy_are_refused(of):
    with pytest.raises(ValueError, match=r"from 0 to log 3 = 1\.0986 nats, not"):
        cell(training={"follow_entropy": {"of": of}})


def test_float32_training_at_p_23(tmp_path):
    """With the precision of the weights: scores of order 1, times 6e-8."""
    write(tmp_path, "step,entropy\n0,0.8\n")
    config = cell({"placement": "M"}, {"dtype": "float32", "steps": 30}, task={"p": 23})
    run = train(tmp_path / "cell", config)
    for seed in run.seeds:
        for step in (0, 10, 20, 30):
            np.testing.assert_allclose(measured(run, seed, step), 0.8, atol=1e-6)


def test_factors_stay_between_solutions_and_change_at_them(tmp_path):
    write(tmp_path, "step,entropy\n0,1.0\n40,0.2\n")
    config = cell(training={"checkpoint_every": 5, "follow_entropy": {"of": "curve.csv", "every": 20}})
    run = train(tmp_path / "cell", config)
    factor = {
        step: float(run.model(3, step).frozen_parameters()["blocks.0.attn.score_factor"][0])
        for step in run.steps
    }
    assert factor[0] == factor[5] == factor[15]
    assert factor[20] == factor[25] == factor[35]
    assert factor[0] < factor[20] < factor[40]


def test_metrics_are_those_of_the_model_with_its_factors(tmp_path):
    """Row t has the train loss before update t, with the factors solved after t - 1, and test loss after."""
    write(tmp_path, "step,entropy\n0,0.5\n40,0.1\n")
    run = train(tmp_path / "cell", cell())
    task = run.config.task.task
    for split, row, column in (("train", 21, "train_loss"), ("test", 20, "test_loss")):
        tokens = run.tokens(split, seed=1)
        answers = torch.from_numpy(task.answers(tokens[:, :2].numpy()))
        logits = run.model(seed=1, step=20)(tokens)[:, -1].detach()
        loss = torch.nn.functional.cross_entropy(logits, answers).item()
        assert loss == pytest.approx(float(run.metrics[column].sel(seed=1, step=row)), rel=1e-9)


def test_following_oneself_changes_nothing(tmp_path):
    base = train(tmp_path / "base", cell(training={"follow_entropy": None}))
    assert base.attention_factors is None
    probe_run(base, ["attention"])
    run = train(tmp_path / "cell", cell(training={"follow_entropy": {"of": "base", "every": 10}}))
    assert (run.attention_factors.factor == 1).all()
    assert run.metrics.identical(base.metrics)


def test_a_target_out_of_reach_keeps_the_factor_and_the_training_going():
    config = cell({"attention_factor": 2.5}, {"steps": 20})
    stack = ParameterStack.initial(config)
    stack.named()["blocks.0.attn.W_Q"][0].zero_()  # seed 3: all scores are 0, whatever the factor
    trainer = Trainer(config, stack, curve=constant(0.7))
    (first,) = trainer.take_solved()
    assert (first.factor[0] == 2.5).all()
    np.testing.assert_allclose(first.entropy[0], math.log(3))
    np.testing.assert_allclose(first.entropy[1], 0.7, atol=1e-9)
    stack.flat[0, 0] = torch.nan  # seed 3 diverges
    rows = trainer.advance(10)
    (second,) = trainer.take_solved()
    assert np.isnan(second.entropy[0]).all()
    assert (second.factor[0] == 2.5).all()
    np.testing.assert_allclose(second.entropy[1], 0.7, atol=1e-9)
    assert np.isfinite(rows["train_loss"][1]).all()


def constant(entropy):
    return EntropyCurve(np.array([0]), np.full((1, 2, 1, 2), entropy))


def test_a_curve_goes_with_the_config_that_asks_for_it():
    follows = cell()
    with pytest.raises(ValueError, match="give both or neither"):
        Trainer(follows, ParameterStack.initial(follows))
    plain = cell(training={"follow_entropy": None})
    with pytest.raises(ValueError, match="give both or neither"):
        Trainer(plain, ParameterStack.initial(plain), curve=constant(1.0))


def test_solutions_are_at_the_first_step_and_at_multiples():
    assert solution_steps(cell(training={"follow_entropy": None})) == ()
    every = {"follow_entropy": {"of": "x", "every": 15}}
    assert solution_steps(cell(training=every)) == (0, 15, 30)
    forked = cell(training=every, surgery={"parent": "x", "step": 20})
    assert solution_steps(forked) == (20, 30)


# --- stopping and going on ------------------------------------------------------------------------


SUBTRACTING = cell(training={"subtract_initial_prediction": True})


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write(folder, "step,entropy\n0,0.9\n40,0.3\n")
    return train(folder / "untouched", cell())


def killed_after(run, step, path):
    """A copy of a run whose record is ahead of its checkpoints, as after kill -9."""
    shutil.copytree(run.path, path)
    for later in (s for s in run.steps if s > step):
        weights_path(path / "checkpoints", later).unlink()
        optimiser_path(path / "checkpoints", later).unlink()
    return Run(path)


@pytest.mark.parametrize("at", [17, 20])
def test_a_signal_and_resume_change_nothing(untouched, monkeypatch, at):
    """In the middle of an interval, and right after a solution."""
    path = untouched.path.with_name(f"stopped-{at}")
    update = Trainer._update

    def update_then_signal(self):
        row = update(self)
        if self.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", update_then_signal)
        with pytest.raises(Interrupted):
            train(path, cell())
    assert Run(path).attention_factors.step.values.tolist() == [s for s in (0, 10, 20) if s <= at]
    same_run(untouched, train(path, cell(), resume=True))


@pytest.mark.parametrize("last", [0, 20])
def test_solutions_after_the_last_checkpoint_are_made_again(untouched, last):
    run = killed_after(untouched, last, untouched.path.with_name(f"killed-{last}"))
    assert run.attention_factors.step.values.tolist() == list(range(0, last + 1, 10))
    same_run(untouched, train(run.path, cell(), resume=True))


def test_the_initial_prediction_is_that_of_the_first_factors(untouched):
    whole = train(untouched.path.with_name("subtracting"), SUBTRACTING)
    run = killed_after(whole, 20, untouched.path.with_name("subtracting-killed"))
    same_run(whole, train(run.path, SUBTRACTING, resume=True))
    assert float(whole.metrics.train_loss.sel(seed=3, step=1)) == pytest.approx(math.log(12), abs=1e-12)


# --- where curves come from -----------------------------------------------------------------------


def test_a_curve_is_linear_between_its_steps_and_constant_outside():
    values = np.array([0.2, 1.0, 0.6])[:, None, None, None] * np.ones((3, 2, 1, 2))
    curve = EntropyCurve(np.array([10, 20, 40]), values)
    for step, expected in ((0, 0.2), (10, 0.2), (15, 0.6), (20, 1.0), (35, 0.7), (40, 0.6), (1000, 0.6)):
        np.testing.assert_allclose(curve.at(step), np.full((2, 1, 2), expected), atol=1e-15)


def test_curves_that_are_none():
    with pytest.raises(ValueError, match=r"one or more ascending steps, not \[10, 10\]"):
        EntropyCurve(np.array([10, 10]), np.zeros((2, 1, 1, 1)))
    for wrong in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError, match=rf"entropy {wrong:g} at step 7; .* 0 to log 3 = 1\.09861 nats"):
            EntropyCurve(np.array([3, 7]), np.array([1.0, wrong]).reshape(2, 1, 1, 1))


def test_curves_of_a_csv_file_differ_by_what_it_names(tmp_path):
    lines = [
        "step, head, entropy, seed",
        "0,0,0.1,3",
        "20,0,0.3,3",
        "0,1,0.5,3",
        "0,0,0.7,1",
        "0,1,0.8,1",
        "",
    ]
    curve = curve_of_csv(write(tmp_path, "\n".join(lines)), cell({"n_layers": 2}))
    expected = [[[0.2, 0.5]] * 2, [[0.7, 0.8]] * 2]
    np.testing.assert_allclose(curve.at(10), expected, atol=1e-15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"curve.csv line 1: no column 'entropy'; it has step, entropy and"),
        ("step,entropy", "curve.csv: no line with an entropy in it"),
        ("step,entropy,epoch\n", "line 1: column 'epoch'; it has step, entropy and"),
        ("step,step,entropy\n", "line 1: column 'step'"),
        ("step,entropy\n0,1.0\n\n5,high", "line 4: entropy 'high' is not a number"),
        ("step,entropy\n0,nan", "line 2: entropy 'nan' is not a number"),
        ("step,entropy\n0,1.2", r"line 2: entropy 1\.2; allowed: 0 to log 3 = 1\.09861 nats"),
        ("step,entropy\n0,-0.2", r"line 2: entropy -0\.2; allowed"),
        ("step,entropy\n0.5,1", "line 2: step '0.5' is not a whole number from 0 on"),
        ("step,entropy\n-5,1", "line 2: step '-5' is not a whole number from 0 on"),
        ("step,entropy\n0,1\n0,1", "line 3: step 0 is there twice"),
        ("step,entropy\n0,1,1", "line 2: 3 values for 2 columns"),
        ("step,entropy,head\n0,1,2", "line 2: head 2; allowed: 0 to 1"),
        ("step,entropy,layer\n0,1,1", "line 2: layer 1; allowed: 0 to 0"),
        ("step,entropy,head\n0,1,0", "curve.csv: no entropies for head 1"),
        ("step,entropy,seed\n0,1,3", "curve.csv: no entropies for seed 1"),
    ],
)
def test_mistakes_in_a_csv_file_name_the_line(tmp_path, text, message):
    write(tmp_path, text)
    with pytest.raises(UserError, match=message):
        train(tmp_path / "cell", cell())


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    run = train(tmp_path_factory.mktemp("runs") / "base", cell(training={"follow_entropy": None}))
    probe_run(run, ["attention"])
    return run


def test_a_runs_curve_is_what_its_checkpoints_have(probed):
    curve = curve_of_run(probed.path, cell())
    assert curve.steps.tolist() == [0, 10, 20, 30, 40]
    for row, seed in enumerate(probed.seeds):
        np.testing.assert_allclose(curve.at(20)[row], measured(probed, seed, 20), atol=1e-9)
    other = curve_of_run(probed.path, cell(training={"seeds": [1, 99]}))
    mean = (measured(probed, 3, 20) + measured(probed, 1, 20)) / 2
    np.testing.assert_allclose(other.at(20), [measured(probed, 1, 20), mean], atol=1e-9)


def test_paths_are_relative_to_the_folder_of_the_run_or_absolute(probed):
    for of in ("base", str(probed.path.resolve()), "../" + probed.path.parent.name + "/base"):
        config = cell(training={"follow_entropy": {"of": of}})
        found = curve_to_follow(probed.path.parent / "cell", config)
        assert np.array_equal(found.values, curve_of_run(probed.path, config).values)
    assert curve_to_follow(probed.path, probed.config) is None


def test_runs_that_cannot_be_followed(probed, tmp_path):
    with pytest.raises(UserError, match="base: has 1 x 2 layers and heads, this run 2 x 4"):
        curve_of_run(probed.path, cell({"n_layers": 2, "n_heads": 4}))
    with pytest.raises(UserError, match=r"elsewhere is neither a run directory nor a CSV file"):
        train(tmp_path / "cell", cell(training={"follow_entropy": {"of": "elsewhere"}}))
    bare = train(tmp_path / "bare", cell(training={"follow_entropy": None, "steps": 10}))
    with pytest.raises(UserError, match=r"no probe 'attention' here.*mech-grok probe .* --probes attention"):
        curve_of_run(bare.path, cell())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: not a run directory"):
        curve_of_run(tmp_path / "empty", cell())


def test_a_fork_is_solved_from_its_first_step(probed):
    write(probed.path.parent, "step,entropy\n0,0.9\n")
    config = cell(
        training={"follow_entropy": {"of": "curve.csv", "every": 15}}, surgery={"parent": "base", "step": 20}
    )
    run = train(probed.path.parent / "fork", config)
    assert run.attention_factors.step.values.tolist() == [20, 30]
    for step in (20, 30):
        np.testing.assert_allclose(measured(run, 3, step), 0.9, atol=1e-9)


@pytest.mark.parametrize("step", [20, 25])
def test_a_fork_of_a_run_that_follows_entropies_has_its_future(untouched, step):
    """At a step at which factors were solved, and between two."""
    often = {"checkpoint_every": 5, "optimiser_state_every": 5}
    folder = untouched.path.parent
    parent = train(folder / f"parent-of-{step}", cell(training=often))
    child = train(
        folder / f"fork-at-{step}",
        cell(training=often, surgery={"parent": parent.path.name, "step": step}),
    )
    later = slice(step + 1, None)
    assert child.metrics.identical(parent.metrics.sel(step=later))
    assert child.attention_factors.identical(parent.attention_factors.sel(step=later))
    for at in child.config.checkpoint_steps:
        mine, other = child.weights(at), parent.weights(at)
        assert all(torch.equal(mine[name], other[name]) for name in other)
