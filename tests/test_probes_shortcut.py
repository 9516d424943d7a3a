import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PLACEMENTS, clock_loss, clock_model, random_model, same_weights

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.probes import measure
from mech_grok.probes.observation import logits_under
from mech_grok.probes.shortcut import bypass_hooks, unit_mlp_hooks
from mech_grok.task import Task
from mech_grok.training.loss import score

P = 5
TASK = Task("add", P, 0.6)
SPLIT = TASK.split_indices(0)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))
ANSWERS = torch.as_tensor(TASK.answers(TASK.pairs()))

VARIANTS = [
    {"n_layers": 2},
    {"norm": "rms", "final_norm": "on", "readout_scale": 2.0},
    {"n_layers": 2, "activation": "swiglu", "tied_unembed": True},
]


def shortcut(model):
    return measure(model, TASK, SPLIT, ["shortcut"])["shortcut"]


def logits_of(model):
    with torch.no_grad():
        return model(TOKENS)[:, -1]


def assert_scores(seen, loss, accuracy, logits, scale=1.0):
    for name, index in {"all": range(P * P), **SPLIT}.items():
        index = torch.as_tensor(list(index))
        expected = score(logits[index], ANSWERS[index], scale)
        assert float(seen[loss].sel(split=name)) == pytest.approx(expected.loss.item(), rel=1e-12)
        assert float(seen[accuracy].sel(split=name)) == pytest.approx(expected.accuracy.item(), rel=1e-12)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("settings", VARIANTS, ids=["depth-2", "rms-final", "swiglu-tied"])
def test_reference_switch_is_the_model_with_a_unit_mlp_input_and_no_other_norm(placement, settings):
    model = random_model(P, placement=placement, **settings)
    seen = shortcut(model)
    assert_scores(seen, "loss", "accuracy", logits_of(model))
    switched = logits_of(same_weights(model, placement="mlp-inpnorm"))
    assert_scores(seen, "sr_loss_reference_switch", "sr_accuracy_reference_switch", switched)


@torch.no_grad()
def by_hand(model):
    """Logits of a one-layer model whose MLP reads the unit vector along its input, from the cache."""
    _, cache = model.run_with_cache(TOKENS)
    block, resid_mid = model.blocks[0], cache["blocks.0.hook_resid_mid"][:, -1:]
    length = resid_mid.square().sum(-1, keepdim=True).sqrt()
    mlp_out = block.norm_mlp_out(block.mlp(resid_mid / length))
    return model.unembed(block.norm_resid_post(resid_mid + mlp_out))[:, 0]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_sr_changes_what_the_mlp_reads_and_nothing_else(placement, activation):
    model = random_model(P, placement=placement, activation=activation, final_norm="on")
    assert_scores(shortcut(model), "sr_loss", "sr_accuracy", by_hand(model))


@pytest.mark.parametrize("placement", ["q", "pre", "v+mlp"])
def test_sr_keeps_the_attention_norms_at_depth_2(placement):
    model = random_model(P, placement=placement, n_layers=2)
    other = random_model(P, placement=placement, n_layers=2)
    for block in other.blocks:
        # The same change without hooks: another norm in the module's place.
        block.norm_mlp = GrokTransformer(ModelConfig(placement="mlp-inpnorm"), P).blocks[0].norm_mlp
    assert_scores(shortcut(model), "sr_loss", "sr_accuracy", logits_of(other))


@pytest.mark.parametrize("placement", ["off", "mlp-pre", "mlp-inpnorm"])
def test_without_other_norms_both_readings_are_one(placement):
    seen = shortcut(random_model(P, placement=placement, n_layers=2))
    assert seen["sr_loss"].values.tolist() == seen["sr_loss_reference_switch"].values.tolist()
    assert seen["sr_accuracy"].values.tolist() == seen["sr_accuracy_reference_switch"].values.tolist()


def test_with_attention_norms_the_two_readings_differ():
    seen = shortcut(random_model(P, placement="attn-pre"))
    assert abs(float((seen["sr_loss"] - seen["sr_loss_reference_switch"]).sel(split="all"))) > 1e-3


def test_a_model_trained_with_unit_input_is_left_as_it_is():
    seen = shortcut(random_model(P, placement="mlp-inpnorm"))
    assert seen["sr_loss"].values == pytest.approx(seen["loss"].values, rel=1e-12)


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.sampled_from(PLACEMENTS))
def test_length_of_the_mlp_input_does_not_matter_once_removed(factor, placement):
    model = random_model(P, placement=placement)
    longer = ("blocks.0.norm_mlp.hook_in", lambda x, hook: factor * x)
    torch.testing.assert_close(
        logits_under(model, TOKENS, [longer, *unit_mlp_hooks(model)]),
        logits_under(model, TOKENS, unit_mlp_hooks(model)),
    )


@pytest.mark.parametrize("placement", ["post", "peri", "pre"])
def test_bypass_leaves_only_the_norm_on_the_mlp_input(placement):
    model = random_model(P, placement=placement)
    kept = "mlp" if placement != "post" else "off"
    expected = logits_of(same_weights(model, placement=kept))
    actual = logits_under(model, TOKENS, bypass_hooks(model))
    if placement != "peri":  # the norm on Peri-LN's MLP input has another epsilon than M's
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_loss_counts_a_scale_that_the_logits_leave_out():
    model = random_model(P, readout_scale=3.0, scale_in_loss=True)
    assert_scores(shortcut(model), "loss", "accuracy", logits_of(model), scale=3.0)
    in_logits = same_weights(model, scale_in_loss=False)
    assert shortcut(in_logits)["loss"].values == pytest.approx(shortcut(model)["loss"].values, rel=1e-12)


def test_clock_is_shrunk_by_the_square_of_its_mlp_input():
    task = Task("add", 113, 0.7)
    seen = measure(clock_model(), task, task.split_indices(0), ["shortcut"])["shortcut"]
    assert clock_loss() == pytest.approx(2.9552415e-5, rel=1e-6)
    assert seen["loss"].values == pytest.approx(clock_loss(), rel=1e-8)
    # Five waves of a, five of b and the position of `=`: ||x||^2 = 11, which a square activation divides by.
    assert seen["sr_loss"].values == pytest.approx(clock_loss(shrunk_by=11), rel=1e-10)
    for name in ("accuracy", "sr_accuracy", "sr_accuracy_reference_switch"):
        assert seen[name].values.tolist() == [1, 1, 1]


def test_untrained_model_guesses():
    task = Task("add", 113, 0.7)
    model = GrokTransformer(ModelConfig(), 113, seed=2)
    seen = measure(model, task, task.split_indices(2), ["shortcut"])["shortcut"]
    assert seen["loss"].values == pytest.approx(math.log(114), abs=0.1)
    assert seen["sr_loss"].values == pytest.approx(math.log(114), abs=0.1)
    assert seen["accuracy"].values == pytest.approx(1 / 113, abs=0.01)
