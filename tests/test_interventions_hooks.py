"""Interventions as hooks, against computation by hand, models of other placements, and each other."""

import contextlib
import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import clock_loss, random_model, write_clock
from small_models import TOKENS, P, build
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.interventions import (
    affine_only,
    bypass,
    freeze_scale,
    insert,
    mean,
    resample,
    scale,
    temperature,
    unit,
    zero,
)
from mech_grok.model import GrokTransformer
from mech_grok.placement import PATHWAYS, Placement, all_placements
from mech_grok.probes import measure
from mech_grok.probes.observation import logits_under
from mech_grok.task import Task
from mech_grok.training.loss import cross_entropy

TRAIN = TOKENS[::3]
DONORS = TOKENS[torch.randperm(len(TOKENS), generator=torch.Generator().manual_seed(0))]

pathway_sets = st.frozensets(st.sampled_from(PATHWAYS))
placements = st.sampled_from([str(x) for x in all_placements()])
some = settings(max_examples=15, deadline=None)

MAKERS = {
    "bypass": bypass,
    "insert": insert,
    "unit": unit,
    "affine_only": affine_only,
    "freeze_scale": lambda model, pathways, **at: freeze_scale(model, pathways, TRAIN, **at),
    "scale": lambda model, pathways, **at: scale(model, pathways, 3.0, **at),
    "zero": zero,
    "mean": lambda model, pathways, **at: mean(model, pathways, TRAIN, **at),
    "resample": lambda model, pathways, **at: resample(model, pathways, DONORS, **at),
}


@torch.no_grad()
def run(model, *hooks):
    with model.hooks(fwd_hooks=[hook for part in hooks for hook in part]):
        return model(TOKENS)


@torch.no_grad()
def cache_of(model, *hooks, tokens=TOKENS):
    with model.hooks(fwd_hooks=[hook for part in hooks for hook in part]):
        return model.run_with_cache(tokens)[1]


def made(name, model, pathways, **at):
    """The hooks of an intervention; none where it refuses for want of a norm."""
    with contextlib.suppress(ValueError):
        return MAKERS[name](model, pathways, **at)
    assert name in ("affine_only", "freeze_scale")
    return []


def assert_equal(a: Tensor, b: Tensor):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", range(16))
def test_bypass_is_the_model_built_without_these_norms_for_all_subsets(n):
    chosen = {x for i, x in enumerate(PATHWAYS) if n >> i & 1}
    model = build("pre")
    other = GrokTransformer(
        model.config.model_copy(update={"placement": Placement(frozenset(PATHWAYS) - chosen)}),
        P,
        dtype=torch.float64,
    )
    weights = model.state_dict()
    other.load_state_dict({name: weights[name] for name in other.state_dict()})
    assert torch.equal(run(model, bypass(model, chosen)), run(other))


@given(pathway_sets, placements, st.sampled_from([1, 2]))
@some
def test_unit_is_the_direction_of_the_input_whatever_the_norm(pathways, placement, n_layers):
    model = build(placement, n_layers=n_layers)
    cache = cache_of(model, unit(model, pathways, layers=[0]))
    for pathway in pathways:
        x, read = (cache[f"blocks.0.norm_{pathway}.hook_{at}"].numpy() for at in ("in", "out"))
        np.testing.assert_allclose(read, x / np.sqrt((x**2).sum(-1, keepdims=True)), rtol=1e-12)


@pytest.mark.parametrize("placement", ["off", "mlp-pre", "post", "peri"])
def test_unit_at_the_mlp_input_is_the_scale_removed_loss_of_the_probe(placement):
    task = Task("add", P, 0.5)
    model, split = build(placement), task.split_indices(0)
    losses = cross_entropy(
        run(model, unit(model, {"mlp"}))[:, -1], torch.from_numpy(task.answers(task.pairs()))
    )
    probed = measure(model, task, split, ["shortcut"])["shortcut"]["sr_loss"]
    for name, indices in split.items():
        assert losses[torch.from_numpy(indices)].mean().item() == pytest.approx(
            probed.sel(split=name).item(), rel=1e-12
        )


@pytest.mark.parametrize("norm", ["ln", "rms"])
def test_affine_only_multiplies_by_the_gain_and_adds_the_bias(norm):
    model = build("pre", norm=norm)
    cache = cache_of(model, affine_only(model, {"k", "mlp"}))
    for pathway, key in (("k", "ln1"), ("mlp", "ln2")):
        x, affine = cache[f"blocks.0.norm_{pathway}.hook_in"], getattr(model.blocks[0], key)
        expected = x * affine.w + (affine.b if norm == "ln" else 0.0)
        assert_equal(cache[f"blocks.0.norm_{pathway}.hook_out"], expected)
    untouched = cache["blocks.0.norm_v.hook_out"]
    assert_equal(untouched, cache_of(model)["blocks.0.norm_v.hook_out"])


