import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_model, stock_pizza_model
from oracles import CLOCK_AMPLITUDES, PLACEMENTS, clock_embedding, clock_model, random_model

from mech_grok.probes import measure, probe
from mech_grok.probes.fourier_basis import spectrum
from mech_grok.probes.key_frequencies import (
    RULES,
    clusters,
    excluded_losses,
    found_key_frequencies,
    frozen_key_frequencies,
    logit_similarity,
    masks,
    needed,
    peaks,
    traces,
)
from mech_grok.probes.neuron_spectrum import SingleFrequency, neuron_hooks
from mech_grok.probes.observation import LOGITS, Anchor, Anchors, Needs, observe
from mech_grok.task import Task

P = 113
KEYS = list(CLOCK_AMPLITUDES)
OTHERS = [k for k in range(57) if k not in KEYS]
some = settings(deadline=None, max_examples=20)


def named(mask):
    return mask.nonzero()[:, 0].tolist()


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_peaks_exceed_a_quarter_of_the_largest_beside_the_constant():
    assert named(peaks(of(99, 4, 1, 1.01, 0, 0, 0))) == [1, 3]
    assert named(peaks(of(0, 0, 0, 0, 0, 0, 2))) == [6]


def test_no_peak_where_more_than_half_exceed_it():
    assert named(peaks(of(0, 4, 3, 2, 0, 0, 0))) == [1, 2, 3]
    assert named(peaks(of(0, 4, 3, 2, 2, 0, 0))) == []
    assert named(traces(of(1, 0.1, 0.006, 0.005, -0.9))) == [1, 2]
    assert named(traces(of(1, 0.1, 0.006, 0.006, -0.9))) == []


def test_no_peak_in_nothing_and_in_rounding():
    assert named(peaks(torch.zeros(57, dtype=torch.float64))) == []
    assert named(peaks(spectrum(torch.full((113, 8), 0.3)))) == []


@pytest.mark.parametrize("n", range(1, 7))
def test_untrained_embedding_of_any_width_has_no_peak(n):
    generator = torch.Generator().manual_seed(n)
    assert named(peaks(spectrum(torch.randn(113, 2**n, generator=generator)))) == []


def neurons_of(*frequencies_by_layer, fve=0.9):
    frequency = torch.tensor(frequencies_by_layer)
    explained = torch.full(frequency.shape, fve, dtype=torch.float64)
    return SingleFrequency(explained.masked_fill(frequency == 0, math.nan), frequency)


def test_clusters_hold_one_percent_of_the_live_neurons_of_a_layer():
    layer = [1] * 250 + [2] * 3 + [3] * 2 + [0] * 257
    assert named(clusters(neurons_of(layer), 7)) == [1, 2]
    assert named(clusters(neurons_of(layer, [3] * 3 + [0] * 509), 7)) == [1, 2, 3]
    assert named(clusters(neurons_of([3]), 7)) == [3]


def test_badly_explained_neurons_found_no_cluster():
    assert named(clusters(neurons_of([1] * 9, fve=0.85), 7)) == []
    assert named(clusters(neurons_of([1] * 9, fve=math.nextafter(0.85, 1)), 7)) == [1]
    assert named(clusters(neurons_of([0] * 9), 7)) == []


def test_needed_frequencies_double_the_loss():
    assert named(needed(of(1, 2.1, 2, 0.3), of(1)[0])) == [1]
    assert named(needed(of(0, 1e-20, 0, 0), of(0)[0])) == [1]
    assert named(needed(of(math.nan, math.nan), of(math.nan)[0])) == []


def observed(model, p=P, operation="add", anchors=None, train=None):
    task = Task(operation, p, 0.5)
    split = {"train": np.arange(p * p) if train is None else train, "test": np.arange(0)}
    return observe(model, task, split, Needs([LOGITS, *neuron_hooks(model)]), anchors)


def with_logits(p, logits, operation="add", train=None):
    """A model's observation with these logits [p, p, c] in place of its own."""
    seen = observed(random_model(p), p, operation, train=train)
    return dataclasses.replace(seen, at_equals={**seen.at_equals, LOGITS: logits.reshape(p * p, -1)})


@pytest.fixture(scope="module")
def clock():
    return observed(clock_model())


@torch.no_grad()
def test_every_rule_but_the_clusters_names_the_clock_s(clock):
    found = masks(clock)
    assert {rule: named(mask) for rule, mask in found.items()} == {
        **dict.fromkeys(RULES, KEYS),
        "clusters": [],
    }
    assert found_key_frequencies(clock) == tuple(KEYS)


