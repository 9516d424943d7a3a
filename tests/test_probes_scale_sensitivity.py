import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_model
from oracles import CLOCK_AMPLITUDES, CLOCK_P, PLACEMENTS, clock_model, random_model

from mech_grok.model import adopt
from mech_grok.placement import PATHWAYS, Placement
from mech_grok.probes import measure
from mech_grok.task import Task
from mech_grok.training.loss import score

P = 5
TASK = Task("add", P, 0.6)
SPLIT = TASK.split_indices(0)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))[SPLIT["train"]]
ANSWERS = torch.as_tensor(TASK.answers(TASK.pairs()))[SPLIT["train"]]


def sensitivity(model, task=TASK, split=SPLIT):
    return measure(model, task, split, ["scale_sensitivity"])["scale_sensitivity"]


def by_difference(model, hook_name, step=1e-5):
    """Central difference of the training loss over log s, with s a factor on one activation."""

    def loss(log_s):
        hook = (hook_name, lambda x, hook: x * math.exp(log_s))
        with torch.no_grad():
            logits = model.run_with_hooks(TOKENS, fwd_hooks=[hook])[:, -1]
        return score(logits, ANSWERS, model.unembed.loss_scale).loss.item()

    return (loss(step) - loss(-step)) / (2 * step)


def assert_differences(model):
    seen = sensitivity(model)
    for layer in range(len(model.blocks)):
        for pathway in PATHWAYS:
            here = seen.sel(layer=layer, pathway=pathway)
            for side in ("output", "input"):
                point = f"blocks.{layer}.norm_{pathway}.hook_{side.removesuffix('put')}"
                expected = by_difference(model, point)
                found = here[f"{side}_scale_sensitivity"].item()
                assert found == pytest.approx(expected, rel=1e-6, abs=1e-8), (layer, pathway, side)


@pytest.mark.parametrize("placement", ["off", "qk", "pre", "post", "peri", "mlp-inpnorm"])
def test_gradients_are_differences_of_the_loss(placement):
    assert_differences(
        random_model(P, placement=placement, n_layers=2, readout_scale=2.0, scale_in_loss=True)
    )


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_gradients_of_a_stock_model(direction):
    assert_differences(adopt(stock_model(attention_dir=direction, normalization_type="RMS", d_vocab_out=P)))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("norm", ["ln", "rms"])
def test_only_the_inputs_that_are_not_normalised_have_a_scale(placement, norm):
    model = random_model(P, placement=placement, norm=norm)
    seen = sensitivity(model)
    for pathway in PATHWAYS:
        here = seen.sel(layer=0, pathway=pathway)
        output, of_input = (here[f"{x}_scale_sensitivity"].item() for x in ("output", "input"))
        # Peri-LN's norm on what attention adds undoes a factor on the values.
        undone = placement == "peri" and pathway == "v"
        assert (abs(output) < 1e-12) if undone else (abs(output) > 1e-6)
        if model.blocks[0].sites.pathways[pathway].kind is None:
            assert of_input == pytest.approx(output, rel=1e-12)
        else:
            # Peri-LN's norm on the MLP's input has an epsilon of 1e-5, RMSNorm's own is that of the dtype.
            assert abs(of_input) < (1e-4 if placement == "peri" and pathway == "mlp" else 1e-12)


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from([x for x in PLACEMENTS if Placement.parse(x).arrangement == "pre"]),
    st.permutations(range(15)),
)
def test_order_of_the_training_pairs_does_not_matter(placement, order):
    model = random_model(P, placement=placement)
    mixed = {**SPLIT, "train": SPLIT["train"][[i for i in order if i < len(SPLIT["train"])]]}
    for name, x in sensitivity(model).items():
        assert sensitivity(model, split=mixed)[name].values == pytest.approx(x.values, rel=1e-10, abs=1e-14)


def test_clocks_logits_are_the_square_of_its_mlp_input():
    """Logits s^2 L: d loss / d log s is twice the mean logit under the softmax less the right one."""
    steps = np.arange(CLOCK_P)
    logits = sum(a * np.cos(2 * np.pi * (k * steps % CLOCK_P) / CLOCK_P) for k, a in CLOCK_AMPLITUDES.items())
    logits = np.append(logits, 0.0)
    share = np.exp(logits - logits.max())
    share /= share.sum()
    expected = 2 * (share @ logits - logits[0])
    task = Task("add", CLOCK_P, 0.7)
    seen = sensitivity(clock_model(), task, task.split_indices(0))
    # What the MLP reads is what the values read: both count twice. The sharp attention has no gradient.
    found = seen["output_scale_sensitivity"].sel(layer=0).values
    assert found == pytest.approx([0, 0, expected, expected], rel=1e-8, abs=1e-12)


def test_the_first_1024_training_pairs_count():
    task = Task("add", 47, 0.3)
    split = task.split_indices(0)
    model = random_model(47)
    first = {**split, "train": split["train"][:1024]}
    for name, x in sensitivity(model, task, split).items():
        assert (x == sensitivity(model, task, first)[name]).all()


def test_without_training_pairs_nothing_is_known():
    split = {"train": np.empty(0, dtype=np.int64), "test": np.arange(3)}
    assert sensitivity(random_model(P), split=split).isnull().all().to_array().all()


@pytest.mark.parametrize("n", [1, 3])
def test_few_training_pairs(n):
    split = {"train": SPLIT["train"][:n], "test": SPLIT["test"]}
    assert sensitivity(random_model(P, n_layers=2), split=split).notnull().all().to_array().all()


def test_no_gradient_is_left_behind():
    model = random_model(P, placement="pre")
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    sensitivity(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert asked == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
