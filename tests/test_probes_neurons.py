import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_model, stock_pizza_model
from oracles import CLOCK_AMPLITUDES, clock_model, random_model

from mech_grok.probes import measure, probe
from mech_grok.probes.fourier_basis import power_2d, spectrum
from mech_grok.probes.logit_projections import waves_of
from mech_grok.probes.neuron_spectrum import (
    SingleFrequency,
    cluster_sizes,
    fve_by_frequency,
    neuron_logit_map,
    single_frequency,
)
from mech_grok.probes.neurons import frequency_labels, projection_fve, residual_share, top_singular_share
from mech_grok.probes.observation import Anchors, Needs, observe
from mech_grok.task import Task

P = 113
KEYS = list(CLOCK_AMPLITUDES)
OTHERS = [k for k in range(57) if k not in KEYS]
seeds = st.integers(0, 2**31)
some = settings(deadline=None, max_examples=20)


def grid(p):
    n = torch.arange(p)
    return torch.meshgrid(n, n, indexing="ij")


def cos(k, n, p=P):
    return (2 * math.pi / p * ((k * n) % p).double()).cos()


def shares(h):
    p = len(h)
    return fve_by_frequency(power_2d(h.reshape(p * p).double(), p))


A, B = grid(P)
PRODUCT_14, PRODUCT_35, PRODUCT_56 = (cos(k, A) * cos(k, B) for k in (14, 35, 56))


@pytest.mark.parametrize(
    ("h", "k", "fve", "second"),
    [
        (PRODUCT_14, 14, 1, 0),
        ((cos(14, A) + cos(14, B)).relu(), 14, 0.9620819, 0.0328417),
        (cos(14, A + B).relu(), 14, 0.8407745, 0.1514176),
        (0.9**0.5 * PRODUCT_14 + 0.1**0.5 * PRODUCT_35, 14, 0.9, 0.1),
        (PRODUCT_56, 56, 1, 0),
        ((2 + cos(14, A) + cos(14, B)).relu(), 14, 1, 0),
        (5 + cos(3, A - B), 3, 1, 0),
        (cos(3, A), 3, 1, 0),
        (PRODUCT_14 + cos(14, A) * cos(35, B), 14, 0.5, 0),
    ],
)
def test_known_functions(h, k, fve, second):
    found = shares(h)
    assert found.argmax() == k
    top = found.sort(descending=True).values
    assert top[:2].tolist() == pytest.approx([fve, second], abs=1e-7)
    assert found[0] == 0


def test_noise_has_no_frequency():
    noise = torch.randn(P * P, 64, generator=torch.Generator().manual_seed(0))
    found = fve_by_frequency(power_2d(noise, P))[1:]
    assert found.mean().item() == pytest.approx(8 / (P * P - 1), rel=0.02)
    assert found.amax(0).mean().item() == pytest.approx(0.0016, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-20, 1e20])
@pytest.mark.parametrize("p", [2, 5, 8])
def test_a_constant_has_no_frequency(value, p):
    found = single_frequency(power_2d(torch.full((p * p, 2), value), p))
    assert found.fve.isnan().all()
    assert found.frequency.tolist() == [0, 0]


def test_rounding_is_not_activity():
    noise = 1 + 1e-7 * torch.randn(P * P, 3, generator=torch.Generator().manual_seed(0))
    assert single_frequency(power_2d(noise, P)).fve.isnan().all()
    small = 1 + 1e-4 * cos(5, A).reshape(-1, 1).float()
    assert single_frequency(power_2d(small, P)).fve.item() == pytest.approx(1, abs=1e-4)