@torch.no_grad()
def test_similarity_and_excluded_losses_of_the_clock(clock):
    total = math.sqrt(sum(alpha**2 for alpha in CLOCK_AMPLITUDES.values()))
    similarity = logit_similarity(clock)
    assert similarity[KEYS].tolist() == pytest.approx([x / total for x in CLOCK_AMPLITUDES.values()])
    assert similarity[OTHERS].abs().max() < 1e-12
    losses = excluded_losses(clock)[1]
    expected = [1.84993e-3, 3.15389e-3, 1.048222e-2, 1.21466e-3, 2.092138e-2]
    assert losses[[14, 35, 41, 42, 52]].tolist() == pytest.approx(expected, rel=1e-5)
    assert losses[OTHERS].tolist() == pytest.approx([2.9552415e-5] * 52, rel=1e-6)


def test_every_rule_names_the_pizza_s():
    model = stock_pizza_model()
    tokens = torch.tensor([[a, b, P] for a in range(0, P, 3) for b in range(P)])
    seen = probe(model, "key_frequencies", tokens_train=tokens)
    for rule in RULES:
        assert seen["key_frequency_by_rule"].sel(key_frequency_rule=rule).values.nonzero()[0].tolist() == KEYS
    assert seen["key_frequency_count_by_rule"].values.tolist() == [5] * 5
    assert seen["key_frequency"].values.nonzero()[0].tolist() == KEYS
    assert seen["key_frequency_frozen"].equals(seen["key_frequency"])
    assert float(seen["key_frequency_agreement"]) == float(seen["key_frequency_sparse"]) == 1


@pytest.mark.parametrize("seed", range(2))
def test_an_untrained_model_has_none(seed):
    sizes = {"d_model": 128, "d_head": 32, "n_heads": 4, "d_mlp": 512, "d_vocab": 114, "d_vocab_out": 113}
    model = stock_model(**sizes, dtype=torch.float32, seed=seed)
    # Every frequency passes a quarter of the largest: without the guard all 56 would be named.
    norms = spectrum(model.W_E[:P])[1:]
    assert (norms > norms.max() / 4).all()
    tokens = torch.tensor([[a, b, P] for a in range(0, P, 3) for b in range(P)])
    seen = probe(model, "key_frequencies", tokens_train=tokens)
    assert not any(variable.any() for variable in seen.data_vars.values())


@torch.no_grad()
def test_neurons_that_share_a_frequency_win_over_the_map_to_the_logits():
    seen = observed(random_model(7), 7)
    n = torch.arange(7)
    wave = (2 * math.pi * 2 * n / 7).cos()
    neurons = (wave[:, None] * wave).reshape(49, 1).double().repeat(1, 32)
    hook = "blocks.0.mlp.hook_post"
    assert found_key_frequencies(dataclasses.replace(seen, at_equals={hook: neurons})) == (2,)
    dead = dataclasses.replace(seen, at_equals={hook: torch.zeros_like(neurons)})
    with torch.no_grad():
        seen.model.blocks[0].mlp.W_out.fill_(1.0)
        seen.model.unembed.W_U[:, :7] = (2 * math.pi * 3 * n / 7).sin()
    assert found_key_frequencies(dead) == (3,)


@torch.no_grad()
def test_frozen_frequencies_are_the_last_checkpoint_s(clock):
    untrained, calls = random_model(5), []

    def last():
        calls.append(1)
        return clock

    final = Anchor(last)
    for _ in range(2):
        assert frozen_key_frequencies(observed(untrained, 5, anchors=Anchors(final=final))) == tuple(KEYS)
    assert calls == [1]
    given = observed(untrained, 5, anchors=Anchors(final=Anchor(last), key_frequencies=(1, 2)))
    assert frozen_key_frequencies(given) == (1, 2)
    assert calls == [1]


def test_given_frequencies_change_the_frozen_ones_only():
    task = Task("add", 11, 0.5)
    anchors = Anchors(key_frequencies=(2, 5))
    model = random_model(11)
    seen = measure(model, task, task.split_indices(0), ["key_frequencies"], anchors)["key_frequencies"]
    assert seen["key_frequency_frozen"].values.tolist() == [0, 0, 1, 0, 0, 1]
    own = measure(model, task, task.split_indices(0), ["key_frequencies"])["key_frequencies"]
    assert own["key_frequency"].equals(seen["key_frequency"])
    assert own["key_frequency_frozen"].values.tolist() == own["key_frequency"].values.tolist()


