"""Factors on attention scores: as hooks, as the model's own, and solved for an entropy."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_model
from transformer_lens import HookedTransformer
from transformer_lens.config import HookedTransformerConfig

import mech_grok
from mech_grok.config import ModelConfig
from mech_grok.interventions import ablate, temperature, temperature_for_entropy
from mech_grok.model import GrokTransformer, adopt
from mech_grok.task import Task

P = 7
TOKENS = torch.tensor([[a, b, P] for a in range(P) for b in range(P)])
FACTORS = torch.tensor([[0.5, 2.0], [3.0, 0.1]], dtype=torch.float64)
some = settings(max_examples=15, deadline=None)


def model_of(**settings):
    return random_model(P, **{"n_heads": 2, "n_layers": 2, **settings})


def scores_at(layer):
    return f"blocks.{layer}.attn.hook_attn_scores"


@torch.no_grad()
def cached(model, hooks=()):
    with model.hooks(fwd_hooks=list(hooks)):
        return model.run_with_cache(TOKENS)[1]


def numpy_entropies(model, hooks):
    """Entropy at '=' [layer, head], mean over the tokens, from the scores before the hooks' factor."""
    cache, found = cached(model, hooks), []
    for layer in range(model.cfg.n_layers):
        x = cache[scores_at(layer)][:, :, -1].numpy()  # the hooks' result is what is cached
        weights = np.exp(x - x.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        found.append(-(weights * np.log(np.maximum(weights, 1e-300))).sum(-1).mean(0))
    return np.array(found)


def test_scores_are_multiplied_and_nothing_else():
    model = model_of(n_layers=1)
    before, after = cached(model), cached(model, temperature(model, FACTORS[:1]))
    expected = before[scores_at(0)] * FACTORS[0][:, None, None]
    torch.testing.assert_close(after[scores_at(0)], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(after["blocks.0.attn.hook_pattern"], expected.softmax(-1))
    for name in ("hook_q", "hook_k", "hook_v"):
        assert torch.equal(after[f"blocks.0.attn.{name}"], before[f"blocks.0.attn.{name}"])


@given(st.sets(st.integers(0, 1)), st.none() | st.sets(st.integers(0, 1)))
@some
def test_only_the_chosen_layers_and_heads(layers, heads):
    model = model_of()
    hooks = temperature(model, 4.0, layers, heads)
    assert [name for name, _ in hooks] == [scores_at(layer) for layer in sorted(layers)]
    chosen = torch.ones(2, 2, dtype=torch.float64)
    for layer in layers:
        for head in (0, 1) if heads is None else heads:
            chosen[layer, head] = 4.0
    expected = cached(same_weights_with(model, chosen))
    torch.testing.assert_close(cached(model, hooks)["hook_embed"], expected["hook_embed"])
    for layer in range(2):
        torch.testing.assert_close(cached(model, hooks)[scores_at(layer)], expected[scores_at(layer)])


@torch.no_grad()
def same_weights_with(model, factors):
    """The same model with attention factors of its own."""
    config = ModelConfig.model_validate({**model.config.model_dump(), "attention_factor": factors.tolist()})
    other = GrokTransformer(config, P, dtype=model.cfg.dtype)
    for name, parameter in model.named_parameters():
        other.get_parameter(name).copy_(parameter)
    return other


@pytest.mark.parametrize("settings", [{}, {"qk_norm": True, "placement": "A^qk"}, {"placement": "peri"}])
def test_a_model_with_factors_is_the_hooked_model(settings):
    model = model_of(**settings)
    other = same_weights_with(model, FACTORS)
    with model.hooks(fwd_hooks=temperature(model, FACTORS)):
        hooked = model(TOKENS)
        expected = torch.autograd.grad(hooked.square().sum(), list(model.trained_parameters().values()))
    own = other(TOKENS)
    torch.testing.assert_close(own, hooked, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(own.square().sum(), list(other.trained_parameters().values()))
    assert model.trained_parameters().keys() == other.trained_parameters().keys()
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


OF_W_Q = {
    *("weight_effective_rank", "weight_stable_rank", "weight_power_law_alpha", "weight_power_law_alpha_mean"),
    *(
        "weight_power_law_tail",
        "weight_norm",
        "weight_norm_by_group",
        "gradient_norm",
        "gradient_norm_by_group",
    ),
    *("scaling_cosine", "ntk_norm", "ntk_label_alignment", "ntk_label_alignment_centred"),
}
"""What probes measure of parameters and gradients, which know where a factor is stored."""


@torch.no_grad()
def test_probes_and_ablations_see_what_the_model_computes():
    """A factor may as well be part of W_Q, where queries have no norm after it."""
    model = model_of(placement="kv")
    other = same_weights_with(model, FACTORS)
    for block, factors in zip(model.blocks, FACTORS, strict=True):
        block.attn.W_Q.mul_(factors[:, None, None])
    split = {"tokens_train": TOKENS[::2], "tokens_test": TOKENS[1::2]}
    folded, own = (mech_grok.probe(x, **split) for x in (model, other))
    assert len(folded.data_vars) > 100
    compared = [name for name in folded.data_vars if name not in OF_W_Q]
    xr.testing.assert_allclose(own[compared], folded[compared], rtol=1e-6, atol=1e-8)
    task, indices = Task("add", P, 0.5), {"train": np.arange(0, P * P, 2), "test": np.arange(1, P * P, 2)}
    xr.testing.assert_allclose(ablate(other, task, indices), ablate(model, task, indices), rtol=1e-9)


def test_the_models_own_factors_and_the_hooks_multiply():
    model = model_of()
    other = same_weights_with(model, FACTORS)
    with other.hooks(fwd_hooks=temperature(other, 3.0)), torch.no_grad():
        on_top = other(TOKENS)
    torch.testing.assert_close(on_top, same_weights_with(model, 3 * FACTORS)(TOKENS).detach())


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_factors_are_frozen_and_no_part_of_the_initialisation(scale):
    plain = GrokTransformer(ModelConfig(n_layers=2, d_model=16, init_scale=scale), P, seed=5)
    model = GrokTransformer(
        ModelConfig(n_layers=2, d_model=16, init_scale=scale, attention_factor=0.7), P, seed=5
    )
    names = ["blocks.0.attn.score_factor", "blocks.1.attn.score_factor"]
    assert model.frozen_parameters().keys() - plain.frozen_parameters().keys() == set(names)
    assert model.trained_parameters().keys() == plain.trained_parameters().keys()
    for name, parameter in model.named_parameters():
        if name in names:
            assert torch.equal(parameter, torch.full((4,), 0.7))
        else:
            assert torch.equal(parameter, plain.get_parameter(name))


def test_a_model_without_factors_has_no_such_parameter():
    assert not any("score_factor" in name for name, _ in GrokTransformer(ModelConfig(), P).named_parameters())


def test_masked_scores_of_a_causal_model_stay_masked():
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_head": 4, "n_heads": 2, "d_mlp": 12, "n_layers": 1, "n_ctx": 3}
    with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
        stock = HookedTransformer(
            HookedTransformerConfig(**sizes, d_vocab=P + 1, act_fn="relu", dtype=torch.float64, device="cpu")
        )
    model = adopt(stock)
    plain, sharp = cached(model), cached(model, temperature(model, 3.0))
    pattern = sharp["blocks.0.attn.hook_pattern"]
    assert (pattern.triu(1) == 0).all()
    torch.testing.assert_close(pattern, (3 * plain[scores_at(0)]).softmax(-1))
    hooks, solution = temperature_for_entropy(model, TOKENS, 1.0)
    np.testing.assert_allclose(numpy_entropies(model, hooks), 1.0, atol=1e-9)
    assert solution.factor.shape == (1, 2)


@given(st.integers(0, 2**31), st.sampled_from(["off", "A^qk", "pre"]), st.booleans(), st.floats(0.25, 1.05))
@some
def test_solved_factors_reach_their_entropy(seed, placement, qk_norm, target):
    """At depth 2, where the first layer's factors change what the second one reads."""
    model = model_of(seed=seed, placement=placement, qk_norm=qk_norm)
    hooks, solution = temperature_for_entropy(model, TOKENS, target)
    np.testing.assert_allclose(numpy_entropies(model, hooks), target, atol=1e-8)
    np.testing.assert_allclose(solution.entropy, target, atol=1e-9)
    assert (solution.factor > 0).all()


def test_each_head_has_its_own_target():
    model = model_of()
    target = torch.tensor([[0.3, 0.9], [1.0, 0.6]], dtype=torch.float64)
    hooks, solution = temperature_for_entropy(model, TOKENS, target)
    np.testing.assert_allclose(numpy_entropies(model, hooks), target, atol=1e-8)
    own = same_weights_with(model, solution.factor)
    np.testing.assert_allclose(numpy_entropies(own, []), target, atol=1e-8)


def test_heads_that_are_not_chosen_keep_theirs():
    model = model_of()
    before = numpy_entropies(model, [])
    hooks, solution = temperature_for_entropy(model, TOKENS, 0.8, layers=[1], heads=[0])
    after = numpy_entropies(model, hooks)
    assert after[1, 0] == pytest.approx(0.8, abs=1e-8)
    np.testing.assert_allclose([*after[0], after[1, 1]], [*before[0], before[1, 1]], atol=1e-12)
    assert solution.factor.shape == (1, 1)


def test_a_gradient_flows_to_the_factor():
    model = model_of()
    factor = FACTORS.clone().requires_grad_()
    with model.hooks(fwd_hooks=temperature(model, factor)):
        loss = model(TOKENS).square().mean()
    (got,) = torch.autograd.grad(loss, factor)

    def at(values):
        with model.hooks(fwd_hooks=temperature(model, values)), torch.no_grad():
            return float(model(TOKENS).square().mean())

    for i, j in ((0, 1), (1, 0)):
        step = torch.zeros(2, 2, dtype=torch.float64)
        step[i, j] = 1e-6
        numeric = (at(FACTORS + step) - at(FACTORS - step)) / 2e-6
        assert float(got[i, j]) == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_none(factor):
    with pytest.raises(ValueError, match=rf"factor {factor:g}.*: allowed are finite numbers above 0"):
        temperature(model_of(), factor)


def test_what_the_model_does_not_have_is_named():
    model = model_of()
    with pytest.raises(ValueError, match=r"factor is one number or \[layer, head\] = \[2, 2\], not \[2\]"):
        temperature(model, torch.ones(2))
    for call in (lambda **k: temperature(model, 1.0, **k), lambda **k: entropy_of(model, **k)):
        with pytest.raises(ValueError, match=r"layers \[2\] are not in 0..1"):
            call(layers=[2])
        with pytest.raises(ValueError, match=r"heads \[-1, 4\] are not in 0..1"):
            call(heads=[0, 4, -1])
    with pytest.raises(ValueError, match=r"target is one number or \[layer, head\] = \[1, 2\], not \[2, 2\]"):
        temperature_for_entropy(model, TOKENS, FACTORS / 10, layers=[0])


def entropy_of(model, **chosen):
    return temperature_for_entropy(model, TOKENS, 0.5, **chosen)


def test_an_entropy_out_of_reach_names_the_layer_and_the_range():
    with pytest.raises(ValueError, match=r"layer 0: no factor .* of 1\.2 nats; it can be from 0 .*1\.09861"):
        temperature_for_entropy(model_of(), TOKENS, 1.2)
