"""Progress measures on models, and where there is nothing to measure."""

import math

import numpy as np
import pytest
import torch
from oracle_circuits import stock_model, stock_pizza_model
from oracle_progress import by_split, clock_loss, observation, progress, random_logits
from oracles import CLOCK_AMPLITUDES, CLOCK_P, clock_model, random_model

from mech_grok import probe
from mech_grok.model import adopt
from mech_grok.probes import measure
from mech_grok.probes import progress as module
from mech_grok.probes.logit_projections import centred
from mech_grok.probes.observation import SPLITS, Anchors
from mech_grok.task import Task
from mech_grok.training.loss import cross_entropy

LOSSES = [
    "restricted_loss",
    "restricted_loss_2x2",
    "restricted_loss_3x3",
    "excluded_loss",
    "excluded_loss_3d",
]
OF_KEYS = [
    *LOSSES,
    "restricted_accuracy",
    "restricted_variance",
    "restricted_variance_2x2",
    "restricted_variance_3x3",
    "trig_ratio_pre",
    "trig_ratio_post",
    "trig_loss",
    "logit_cosine_fve",
    "logit_class_fve",
]


# Where there is nothing to measure


def test_without_key_frequencies():
    logits = random_logits(7)
    none, one = progress(logits, ()), progress(logits, (1,))
    assert all(none[name].isnan().all() for name in OF_KEYS)
    rest = [
        "loss_over_answers",
        "excluded_loss_per_frequency",
        "logit_cosine_amplitude",
        "logit_cosine_similarity",
    ]
    assert sorted([*OF_KEYS, *rest]) == sorted(none)
    for name in rest:
        np.testing.assert_array_equal(none[name], one[name])
        assert not none[name][..., 1:].isnan().any()


@pytest.mark.parametrize("operation", ["multiply", "xor", "and", "rshift"])
def test_other_operations_have_no_phase(operation):
    found = progress(random_logits(5), (1,), operation=operation)
    assert found.keys() == module.PROBE.quantities.keys()
    assert all(value.isnan().all() for value in found.values())


def test_empty_splits_and_a_split_of_one():
    logits, nothing = random_logits(5), np.empty(0, dtype=np.int64)
    found = progress(logits, (1,), split={"train": nothing, "test": np.array([7])})
    losses = cross_entropy(logits, observation(logits, ()).answers)
    assert float(found["loss_over_answers"][2]) == pytest.approx(float(losses[7]), rel=1e-12)
    for name in ("excluded_loss_per_frequency", "logit_cosine_amplitude", "logit_cosine_similarity"):
        assert found[name][:, 1:].isnan().all(1).tolist() == [False, True, False]
    for name in [*LOSSES, "restricted_accuracy", "loss_over_answers"]:
        assert found[name].isnan().tolist() == [False, True, False], name


@pytest.mark.parametrize("p", [2, 3, 5, 6])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_logits(p, value):
    found = progress(torch.full((p * p, p), value), (1,))
    for name in ["loss_over_answers", *LOSSES]:
        assert found[name].tolist() == pytest.approx([math.log(p)] * 3, rel=1e-12)
    assert float(found["trig_loss"]) == pytest.approx(math.log(p), rel=1e-12)
    undefined = {name for name, values in found.items() if values.isnan().all()}
    shares = {name for name in found if "variance" in name or "fve" in name or "trig_ratio" in name}
    assert undefined == shares | {"logit_cosine_similarity"}


def test_logits_that_do_not_depend_on_the_pair():
    p, bias = 5, torch.tensor([0.3, -1.2, 0.1, 2.0, 0.7])
    logits = bias.expand(p * p, p)
    found = progress(logits, (1,))
    assert found["restricted_loss"].tolist() == pytest.approx(by_split(logits.double(), p), rel=1e-12)
    assert all(found[name].isnan() for name in found if name.startswith("restricted_variance"))
    assert float(found["logit_cosine_fve"]) == 0


def test_centring_splits_the_logits():
    logits = random_logits(6) + 1e3
    parts = centred(logits.float())
    flat = logits.float().double()
    flat = flat - flat.mean(1, keepdim=True)
    torch.testing.assert_close(parts.varying + parts.mean, flat, atol=1e-11, rtol=0)
    torch.testing.assert_close(parts.varying.mean(0), torch.zeros(6).double(), atol=1e-11, rtol=0)
    assert float(parts.power) == pytest.approx(float(flat.square().sum()), rel=1e-9)


# On models


