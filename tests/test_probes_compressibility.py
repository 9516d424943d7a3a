import math
from functools import partial

import numpy as np
import pytest
import torch
from oracle_circuits import stock_model
from oracles import PLACEMENTS, random_model

from mech_grok import probe
from mech_grok.probes import measure
from mech_grok.probes.power_law import fit_power_law
from mech_grok.task import Task


def entropy_by_hand(values):
    shares = [x / sum(values) for x in values]
    return -math.fsum(x * math.log(x) for x in shares if x > 0)


def brute_force(model, task, index, hook):
    _, cache = model.run_with_cache(torch.as_tensor(task.tokens(task.pairs())))
    x = cache[hook][:, -1].detach().double().numpy()[index]
    sigma, centred = (np.linalg.svd(y, compute_uv=False) for y in (x, x - x.mean(0)))
    power = (sigma**2).tolist()
    return {
        "effective_rank": math.exp(entropy_by_hand(power)),
        "effective_rank_sigma": math.exp(entropy_by_hand(sigma.tolist())),
        "effective_rank_centred": math.exp(entropy_by_hand((centred**2).tolist())),
        "spectral_entropy": entropy_by_hand(power) / math.log(x.shape[1]),
        "numerical_rank": np.linalg.matrix_rank(x, rtol=x.shape[1] * 2.0**-23),
        "stable_rank": (np.linalg.norm(x) / np.linalg.norm(x, 2)) ** 2,
    }


@pytest.mark.parametrize("placement", PLACEMENTS[::4])
def test_reads_the_features_and_every_layers_attention(placement):
    task = Task("add", 5, 0.6)
    split = task.split_indices(0)
    model = random_model(placement=placement, final_norm="on", n_layers=2)
    seen = measure(model, task, split, ["compressibility"])["compressibility"]
    for name, index in {**split, "all": np.arange(25)}.items():
        at = seen.sel(split=name)
        for quantity, expected in brute_force(model, task, index, "unembed.hook_in").items():
            assert float(at[quantity]) == pytest.approx(expected, rel=1e-10)
        for layer in range(2):
            found = at.sel(layer=layer)
            hook = f"blocks.{layer}.hook_attn_out"
            for quantity, expected in brute_force(model, task, index, hook).items():
                assert float(found[f"attn_out_{quantity}"]) == pytest.approx(expected, rel=1e-10)


def test_a_training_set_of_ones_own():
    """`all` is every pair, whatever the two sets have in common or leave out."""
    task, model = Task("add", 5, 0.6), random_model()
    expected = brute_force(model, task, np.arange(25), "unembed.hook_in")["effective_rank"]
    tokens = torch.as_tensor(task.tokens(task.pairs()))
    for train, test in ((tokens[:9], None), (tokens[:9], tokens[5:]), (tokens[:1], tokens[1:])):
        seen = probe(model, "compressibility", tokens_train=train, tokens_test=test)
        assert float(seen["effective_rank"].sel(split="all")) == pytest.approx(expected, rel=1e-10)
        of_test = float(seen["effective_rank"].sel(split="test"))
        assert math.isnan(of_test) == (test is None)


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_weights(activation):
    model = random_model(activation=activation, n_layers=2)
    seen = measure(
        model, Task("add", 5, 0.6), {"train": np.arange(3), "test": np.arange(3, 25)}, ["compressibility"]
    )
    seen = seen["compressibility"]
    names = ["W_Q", "W_K", "W_V", "W_O", "W_in", *(["W_gate"] if activation == "swiglu" else []), "W_out"]
    assert seen["matrix"].values.tolist() == names
    for layer, block in enumerate(model.blocks):
        for name in names:
            matrix = getattr(block.attn if name in names[:4] else block.mlp, name).detach().numpy()
            if name in names[:3]:
                matrix = np.concatenate(list(matrix), axis=1)
            if name == "W_O":
                matrix = np.concatenate(list(matrix), axis=0)
            found = seen.sel(layer=layer, matrix=name)
            power = np.linalg.svd(matrix, compute_uv=False) ** 2
            assert float(found["weight_effective_rank"]) == pytest.approx(
                math.exp(entropy_by_hand(power.tolist()))
            )
            assert float(found["weight_stable_rank"]) == pytest.approx(power.sum() / power.max())
            fit = fit_power_law(power)
            assert int(found["weight_power_law_tail"]) == fit.tail
            alpha = fit.alpha if fit.tail >= 10 else math.nan
            assert float(found["weight_power_law_alpha"]) == pytest.approx(alpha, nan_ok=True, rel=1e-9)
    assert float(seen["weight_power_law_alpha_mean"]) == pytest.approx(
        float(seen["weight_power_law_alpha"].mean()), nan_ok=True
    )


def test_stock_models_and_zero_weights():
    model = stock_model(d_vocab=4, d_vocab_out=3)
    tokens = torch.tensor([[a, b, 3] for a in range(3) for b in range(3)])
    measured = partial(probe, names="compressibility", tokens_train=tokens[:3], tokens_test=tokens[3:])
    assert np.isfinite(measured(model)["effective_rank"].values).all()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    seen = measured(model)
    assert all(np.isnan(seen[name].values).all() for name in ("effective_rank", "weight_stable_rank"))
    assert (seen["attn_out_numerical_rank"].values == 0).all()
    assert math.isnan(float(seen["weight_power_law_alpha_mean"]))


@pytest.mark.parametrize("p", [2, 3])
def test_smallest_moduli(p):
    task = Task("add", p, 0.5)
    model = random_model(p)
    seen = measure(model, task, task.split_indices(0), ["compressibility"])["compressibility"]
    assert (seen["numerical_rank"] <= min(p * p, 16)).all()
    assert np.isfinite(seen["effective_rank"].sel(split="all"))