def test_affine_only_leaves_pathways_without_an_affine_alone():
    model = build("mlp-pre")
    assert_equal(run(model, affine_only(model, {"q", "mlp"})), run(model, affine_only(model, {"mlp"})))
    with pytest.raises(
        ValueError, match=r"nothing to change at blocks\.0\.norm_q; a gain is at blocks\.0\.norm_mlp$"
    ):
        affine_only(model, {"q"})
    with pytest.raises(ValueError, match="a gain is on no pathway of this model"):
        affine_only(build("mlp-inpnorm"), {"mlp"})


def test_a_frozen_scale_is_the_mean_over_the_given_tokens_at_each_position():
    model = build("pre", n_layers=2)
    before = cache_of(model, tokens=TRAIN)
    cache = cache_of(model, freeze_scale(model, {"v", "mlp"}, TRAIN, layers=[1]))
    for pathway in ("v", "mlp"):
        norm = f"blocks.1.norm_{pathway}"
        means = before[f"{norm}.hook_scale"].numpy().mean(0)
        assert means.std() > 1e-3, "positions differ"
        x = cache[f"{norm}.hook_in"].numpy()
        expected = (x - x.mean(-1, keepdims=True)) / means
        np.testing.assert_allclose(cache[f"{norm}.hook_normalized"].numpy(), expected, rtol=1e-12)
    assert_equal(cache["blocks.0.norm_v.hook_scale"], cache_of(model)["blocks.0.norm_v.hook_scale"])


def test_a_scale_that_is_the_same_for_all_tokens_is_frozen_to_itself():
    model = build("mlp-inpnorm", random_affines=False)
    with torch.no_grad():
        model.embed.W_E[:] = model.embed.W_E[0]  # every example is the same
    assert_equal(run(model, freeze_scale(model, {"mlp"}, TRAIN)), run(model))


def test_a_scale_of_another_model():
    model, other = build("pre"), build("pre", seed=1)
    expected = cache_of(other, tokens=TRAIN)["blocks.0.norm_k.hook_scale"].mean(0)
    frozen = cache_of(model, freeze_scale(model, {"k"}, TRAIN, source=other))["blocks.0.norm_k.hook_scale"]
    assert_equal(frozen, expected.expand_as(frozen))
    assert not torch.allclose(expected, cache_of(model, tokens=TRAIN)["blocks.0.norm_k.hook_scale"].mean(0))