KEYS = (1, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_layers": 2, "activation": "swiglu"},
        {"placement": "pre", "final_norm": "on", "tied_unembed": True},
        {"readout_scale": 3.0, "scale_in_loss": True},
        {"readout_scale": 3.0},
    ],
    ids=["depth-2", "norms", "scale-in-loss", "scale-in-logits"],
)
def test_reads_the_logits_of_the_p_answers_as_the_loss_scales_them(settings):
    model, task = random_model(5, **settings), Task("add", 5, 0.6)
    split = task.split_indices(0)
    seen = measure(model, task, split, ["progress"], Anchors(key_frequencies=KEYS))["progress"]
    with torch.no_grad():
        logits = model(torch.as_tensor(task.tokens(task.pairs())))[:, -1, :5]
    expected = progress(logits, KEYS, scale=model.unembed.loss_scale)
    for name in expected.keys() - {"trig_ratio_pre", "trig_ratio_post"}:
        np.testing.assert_allclose(seen[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert seen["trig_ratio_post"].dims == ("layer",)
    assert seen["trig_ratio_post"].notnull().all()
    assert list(seen["split"].values) == list(SPLITS)
    assert list(seen["frequency"].values) == [0, 1, 2]


@pytest.mark.parametrize("d_vocab_out", [5, 6])
def test_a_stock_model_with_or_without_a_logit_for_equals(d_vocab_out):
    model, task = stock_model(d_vocab_out=d_vocab_out), Task("add", 5, 0.6)
    tokens = torch.as_tensor(task.tokens(task.pairs()))
    seen = probe(model, "progress", tokens_train=tokens[:10], tokens_test=tokens[10:], key_frequencies=KEYS)
    with torch.no_grad():
        logits = model(tokens)[:, -1, :5]
    split = {"train": np.arange(10), "test": np.arange(10, 25)}
    expected = progress(logits, KEYS, split=split)
    for name in (
        "loss_over_answers",
        "excluded_loss",
        "excluded_loss_per_frequency",
        "restricted_variance_3x3",
    ):
        np.testing.assert_allclose(seen[name], expected[name], rtol=1e-9, err_msg=name)


def test_clock_model():
    task = Task("add", CLOCK_P, 0.7)
    anchors = Anchors(key_frequencies=tuple(CLOCK_AMPLITUDES))
    seen = measure(clock_model(), task, task.split_indices(0), ["progress"], anchors)["progress"]
    assert seen["restricted_loss"].values == pytest.approx(clock_loss(CLOCK_AMPLITUDES), rel=1e-10)
    assert seen["excluded_loss"].values == pytest.approx(math.log(113), rel=1e-10)
    # Of (x + y)^2, the products 2xy have variance 1, half of it on the sum; x^2 and y^2 have 1/8 each.
    assert seen["trig_ratio_pre"].values == pytest.approx(0, abs=1e-7)
    assert seen["trig_ratio_post"].values == pytest.approx(math.sqrt(0.5 / 1.25), rel=1e-10)


def test_the_pizza_without_its_sums_is_far_worse_than_a_guess():
    task, anchors = Task("add", CLOCK_P, 0.7), Anchors(key_frequencies=tuple(CLOCK_AMPLITUDES))
    seen = measure(adopt(stock_pizza_model()), task, task.split_indices(0), ["progress"], anchors)["progress"]
    assert (seen["excluded_loss"] > 1.5 * math.log(CLOCK_P)).all()
    assert (seen["restricted_loss"] < 0.1 * seen["loss_over_answers"]).all()
    # |cos(w(a - b) / 2)| multiplies each cosine of the sum: squared mean over mean square. The rest of it
    # has harmonics of a - b, which make terms of frequency 2k, 3k and so on.
    for suffix in ("", "_2x2", "_3x3"):
        assert float(seen[f"restricted_variance{suffix}"]) == pytest.approx(8 / math.pi**2, rel=1e-4)


def test_what_is_memorised_is_not_in_a_few_frequencies():
    p, keys = 31, (2, 5, 11)
    task = Task("add", p, 0.7)
    split, answers = task.split_indices(0), torch.as_tensor(task.answers(task.pairs()))
    logits = random_logits(p, size=1.0)
    logits[split["train"], answers[split["train"]]] += 20
    found = progress(logits, keys, split=split)
    assert found["loss_over_answers"].tolist()[1] < 1e-5
    assert found["excluded_loss"].tolist()[1] < 1e-3
    assert found["restricted_loss"].tolist()[1] > 0.1


def test_an_untrained_model_guesses_with_and_without_its_frequencies():
    task = Task("add", 113, 0.7)
    size = {"d_model": 128, "d_head": 32, "n_heads": 4, "d_mlp": 512, "d_vocab": 114, "d_vocab_out": 113}
    model = adopt(stock_model(**size, dtype=torch.float32))
    anchors = Anchors(key_frequencies=tuple(CLOCK_AMPLITUDES))
    seen = measure(model, task, task.split_indices(0), ["progress"], anchors)["progress"]
    # Three models of TransformerLens' own have 4.7344 to 4.7355, restricted 4.7341 to 4.7353.
    assert float(seen["loss_over_answers"].sel(split="all")) == pytest.approx(4.735, abs=1e-3)
    assert float(seen["restricted_loss"].sel(split="all")) == pytest.approx(4.7347, abs=1e-3)
    assert seen["excluded_loss"].values == pytest.approx(seen["loss_over_answers"].values, abs=1e-4)
    untouched = np.broadcast_to(seen["loss_over_answers"].values[:, None], (3, 56))
    assert seen["excluded_loss_per_frequency"].values[:, 1:] == pytest.approx(untouched, abs=1e-4)
    assert float(abs(seen["logit_cosine_similarity"].sel(split="all")).max()) < 1e-4
    assert float(seen["restricted_variance"]) < 1e-3


def test_every_quantity_says_when_it_is_nan():
    for name, quantity in module.PROBE.quantities.items():
        assert "nor subtraction" in quantity.nan, name
        assert quantity.definition.endswith("."), name
