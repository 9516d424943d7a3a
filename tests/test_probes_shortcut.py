import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_model
from oracles import PLACEMENTS, clock_loss, clock_model, crossed, random_model, same_weights

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer, adopt
from mech_grok.model.norm_sites import NormSite
from mech_grok.model.norms import Norm
from mech_grok.placement import PATHWAYS
from mech_grok.probes import find_probe, measure
from mech_grok.probes.late_pass import logits_of_mlp_change, logits_of_norm_change
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import logits_under, observe
from mech_grok.probes.shortcut import bypass_hooks, unit_hooks, unit_mlp_hooks
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


def assert_scores(seen, loss, accuracy, logits, scale=1.0, rel=1e-12):
    for name, index in {"all": range(P * P), **SPLIT}.items():
        index = torch.as_tensor(list(index))
        expected = score(logits[index], ANSWERS[index], scale)
        assert float(seen[loss].sel(split=name)) == pytest.approx(expected.loss.item(), rel=rel)
        assert float(seen[accuracy].sel(split=name)) == pytest.approx(expected.accuracy.item(), rel=1e-12)


@pytest.mark.parametrize(("placement", "settings"), crossed(PLACEMENTS, VARIANTS))
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


@pytest.mark.parametrize(("placement", "activation"), crossed(PLACEMENTS, ["relu", "swiglu"]))
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
    everything = {"train": np.arange(113**2), "test": task.split_indices(0)["test"]}
    seen = measure(clock_model(), task, everything, ["shortcut"])["shortcut"]
    assert clock_loss() == pytest.approx(2.9552415e-5, rel=1e-6)
    assert seen["loss"].values == pytest.approx(clock_loss(), rel=1e-8)
    # Five waves of a, five of b and the position of `=`: ||x||^2 = 11, which a square activation divides by.
    assert seen["sr_loss"].values == pytest.approx(clock_loss(shrunk_by=11), rel=1e-10)
    for name in ("accuracy", "sr_accuracy", "sr_accuracy_reference_switch", "skip_ablated_accuracy"):
        assert seen[name].values.tolist() == [1, 1, 1]
    # One head each looks at a and b whatever the length of keys; values, and so sums, lose a factor sqrt(6).
    of_pathway = [clock_loss(), clock_loss(), clock_loss(shrunk_by=6), clock_loss(shrunk_by=11)]
    assert seen["unit_input_loss"].sel(split="test").values == pytest.approx(of_pathway, rel=1e-8)
    assert seen["skip_ablated_loss"].values == pytest.approx(clock_loss(), rel=1e-8)
    # All waves have mean zero: without attention's, or the MLP's, deviation from it all logits are zero.
    for name in ("attention_off_loss", "attention_mean_loss", "mlp_mean_loss"):
        assert seen[name].values == pytest.approx(math.log(114), rel=1e-10)


def test_untrained_model_guesses():
    task = Task("add", 113, 0.7)
    model = GrokTransformer(ModelConfig(), 113, seed=2)
    seen = measure(model, task, task.split_indices(2), ["shortcut"])["shortcut"]
    assert seen["loss"].values == pytest.approx(math.log(114), abs=0.1)
    assert seen["sr_loss"].values == pytest.approx(math.log(114), abs=0.1)
    assert seen["accuracy"].values == pytest.approx(1 / 113, abs=0.01)


DEPTHS = [
    {"n_layers": 1, "qk_norm": True, "final_norm": "on"},
    {"n_layers": 2, "norm": "rms", "activation": "swiglu"},
]


