import math

import numpy as np
import pytest
import recordings
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_model

from mech_grok.model import GrokTransformer, import_reference
from mech_grok.probes import kernel as kernel_module
from mech_grok.probes import measure
from mech_grok.probes.kernel import (
    centred,
    centred_label_alignment,
    kernel_alignment,
    kernel_drift,
    label_alignment,
    label_kernel,
    relative_drift,
)
from mech_grok.probes.ntk import ntk
from mech_grok.probes.observation import Anchor, Anchors, Needs, observe
from mech_grok.task import Task

P = 5
TASK = Task("add", P, 0.4)
SPLIT = TASK.split_indices(3)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))
NAMES = ("p23_off", "p23_pre", "p23_attn-pre-qk")


def observed(model, initial=None, split=SPLIT, task=TASK):
    anchor = Anchor(lambda: observe(initial, task, split, Needs())) if initial else None
    return measure(model, task, split, ["kernel"], Anchors(initial=anchor))["kernel"]


def random_kernel(seed, n=6, rank=9):
    g = np.random.default_rng(seed).normal(size=(n, rank))
    return g @ g.T


def test_drift_by_hand():
    k_0, k = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 5.0], [5.0, 4.0]])
    assert relative_drift(k, k_0) == pytest.approx(math.sqrt(50) / 5, rel=1e-12)
    assert relative_drift(k_0, k_0) == 0
    assert kernel_alignment(k, k_0) == pytest.approx(25 / (5 * math.sqrt(75)), rel=1e-12)


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_against_loops_and_blind_to_scale(seed, scale):
    a, b = random_kernel(seed), random_kernel(seed + 1)
    dot = sum(a[i, j] * b[i, j] for i in range(6) for j in range(6))
    lengths = math.sqrt(sum(x * x for x in a.flat)) * math.sqrt(sum(x * x for x in b.flat))
    x, y = torch.as_tensor(a), torch.as_tensor(b)
    assert kernel_alignment(x, y) == pytest.approx(dot / lengths, rel=1e-12)
    assert kernel_alignment(scale * x, y) == pytest.approx(kernel_alignment(x, y), rel=1e-12)
    assert relative_drift(scale * x, x) == pytest.approx(abs(scale - 1), rel=1e-9, abs=1e-12)
    h = np.eye(6) - 1 / 6
    assert centred(x).numpy() == pytest.approx(h @ a @ h, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("answers", [[0, 1, 2, 1, 0, 0], [3, 3], [1]])
def test_closed_forms_of_label_alignment(answers):
    y = torch.tensor(answers)
    target, n = label_kernel(y), len(y)
    assert label_alignment(target, y) == pytest.approx(1, rel=1e-12)
    assert label_alignment(torch.eye(n), y) == pytest.approx(
        n / (math.sqrt(n) * float(target.norm())), rel=1e-12
    )


def test_centred_label_alignment():
    y = torch.tensor([0, 1, 2, 1, 0, 0])
    one_hot, k = np.eye(3)[y], random_kernel(0)
    h = np.eye(6) - 1 / 6
    hkh, hth = h @ k @ h, h @ one_hot @ one_hot.T @ h
    expected = (hkh * hth).sum() / math.sqrt((hkh**2).sum() * (hth**2).sum())
    assert centred_label_alignment(torch.as_tensor(k), y) == pytest.approx(expected, rel=1e-12)
    assert centred_label_alignment(label_kernel(y) + 7, y) == pytest.approx(1, rel=1e-12)
    shifted = torch.as_tensor(k) + 5
    assert centred_label_alignment(shifted, y) == pytest.approx(expected, rel=1e-9)
    assert label_alignment(shifted, y) != pytest.approx(label_alignment(torch.as_tensor(k), y), rel=1e-2)


def test_nothing_to_compare_with_is_nan():
    zero, one = torch.zeros(2, 2), torch.eye(2)
    assert math.isnan(relative_drift(one, zero))
    assert math.isnan(kernel_alignment(one, zero))
    assert math.isnan(centred_label_alignment(one, torch.tensor([4, 4])))


@pytest.mark.parametrize("placement", ["off", "pre", "post"])
def test_the_probe_is_the_functions_on_the_training_pairs(placement):
    model, initial = (random_model(P, seed, placement=placement) for seed in (0, 1))
    seen = observed(model, initial)
    train = TOKENS[torch.as_tensor(SPLIT["train"])]
    answers = torch.as_tensor(TASK.answers(TASK.pairs())[SPLIT["train"]])
    for output in ("sum", "trace"):
        k, k_0 = ntk(model, train, output), ntk(initial, train, output)
        of_output = seen.sel(ntk_output=output)
        assert float(of_output["ntk_norm"]) == pytest.approx(float(k.norm()), rel=1e-12)
        assert float(of_output["ntk_drift"]) == pytest.approx(
            kernel_drift(initial, model, train, output), rel=1e-12
        )
        assert float(of_output["ntk_alignment_drift"]) == pytest.approx(
            1 - kernel_alignment(k, k_0), rel=1e-9
        )
    assert float(seen["ntk_label_alignment"]) == pytest.approx(label_alignment(k, answers), rel=1e-12)
    expected = centred_label_alignment(k, answers)
    assert float(seen["ntk_label_alignment_centred"]) == pytest.approx(expected, rel=1e-12)


def test_only_the_first_training_pairs(monkeypatch):
    monkeypatch.setattr(kernel_module, "N_PAIRS", 4)
    model, train = random_model(P), TOKENS[torch.as_tensor(SPLIT["train"][:4])]
    assert float(observed(model)["ntk_norm"].sel(ntk_output="sum")) == pytest.approx(
        float(ntk(model, train, "sum").norm()), rel=1e-12
    )


def test_the_same_model_has_not_drifted():
    seen = observed(random_model(P), random_model(P))
    assert seen["ntk_drift"].values.tolist() == [0, 0]
    assert seen["ntk_alignment_drift"].values == pytest.approx([0, 0], abs=1e-14)


def test_initial_kernels_are_computed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(kernel_module, "ntk", lambda model, *rest: calls.append(model) or ntk(model, *rest))
    model, initial = random_model(P), random_model(P, seed=1)
    anchors = Anchors(initial=Anchor(lambda: observe(initial, TASK, SPLIT, Needs())))
    for _ in range(3):
        measure(model, TASK, SPLIT, ["kernel"], anchors)
    assert calls.count(initial) == 2


def test_without_an_initial_model_drift_is_nan_and_nothing_else():
    seen = observed(random_model(P))
    assert np.isnan(seen["ntk_drift"]).all()
    assert np.isnan(seen["ntk_alignment_drift"]).all()
    for name in ("ntk_norm", "ntk_label_alignment", "ntk_label_alignment_centred"):
        assert np.isfinite(seen[name]).all()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_small_training_sets(n):
    split = {"train": SPLIT["train"][:n], "test": SPLIT["test"]}
    seen = observed(random_model(P), random_model(P, seed=1), split)
    for name in ("ntk_norm", "ntk_drift", "ntk_alignment_drift", "ntk_label_alignment"):
        assert bool(np.isnan(seen[name]).all()) == (n == 0)
    assert math.isnan(seen["ntk_label_alignment_centred"]) == (n < 2)


@pytest.mark.parametrize("p", [2, 6])
def test_even_moduli(p):
    task = Task("add", p, 0.3)
    split = task.split_indices(0)
    assert np.isfinite(observed(random_model(p), None, split, task)["ntk_norm"]).all()


def test_a_model_of_zeros():
    model = random_model(P)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    seen = observed(model, model)
    assert seen["ntk_norm"].values.tolist() == [0, 0]
    assert np.isnan(seen["ntk_drift"]).all()
    assert np.isnan(seen["ntk_label_alignment"])


def recorded(name, step, dtype=torch.float32):
    """The model of a recording, its training inputs, and what the reference's code found."""
    record = recordings.load(name)
    weights = {key: x.to(dtype) for key, x in record.weights(step).items()}
    task = Task("add", record.meta["P"], 0.7)
    train = task.tokens(task.pairs())[task.split_indices(record.meta["data_seed"])["train"]]
    assert train[:8].tolist() == record.meta["first_train_pairs"]
    return import_reference(weights, record.meta["model"]), torch.as_tensor(train), record.probes[step]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [0, 100, 200, 300])