@some
@given(st.integers(2, 8), seeds)
def test_fve_is_that_of_a_regression(p, seed):
    h = torch.randn(p * p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    a, b = (x.reshape(-1).numpy() for x in grid(p))
    centred = h - h.mean()
    expected = [0.0]
    for k in range(1, p // 2 + 1):
        of_a, of_b = ([np.ones(p * p), *(f(2 * np.pi * k * n / p) for f in (np.cos, np.sin))] for n in (a, b))
        design = np.stack([x * y for x in of_a for y in of_b], axis=1)
        left = h - design @ np.linalg.lstsq(design, h, rcond=1e-9)[0]
        expected.append(1 - (left**2).sum() / (centred**2).sum())
    assert shares(torch.from_numpy(h).reshape(p, p)).numpy() == pytest.approx(np.array(expected), abs=1e-9)


@some
@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
def test_fve_ignores_scale_shift_and_translation(seed, scale, shift):
    h = torch.randn(7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = shift + scale * h.roll((2, 3), (0, 1))
    torch.testing.assert_close(shares(moved), shares(h), atol=1e-9, rtol=1e-7)


def test_labels_and_clusters():
    fve = torch.tensor(
        [[0.9, 0.85, math.nan, 0.99, 0.86], [0.1, math.nan, 0.87, 0.2, 0.3]], dtype=torch.float64
    )
    frequency = torch.tensor([[1, 2, 0, 3, 1], [3, 0, 2, 1, 1]])
    neurons = SingleFrequency(fve, frequency)
    assert frequency_labels(neurons).nan_to_num(99).tolist() == [[1, -1, 99, 3, 1], [-1, 99, 2, -1, -1]]
    assert cluster_sizes(neurons, 7).tolist() == [[0, 2, 0, 1], [0, 0, 1, 0]]


def random_map(seed, neurons=9, p=7):
    return torch.randn(neurons, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@some
@given(seeds, st.sampled_from([7, 8]), st.sets(st.integers(1, 3), min_size=1))
def test_residual_and_top_singular_values(seed, p, keys):
    W_L, waves = random_map(seed, p=p), waves_of(p)[sorted(keys)]
    n = np.arange(p)
    design = np.stack([f(2 * np.pi * k * n / p) for k in sorted(keys) for f in (np.cos, np.sin)], axis=1)
    left = W_L.numpy().T - design @ np.linalg.lstsq(design, W_L.numpy().T, rcond=None)[0]
    expected = np.linalg.norm(left) / np.linalg.norm(W_L)
    assert residual_share(W_L, waves).item() == pytest.approx(expected, rel=1e-9)
    sigma = np.linalg.svd(W_L.numpy(), compute_uv=False)
    share = (sigma[:3] ** 2).sum() / (sigma**2).sum()
    assert top_singular_share(W_L, 3).item() == pytest.approx(share, rel=1e-9)


@some
@given(seeds, st.sampled_from([5, 6]))
def test_projection_fve_is_a_squared_correlation(seed, p):
    generator = torch.Generator().manual_seed(seed)
    neurons = torch.randn(p * p, 9, generator=generator, dtype=torch.float64)
    W_L, waves = random_map(seed, p=p), waves_of(p)[1:3]
    a, b = (x.reshape(-1) for x in grid(p))
    answers = (a + b) % p
    by_answer = torch.stack([neurons[answers == s].mean(0) for s in range(p)])
    found = projection_fve(neurons, by_answer, W_L, waves)
    for i, wave in enumerate(waves.flatten(0, 1)):
        if not wave.any():
            assert found.flatten()[i].isnan()
            continue
        read = (neurons @ (W_L @ wave)).numpy()
        expected = np.corrcoef(read, wave[answers].numpy())[0, 1] ** 2
        assert found.flatten()[i].item() == pytest.approx(expected, rel=1e-8)


def seen_in(model, p, operation="add", names=("neurons",), **anchors):
    task = Task(operation, p, 0.5)
    return measure(model, task, task.split_indices(0), names, Anchors(**anchors))["neurons"]


@pytest.fixture(scope="module")
def clock():
    return seen_in(clock_model(), P)


def test_neurons_of_the_clock(clock):
    assert clock["neurons_live"].item() == 40
    assert clock["neurons_dead"].item() == 472
    live = clock["neuron_fve"].values[0, :40]
    # The linear terms of the squares, at twice the frequency, hold a fifth.
    assert live == pytest.approx(np.full(40, 0.8), rel=1e-9)
    assert (clock["neuron_frequency"].values[0, :40] == -1).all()
    assert np.isnan(clock["neuron_frequency"].values[0, 40:]).all()
    assert not clock["neuron_cluster_size"].any()


def test_best_frequency_of_the_clock_s_neurons():
    hook = "blocks.0.mlp.hook_post"
    neurons = observe(clock_model(), Task("add", P, 0.5), {}, Needs([hook])).at_equals[hook]
    best = single_frequency(power_2d(neurons[:, :40], P)).frequency
    assert best.tolist() == [k for k in KEYS for _ in range(8)]


def test_neuron_logit_map_of_the_clock(clock):
    norms = clock["neuron_logit_spectrum"].values
    # Eight neurons add 1/4 each, four to the cosine and four to the sine, both of norm sqrt(p/2).
    assert norms[KEYS] == pytest.approx(
        [alpha * math.sqrt(8 / 16 * P / 2) for alpha in CLOCK_AMPLITUDES.values()]
    )
    assert norms[OTHERS] == pytest.approx(np.zeros(52), abs=1e-12)
    assert float(clock["neuron_logit_residual"]) < 1e-12
    assert float(clock["neuron_logit_svd_share"]) == pytest.approx(1, rel=1e-12)
    assert clock["neuron_projection_fve"].values[KEYS] == pytest.approx(np.ones((5, 2)), rel=1e-9)
    assert np.isnan(clock["neuron_projection_fve"].values[OTHERS]).all()


def test_ablated_frequencies_of_the_clock_are_those_of_its_logits(clock):
    """Without an MLP's frequency the logits lack that cosine; the skip path adds nothing here."""
    losses = clock["neuron_ablation_loss"].sel(split="all").values
    expected = [1.84993e-3, 3.15389e-3, 1.048222e-2, 1.21466e-3, 2.092138e-2]
    assert losses[[14, 35, 41, 42, 52]] == pytest.approx(expected, rel=1e-5)
    assert losses[OTHERS[1:]] == pytest.approx(np.full(51, 2.9552415e-5), rel=1e-6)
    assert np.isnan(losses[0])


def test_neurons_of_the_pizza():
    seen = probe(stock_pizza_model(), "neurons")
    assert seen["neurons_dead"].item() == 7
    live = seen["neuron_fve"].values[0, :505]
    # Phases lie unlike to p's grid, so that the share varies a little about that of phase 0.
    assert live == pytest.approx(np.full(505, 0.9620819), abs=2e-3)
    assert seen["neuron_frequency"].values[0, :505].tolist() == [k for k in KEYS for _ in range(101)]
    assert seen["neuron_cluster_size"].values[0, KEYS].tolist() == [101] * 5
    assert int(seen["neuron_cluster_size"].sum()) == 505
    assert np.isnan(seen["neuron_ablation_loss"].sel(split="train")).all()


@pytest.mark.parametrize("seed", range(2))
def test_untrained_neurons(seed):
    sizes = {"d_model": 128, "d_head": 32, "n_heads": 4, "d_mlp": 512, "d_vocab": 114, "d_vocab_out": 113}
    seen = probe(stock_model(**sizes, dtype=torch.float32, seed=seed), "neurons")
    assert 125 <= seen["neurons_dead"].item() <= 147
    assert np.isnan(seen["neuron_fve"]).sum() == np.isnan(seen["neuron_frequency"]).sum()
    assert np.isnan(seen["neuron_fve"]).sum() == seen["neurons_dead"].item()
    fve = seen["neuron_fve"].values
    assert 0.13 < np.nanmax(fve) < 0.25
    assert np.nanmedian(fve) == pytest.approx(0.07, abs=0.01)
    assert not seen["neuron_cluster_size"].any()
    assert np.isnan(seen["neuron_logit_residual"])


def ablated_by_hand(model, task, k, split):
    """The losses of a forward pass with the projection subtracted at the hook point."""
    pairs, p = task.pairs(), task.p
    s = task.answers(pairs)
    waves = [f(2 * np.pi * k * s / p) for f in (np.cos, np.sin)]
    waves = np.stack([w / np.linalg.norm(w) for w in waves if np.linalg.norm(w) > 1e-6])
    projector = torch.from_numpy(waves.T @ waves)

    def subtract(x, hook):
        x[:, -1] -= projector @ x[:, -1]
        return x

    tokens = torch.as_tensor(task.tokens(pairs))
    with torch.no_grad(), model.hooks([(f"blocks.{model.cfg.n_layers - 1}.mlp.hook_post", subtract)]):
        logits = model(tokens)[:, -1, :p] * model.unembed.loss_scale
    losses = -logits.log_softmax(-1)[range(p * p), s]
    return losses[split].mean().item()


@pytest.mark.parametrize(
    ("p", "operation", "config"),
    [
        (5, "add", {}),
        (6, "subtract", {"placement": "pre", "n_layers": 2}),
        (5, "add", {"placement": "attn-pre", "readout_scale": 0.3}),
        (5, "subtract", {"activation": "swiglu", "tied_unembed": True, "mlp_ratio": 1}),
    ],
)
def test_ablation_is_that_of_a_hook(p, operation, config):
    model = random_model(p, **config)
    seen, task = seen_in(model, p, operation), Task(operation, p, 0.5)
    for name, split in task.split_indices(0).items():
        for k in range(1, p // 2 + 1):
            found = float(seen["neuron_ablation_loss"].sel(split=name, frequency=k))
            assert found == pytest.approx(ablated_by_hand(model, task, k, split), rel=1e-9)


@pytest.mark.parametrize("config", [{"placement": "post"}, {"placement": "peri"}, {"final_norm": "on"}])
def test_no_ablation_through_a_norm(config):
    seen = seen_in(random_model(5, **config), 5)
    assert np.isnan(seen["neuron_ablation_loss"]).all()
    assert np.isfinite(seen["neuron_fve"]).any()


def test_given_key_frequencies_are_used():
    seen = seen_in(random_model(7), 7, key_frequencies=(2,))
    defined = np.isfinite(seen["neuron_projection_fve"].values).all(1)
    assert defined.tolist() == [False, False, True, False]
    assert 0 < float(seen["neuron_logit_residual"]) < 1


@some
@given(seeds)
def test_map_ignores_residual_axes_and_what_raises_all_answers(seed):
    model = random_model(7)
    before = neuron_logit_map(model)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    with torch.no_grad():
        model.unembed.W_U += torch.randn(16, 1, generator=generator, dtype=torch.float64)
        model.blocks[0].mlp.W_out.copy_(model.blocks[0].mlp.W_out @ rotation)
        model.unembed.W_U.copy_(rotation.T @ model.unembed.W_U)
    torch.testing.assert_close(neuron_logit_map(model), before)
    assert spectrum(before.T)[0].item() == pytest.approx(0, abs=1e-12)


def test_map_is_of_the_last_layer_s_raw_weights():
    model = random_model(5, n_layers=2, readout_scale=0.5, final_norm="on")
    expected = model.blocks[1].mlp.W_out @ model.unembed.W_U[:, :5]
    torch.testing.assert_close(neuron_logit_map(model), expected - expected.mean(1, keepdim=True))


def test_an_unembedding_blind_to_the_answer_maps_to_zero():
    model = random_model(7, dtype=torch.float32)
    with torch.no_grad():
        model.unembed.W_U.copy_(model.unembed.W_U[:, :1].expand(-1, 8))
    seen = seen_in(model, 7, key_frequencies=(1, 3))
    assert not seen["neuron_logit_spectrum"].any()
    for name in ("neuron_logit_residual", "neuron_logit_svd_share", "neuron_projection_fve"):
        assert np.isnan(seen[name]).all()


@pytest.mark.parametrize("p", [2, 3, 4, 9])
@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_small_moduli_and_other_operations(p, operation):
    model = random_model(p)
    seen = seen_in(model, p, operation, key_frequencies=(p // 2,))
    assert seen["neuron_fve"].shape == (1, 32)
    if p < 4:
        # One frequency holds every function of such a small p.
        assert np.nanmin(seen["neuron_fve"]) == pytest.approx(1, rel=1e-12)
    assert np.isnan(seen["neuron_ablation_loss"]).all() == (operation == "multiply")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    seen = seen_in(model, p, operation)
    assert seen["neurons_dead"].item() == 32
    assert np.isnan(seen["neuron_fve"]).all()


def test_one_pass_is_shared():
    model, task = random_model(5), Task("add", 5, 0.5)
    both = measure(model, task, task.split_indices(0), ["key_frequencies", "neurons"])["neurons"]
    assert both.equals(seen_in(model, 5))