def stock(causal=True, **settings):
    """A stock model with biases, adopted."""
    direction = "causal" if causal else "bidirectional"
    model = stock_model(attention_dir=direction, d_vocab_out=P, normalization_type="LN", **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return adopt(model)


@pytest.mark.parametrize(("placement", "settings"), crossed(PLACEMENTS, DEPTHS))
def test_unit_inputs_are_those_of_a_model_built_with_them(placement, settings):
    seen = shortcut(random_model(P, placement=placement, **settings))
    for pathway in PATHWAYS:
        other = random_model(P, placement=placement, **settings)
        for block in other.blocks:
            setattr(block, f"norm_{pathway}", Norm(NormSite("unit")))
        of_pathway = seen[["unit_input_loss", "unit_input_accuracy"]].sel(pathway=pathway)
        assert_scores(of_pathway, "unit_input_loss", "unit_input_accuracy", logits_of(other), rel=1e-10)
    of_mlp = seen["unit_input_loss"].sel(pathway="mlp")
    assert of_mlp.values.tolist() == seen["sr_loss"].values.tolist()


@pytest.mark.parametrize("settings", [{}, {"causal": False}, {"n_layers": 2}], ids=str)
def test_unit_inputs_of_a_stock_model(settings):
    seen = shortcut(stock(**settings))
    for pathway in PATHWAYS:
        other = stock(**settings)
        for block in other.blocks:
            setattr(block, f"norm_{pathway}", Norm(NormSite("unit")))
        of_pathway = seen[["unit_input_loss", "unit_input_accuracy"]].sel(pathway=pathway)
        assert_scores(of_pathway, "unit_input_loss", "unit_input_accuracy", logits_of(other), rel=1e-10)


@torch.no_grad()
def ablated_by_hand(model):
    """Logits of each ablation from full passes over all positions, and from the cache."""
    _, cache = model.run_with_cache(TOKENS)
    train = torch.as_tensor(SPLIT["train"])

    def under(sublayer, mean):
        hooks = [
            (f"blocks.{i}.hook_{sublayer}_out", lambda x, hook: mean(cache[hook.name]).expand_as(x))
            for i in range(len(model.blocks))
        ]
        return model.run_with_hooks(TOKENS, fwd_hooks=hooks)[:, -1]

    block, layer = model.blocks[-1], len(model.blocks) - 1
    alone = block.norm_resid_post(cache[f"blocks.{layer}.hook_mlp_out"])
    return {
        "skip_ablated": model.unembed(alone)[:, -1],
        "attention_off": under("attn", lambda x: 0 * x),
        "attention_mean": under("attn", lambda x: x[train].mean(0)),
        "mlp_mean": under("mlp", lambda x: x[train].mean(0)),
    }


@pytest.mark.parametrize(("placement", "settings"), crossed(PLACEMENTS, DEPTHS))
def test_ablations_are_those_of_full_passes(placement, settings):
    model = random_model(P, placement=placement, **settings)
    seen = shortcut(model)
    for name, logits in ablated_by_hand(model).items():
        assert_scores(seen, f"{name}_loss", f"{name}_accuracy", logits, rel=1e-10)


@pytest.mark.parametrize("settings", [{}, {"causal": False}, {"n_layers": 2}], ids=str)
def test_ablations_of_a_stock_model(settings):
    model = stock(**settings)
    seen = shortcut(model)
    for name, logits in ablated_by_hand(model).items():
        assert_scores(seen, f"{name}_loss", f"{name}_accuracy", logits, rel=1e-10)


@pytest.mark.parametrize("placement", ["off", "pre", "post", "peri"])
def test_passes_that_skip_what_is_known_are_joined_in_the_order_of_the_pairs(placement):
    task = Task("add", 37, 0.7)
    model = random_model(37, placement=placement)
    seen = observe(model, task, task.split_indices(0), needs_of([find_probe("shortcut")], model))
    with torch.no_grad():
        for hooks in (unit_hooks(model, "q"), unit_hooks(model, "v"), bypass_hooks(model)):
            expected = logits_under(model, seen.tokens, hooks)
            torch.testing.assert_close(logits_of_norm_change(seen, hooks), expected, rtol=1e-10, atol=1e-10)
        expected = logits_under(model, seen.tokens, unit_mlp_hooks(model))
        actual = logits_of_mlp_change(seen, unit_mlp_hooks(model))
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_replaced_activation_counts():
    model = random_model(P)
    model.blocks[0].mlp.act_fn = torch.square
    assert_scores(shortcut(model), "sr_loss", "sr_accuracy", by_hand(model))


def test_without_training_pairs_means_are_nan():
    empty = np.empty(0, dtype=np.int64)
    for split in ({"train": empty, "test": np.arange(3)}, {"train": np.arange(1), "test": empty}):
        seen = measure(random_model(P, n_layers=2), TASK, split, ["shortcut"])["shortcut"]
        missing = [name for name, x in split.items() if not len(x)]
        assert seen.sel(split=missing).isnull().all().to_array().all()
        there = seen.drop_sel(split=missing).isnull().any().to_array()
        nan = set(there["variable"].values[there.values])
        means = {f"{x}_mean_{kind}" for x in ("attention", "mlp") for kind in ("loss", "accuracy")}
        assert nan == (means if missing == ["train"] else set())


@pytest.mark.parametrize("p", [2, 3])
def test_smallest_tasks(p):
    task = Task("add", p, 0.5)
    model = random_model(p, placement="pre")
    seen = measure(model, task, task.split_indices(0), ["shortcut"])["shortcut"]
    assert seen.notnull().all().to_array().all()


def test_a_model_of_zeros_guesses_whatever_is_ablated():
    model = random_model(P)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    seen = shortcut(model)
    for name in seen.data_vars:
        if name.endswith("loss"):
            assert seen[name].values == pytest.approx(math.log(P + 1), rel=1e-12)