def test_the_divisor_of_a_norm_that_the_model_does_not_have():
    model, other = build("off"), build("mlp-pre", seed=1)
    cache = cache_of(model, freeze_scale(model, {"v", "mlp"}, TRAIN, source=other))
    divisor = cache_of(other, tokens=TRAIN)["blocks.0.norm_mlp.hook_scale"].mean(0)
    assert_equal(cache["blocks.0.norm_mlp.hook_out"], cache["blocks.0.norm_mlp.hook_in"] / divisor)
    assert_equal(cache["blocks.0.norm_v.hook_out"], cache["blocks.0.norm_v.hook_in"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: build("pre", d_model=32), "the source has d_model = 32; allowed: 16, that of the model"),
        (lambda: build("pre", n_layers=2), "the source has n_layers = 2; allowed: 1, that of the model"),
        (
            lambda: random_model(5, placement="pre"),
            "the source has d_vocab = 6; allowed: 8, that of the model",
        ),
        (lambda: build("off"), "nothing to change at .*norm_k, .*norm_mlp; a norm is on no pathway"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        freeze_scale(build("pre"), {"k", "mlp"}, TRAIN, source=source())


@pytest.mark.parametrize("name", ["bypass", "unit", "affine_only", "insert"])
def test_scale_may_be_anywhere_in_a_list(name):
    model = build("off" if name == "insert" else "pre", norm="rms")
    other = MAKERS[name](model, {"v", "mlp"})
    doubled = scale(model, {"v", "mlp"}, 2.0)
    assert torch.equal(run(model, other, doubled), run(model, doubled, other))
    if name in ("bypass", "affine_only"):
        assert not torch.allclose(run(model, other, doubled), run(model, other))


@pytest.mark.parametrize("make", [mean, resample, freeze_scale])
def test_tokens_that_the_model_does_not_have_are_refused(make):
    with pytest.raises(ValueError, match=r"token 99 is not in 0\.\.7"):
        make(build("pre"), {"k"}, torch.tensor([[0, 99, 7]]))


def test_scale_multiplies_the_input():
    model = build("mlp-pre")
    plain, cache = cache_of(model), cache_of(model, scale(model, {"v"}, -0.7))
    for at in ("hook_in", "hook_out"):
        assert_equal(cache[f"blocks.0.norm_v.{at}"], -0.7 * plain[f"blocks.0.norm_v.{at}"])
    assert_equal(cache["blocks.0.hook_attn_out"], -0.7 * plain["blocks.0.hook_attn_out"])


def clock(placement, p=113):
    """The exact clock, whose norm on the MLP's input divides by a known number: all lengths are sqrt(11)."""
    model = GrokTransformer(ModelConfig(placement=Placement.parse(placement)), p, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return write_clock(model)


@pytest.mark.parametrize(("placement", "shrunk_by"), [("mlp-inpnorm", 11.0), ("off", 1.0)])
def test_the_clock_reads_its_input_quadratically_and_a_norm_undoes_the_scale(placement, shrunk_by):
    model, factor = clock(placement), 0.5
    tokens = torch.tensor([[0, 0, 113], [3, 5, 113], [70, 112, 113]])
    answers = torch.tensor([0, 8, 69])

    def loss(*hooks):
        return cross_entropy(logits_under(model, tokens, [h for part in hooks for h in part]), answers)

    assert loss().numpy() == pytest.approx(clock_loss(shrunk_by), rel=1e-7)
    undone = placement == "mlp-inpnorm"
    of_mlp = shrunk_by if undone else shrunk_by / factor**2
    assert loss(scale(model, {"mlp"}, factor)).numpy() == pytest.approx(clock_loss(of_mlp), rel=1e-7)
    # Values feed the squares twice; with a norm after them, 10 of the squared length are theirs and 1 is not.
    of_v = (10 * factor**2 + 1) / factor**2 if undone else 1 / factor**2
    assert loss(scale(model, {"v"}, factor)).numpy() == pytest.approx(clock_loss(of_v), rel=1e-7)


def test_without_values_attention_writes_nothing():
    model = build("mlp-pre")
    cache, plain = cache_of(model, zero(model, {"v"})), cache_of(model)
    assert torch.equal(cache["blocks.0.hook_attn_out"], torch.zeros_like(plain["blocks.0.hook_attn_out"]))
    block = model.blocks[0]
    stream = plain["blocks.0.hook_resid_pre"]
    affine = block.ln2
    read = torch.nn.functional.layer_norm(stream, stream.shape[-1:], affine.w, affine.b, 0.0)
    mlp_out = torch.relu(read @ block.mlp.W_in + block.mlp.b_in) @ block.mlp.W_out + block.mlp.b_out
    assert_equal(run(model, zero(model, {"v"})), (stream + mlp_out) @ model.W_U)


def test_without_values_a_norm_after_attention_writes_its_bias():
    model = build("peri")
    cache = cache_of(model, zero(model, {"v"}))
    bias = model.blocks[0].ln1_post.b
    assert_equal(cache["blocks.0.hook_attn_out"], bias.expand_as(cache["blocks.0.hook_attn_out"]))


def test_without_queries_or_keys_attention_is_uniform():
    model = build("pre", qk_norm=True)
    for pathway in ("q", "k"):
        pattern = cache_of(model, zero(model, {pathway}))["blocks.0.attn.hook_pattern"]
        assert_equal(pattern, torch.full_like(pattern, 1 / 3))


def test_the_mean_is_numpys_over_the_given_tokens_at_each_position():
    model = build("qk", n_layers=2)
    before = cache_of(model, tokens=TRAIN)
    cache = cache_of(model, mean(model, {"q", "v", "mlp"}, TRAIN))
    for layer in (0, 1):
        for pathway in ("q", "v", "mlp"):
            name = f"blocks.{layer}.norm_{pathway}.hook_out"
            means = before[name].numpy().mean(0)
            assert np.abs(cache[name].numpy() - means).max() < 1e-12
    assert_equal(cache["blocks.0.norm_k.hook_out"], cache_of(model)["blocks.0.norm_k.hook_out"])


def test_a_pathway_resampled_carries_what_the_donors_carry():
    model = build("kv+mlp")
    donated, plain = cache_of(model, tokens=DONORS), cache_of(model)
    cache = cache_of(model, resample(model, {"k", "mlp"}, DONORS))
    for pathway in ("k", "mlp"):
        name = f"blocks.0.norm_{pathway}.hook_out"
        assert_equal(cache[name], donated[name])
        assert not torch.allclose(donated[name], plain[name])
    assert_equal(cache["blocks.0.norm_v.hook_out"], plain["blocks.0.norm_v.hook_out"])
    assert_equal(run(model, resample(model, PATHWAYS, TOKENS)), run(model))


def test_as_many_donors_as_examples():
    model = build("off")
    hooks = resample(model, {"k"}, DONORS[:5])
    with pytest.raises(ValueError, match=r"norm_k\.hook_out: 5 donors for a batch of 49; one each is needed"):
        run(model, hooks)


@given(placements, pathway_sets, st.sampled_from(list(MAKERS)), st.sampled_from([1, 2]))
@example("peri", frozenset({"v"}), "zero", 1)  # whose norm after attention reads zeros
@some
def test_twice_is_once_but_for_scale_and_gone_is_gone(placement, pathways, name, n_layers):
    model = build(placement, n_layers=n_layers)
    before, config, plain = copy.deepcopy(model.state_dict()), model.config, run(model)
    hooks = made(name, model, pathways)
    once = run(model, hooks)
    twice = run(model, hooks, made(name, model, pathways))
    expected = run(model, scale(model, pathways, 9.0)) if name == "scale" else once
    torch.testing.assert_close(twice, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(run(model, hooks, hooks), twice)
    assert torch.equal(run(model, hooks), once)
    assert torch.equal(run(model), plain)
    assert model.config == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_list_is_applied_in_order():
    model = build("pre")
    pair = scale(model, {"mlp"}, 2.0), bypass(model, {"mlp"})
    cache = cache_of(model, *pair)
    assert_equal(cache["blocks.0.norm_mlp.hook_out"], 2 * cache_of(model)["blocks.0.norm_mlp.hook_in"])
    last_wins = run(model, bypass(model, {"v"}), unit(model, {"v"}))
    assert torch.equal(last_wins, run(model, unit(model, {"v"})))
    three = run(model, scale(model, {"k"}, 3.0), bypass(model, {"k"}), temperature(model, 0.5))
    assert_equal(three, run(model, scale(model, {"k"}, 1.5), bypass(model, {"k"})))
    both = run(model, zero(model, {"v"}), mean(model, {"k"}, TRAIN))
    assert_equal(both, run(model, zero(model, {"v"})))  # what is looked at does not matter then


@pytest.mark.parametrize("name", [x for x in MAKERS if x != "resample"])
def test_a_pass_of_the_last_positions_only_gives_the_same(name):
    model = build("pre" if name != "insert" else "off", n_layers=2)
    hooks = MAKERS[name](model, PATHWAYS)
    assert_equal(logits_under(model, TOKENS, hooks), run(model, hooks)[:, -1])


def test_donors_serve_a_pass_of_the_last_position_only():
    model = build("pre")
    hooks = resample(model, PATHWAYS, DONORS)
    assert_equal(logits_under(model, TOKENS, hooks), run(model, hooks)[:, -1])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"pathways": {"qk"}}, r"unknown pathways \['qk'\]; allowed: q, k, v, mlp"),
        ({"pathways": "mlp"}, r"pathways are given as a set: \{'mlp'\}"),
        ({"pathways": {"q"}, "layers": [1, -1]}, r"layers \[-1, 1\] are not in 0\.\.0"),
        ({"pathways": {"q"}, "heads": [2]}, r"heads \[2\] are not in 0\.\.1"),
        (
            {"pathways": {"q", "mlp"}, "heads": [0]},
            "the MLP has no heads; with heads the pathways are q, k, v",
        ),
    ],
)
def test_what_the_model_does_not_have_is_named(name, at, message):
    with pytest.raises(ValueError, match=message):
        MAKERS[name](build("pre"), **at)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_factor_is_finite(factor):
    with pytest.raises(ValueError, match=f"the factor is {factor}; allowed: any finite number"):
        scale(build("off"), {"v"}, factor)


@pytest.mark.parametrize("name", ["mean", "resample", "freeze_scale"])
def test_without_tokens_there_is_no_mean(name):
    make = {"mean": mean, "resample": resample, "freeze_scale": freeze_scale}[name]
    with pytest.raises(ValueError, match="no tokens were given"):
        make(build("pre"), {"k"}, TOKENS[:0])


def test_a_scale_can_only_be_frozen_where_there_is_a_norm():
    message = r"nothing to change at blocks\.0\.norm_q; a norm is at blocks\.0\.norm_v, blocks\.0\.norm_mlp$"
    with pytest.raises(ValueError, match=message):
        freeze_scale(build("v+mlp"), {"q"}, TRAIN)
    model = build("v+mlp")
    of_both = run(model, freeze_scale(model, {"q", "v"}, TRAIN))
    assert torch.equal(of_both, run(model, freeze_scale(model, {"v"}, TRAIN)))