def test_sum_kernel_of_the_reference_on_its_whole_training_set(name, step):
    model, train, expected = recorded(name, step)
    kernel, initial = ntk(model, train, "sum"), ntk(recorded(name, 0)[0], train, "sum")
    theirs = expected["ntk"]
    assert float(kernel.double().norm()) == pytest.approx(theirs["fro"], rel=1e-5)
    assert float(kernel[0, 0]) == pytest.approx(theirs["k00"], rel=1e-5)
    assert float(kernel[0, 1]) == pytest.approx(theirs["k01"], rel=1e-5)
    assert relative_drift(kernel, initial) == pytest.approx(theirs["relative_distance"], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [0, 100, 200, 300])
def test_trace_kernel_of_the_reference(name, step):
    model, train, expected = recorded(name, step)
    kernel = ntk(model, train[:16], "trace")
    assert float(kernel.double().norm()) == pytest.approx(expected["ntk_full_16"]["fro"], rel=1e-5)
    assert float(kernel[0, 1]) == pytest.approx(expected["ntk_full_16"]["k01"], rel=1e-5)


def test_the_initial_model_may_be_given_in_another_dtype_than_the_model():
    model, initial = GrokTransformer(random_model(P).config, P), random_model(P)
    assert np.isfinite(observed(model, initial)["ntk_drift"]).all()