@torch.no_grad()
@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [5, 6])
@pytest.mark.parametrize("loss_scale", [1.0, 3.0])
def test_similarity_and_exclusion_by_hand(operation, p, loss_scale):
    logits = torch.randn(p * p, p + 1, generator=torch.Generator().manual_seed(p), dtype=torch.float64)
    train = np.arange(p * p)[::2]
    seen = with_logits(p, logits, operation, train)
    seen.model.unembed.loss_scale = loss_scale
    L = logits[:, :p].numpy()
    a, b = np.divmod(np.arange(p * p), p)
    s = (a + b if operation == "add" else a - b) % p
    centred = L - L.mean(1, keepdims=True)
    for k in range(1, p // 2 + 1):
        cube = np.cos(2 * np.pi * k * (s[:, None] - np.arange(p)) / p)
        cosine = (centred * cube).sum() / np.linalg.norm(centred) / np.linalg.norm(cube)
        assert logit_similarity(seen)[k].item() == pytest.approx(cosine, rel=1e-9)
        waves = [f(2 * np.pi * k * s / p) for f in (np.cos, np.sin)]
        left = L - sum(np.outer(w, w @ L) / (w @ w) for w in waves if np.linalg.norm(w) > 1e-6)
        z = loss_scale * left[train]
        losses = np.log(np.exp(z).sum(1)) - z[range(len(train)), s[train]]
        assert excluded_losses(seen)[1, k].item() == pytest.approx(losses.mean(), rel=1e-9)
    z = loss_scale * L[train]
    loss = (np.log(np.exp(z).sum(1)) - z[range(len(train)), s[train]]).mean()
    assert excluded_losses(seen)[1, 0].item() == pytest.approx(loss, rel=1e-12)


@some
@given(st.integers(0, 2**31))
def test_similarity_and_exclusion_ignore_what_raises_all_logits_of_a_pair(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(49, 8, generator=generator, dtype=torch.float64)
    shift = 10 * torch.randn(49, 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        before, after = with_logits(7, logits), with_logits(7, logits + shift)
        for quantity in (logit_similarity, excluded_losses):
            torch.testing.assert_close(
                quantity(after), quantity(before), atol=1e-10, rtol=1e-9, equal_nan=True
            )


@torch.no_grad()
def test_memorised_logits_have_no_trace():
    """A delta at the right answers is the sum of all frequencies in equal parts."""
    p = 23
    a, b, c = torch.meshgrid(*[torch.arange(p)] * 3, indexing="ij")
    seen = with_logits(p, 10.0 * ((a + b - c) % p == 0).double())
    similarity = logit_similarity(seen)[1:]
    torch.testing.assert_close(similarity, torch.full_like(similarity, 11**-0.5))
    assert named(traces(logit_similarity(seen))) == []


@torch.no_grad()
@pytest.mark.parametrize("p", [8, 10])
def test_half_the_modulus_can_be_a_key_frequency(p):
    a, b, c = torch.meshgrid(*[torch.arange(p)] * 3, indexing="ij")
    seen = with_logits(p, 5.0 * (math.pi * ((a + b - c) % 2)).cos().double() + 0.0 * a)
    assert named(traces(logit_similarity(seen))) == [p // 2]
    assert named(peaks(spectrum(clock_embedding(p, (p // 2,), 8)[:p]))) == [p // 2]


@pytest.mark.parametrize("p", [2, 3, 4, 9])
@pytest.mark.parametrize("operation", ["add", "subtract", "multiply"])
def test_rules_that_cannot_be_applied_are_nan(p, operation):
    task = Task(operation, p, 0.5)
    nothing = {"train": np.arange(0), "test": np.arange(p * p)}
    found = measure(random_model(p), task, nothing, ["key_frequencies"])["key_frequencies"]
    undefined = np.isnan(found["key_frequency_by_rule"]).all("frequency").values
    logits = operation == "multiply"
    assert undefined.tolist() == [False, False, False, logits, True]
    assert np.isnan(found["key_frequency_count_by_rule"]).values.tolist() == undefined.tolist()
    one = {"train": np.arange(1), "test": np.arange(0)}
    found = measure(random_model(p), task, one, ["key_frequencies"])["key_frequencies"]
    assert np.isnan(found["key_frequency_by_rule"].values).any() == logits


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_and_depth(placement):
    model = random_model(5, placement=placement, n_layers=2, dtype=torch.float32)
    task = Task("add", 5, 0.5)
    found = measure(model, task, task.split_indices(0), ["key_frequencies"])["key_frequencies"]
    assert not any(np.isnan(variable).any() for variable in found.data_vars.values())


def test_constant_logits_name_nothing():
    with torch.no_grad():
        found = masks(with_logits(5, torch.ones(5, 5, 6, dtype=torch.float64)))
    assert named(found["logit_trace"]) == named(found["exclusion"]) == []
