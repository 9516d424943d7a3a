"""Bypassed and inserted norms against models of other placements."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.interventions import bypass, insert
from mech_grok.model import GrokTransformer
from mech_grok.placement import PATHWAYS, Placement, all_placements
from mech_grok.task import Task

TASK = Task("add", 7, 0.5)
TOKENS = torch.from_numpy(TASK.tokens(TASK.pairs()))

pathway_sets = st.frozensets(st.sampled_from(PATHWAYS))
layer_sets = st.none() | st.frozensets(st.sampled_from([0, 1]))
placements = st.sampled_from(all_placements())
norms = st.sampled_from(["ln", "rms"])
some = settings(max_examples=20, deadline=None)


def build(placement: Placement, **fields) -> GrokTransformer:
    """A small float64 model whose gains are not 1 and whose biases are not 0."""
    config = ModelConfig.model_validate({"placement": placement, "d_model": 16, "n_heads": 2} | fields)
    model = GrokTransformer(config, TASK.p, seed=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in ("w", "b", "b_in", "b_out"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def with_weights_of(model: GrokTransformer, placement: Placement) -> GrokTransformer:
    """A model of another placement with the weights of `model`; affines it lacks stay gain 1 and bias 0."""
    config = model.config.model_copy(update={"placement": placement})
    other = GrokTransformer(config, TASK.p, dtype=torch.float64)
    own = other.state_dict()
    other.load_state_dict(own | {k: v for k, v in model.state_dict().items() if k in own})
    return other


@torch.no_grad()
def run(model: GrokTransformer, *hooks: list) -> Tensor:
    with model.hooks(fwd_hooks=[hook for part in hooks for hook in part]):
        return model(TOKENS)


def assert_equal(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@given(pathway_sets, pathway_sets, norms, st.sampled_from([1, 2]))
@some
def test_bypass_gives_the_model_of_the_remaining_pathways(normalised, chosen, norm: str, n_layers: int):
    model = build(Placement(normalised), norm=norm, n_layers=n_layers)
    other = with_weights_of(model, Placement(normalised - chosen))
    assert_equal(run(model, bypass(model, chosen)), run(other))


@given(pathway_sets, pathway_sets, norms, st.sampled_from([1, 2]))
@some
def test_insert_gives_the_model_of_all_these_pathways(normalised, chosen, norm: str, n_layers: int):
    model = build(Placement(normalised), norm=norm, n_layers=n_layers)
    other = with_weights_of(model, Placement(normalised | chosen))
    assert_equal(run(model, insert(model, chosen)), run(other))


def test_bypassing_every_norm_leaves_the_model_without_any():
    for placement in all_placements():
        if placement.arrangement in ("pre", "mlp-inpnorm"):
            model = build(placement)
            assert_equal(run(model, bypass(model, PATHWAYS)), run(with_weights_of(model, Placement.of())))


def test_a_norm_inserted_where_there_was_none_has_no_affine():
    model = build(Placement.of())
    assert_equal(run(model, insert(model, {"mlp"})), run(with_weights_of(model, Placement.of("mlp"))))


def test_an_inserted_norm_takes_the_layers_own_affine():
    model = build(Placement.of("q"))
    with torch.no_grad():
        hooks = insert(model, {"v"})
        with model.hooks(fwd_hooks=hooks):
            _, cache = model.run_with_cache(TOKENS)
    affine, x = model.blocks[0].ln1, cache["blocks.0.norm_v.hook_in"]
    expected = torch.nn.functional.layer_norm(x, (16,), affine.w, affine.b, 0.0)
    assert_equal(cache["blocks.0.norm_v.hook_out"], expected)


def test_with_separate_affines_an_inserted_norm_has_none():
    model = build(Placement.of("q"), shared_affine=False)
    with torch.no_grad(), model.hooks(fwd_hooks=insert(model, {"v"})):
        _, cache = model.run_with_cache(TOKENS)
    expected = torch.nn.functional.layer_norm(cache["blocks.0.norm_v.hook_in"], (16,), eps=0.0)
    assert_equal(cache["blocks.0.norm_v.hook_out"], expected)


@given(placements, norms, pathway_sets, layer_sets, st.sampled_from([bypass, insert]), st.booleans())
@some
def test_only_the_chosen_pathways_and_layers_change(
    placement: Placement, norm: str, pathways, layers, intervene: Callable, qk_norm: bool
):
    model = build(placement, norm=norm, n_layers=2, qk_norm=qk_norm)
    with torch.no_grad(), model.hooks(fwd_hooks=intervene(model, pathways, layers)):
        _, cache = model.run_with_cache(TOKENS)
    for layer in (0, 1):
        for pathway in PATHWAYS:
            norm_at = f"blocks.{layer}.norm_{pathway}"
            site = model.blocks[layer].get_submodule(f"norm_{pathway}").site
            bare = torch.equal(cache[f"{norm_at}.hook_out"], cache[f"{norm_at}.hook_in"])
            chosen = pathway in pathways and (layers is None or layer in layers)
            assert bare == ((site.kind is None) if not chosen else intervene is bypass)


@given(placements, norms, pathway_sets, layer_sets, st.sampled_from([bypass, insert]))
@some
def test_twice_is_once_and_gone_is_gone(
    placement: Placement, norm: str, pathways, layers, intervene: Callable
):
    model = build(placement, norm=norm, n_layers=2)
    before, config = copy.deepcopy(model.state_dict()), model.config
    plain = run(model)
    hooks = intervene(model, pathways, layers)
    once = run(model, hooks)
    assert torch.equal(run(model, hooks, intervene(model, pathways, layers)), once)
    assert torch.equal(run(model, hooks, hooks), once)
    assert torch.equal(run(model, hooks), once), "the same hooks serve any number of runs"
    assert torch.equal(run(model), plain)
    assert model.config == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if not hooks:
        assert torch.equal(once, plain)


@given(placements, pathway_sets)
@some
def test_what_is_in_that_state_already_is_left_alone(placement: Placement, pathways):
    model = build(placement)
    normalised = {"mlp"} if placement.arrangement == "mlp-inpnorm" else placement.pathways
    assert {name.split(".")[2] for name, _ in bypass(model, pathways)} == {
        f"norm_{x}" for x in pathways & normalised
    }
    assert {name.split(".")[2] for name, _ in insert(model, pathways)} == {
        f"norm_{x}" for x in pathways - normalised
    }


def test_gradients_flow_through_both():
    model = build(Placement.of("q", "k"))
    with model.hooks(fwd_hooks=[*bypass(model, {"q"}), *insert(model, {"mlp"})]):
        model(TOKENS).sum().backward()
    other = with_weights_of(model, Placement.of("k", "mlp"))
    other(TOKENS).sum().backward()
    torch.testing.assert_close(model.W_E.grad, other.W_E.grad)


@pytest.mark.parametrize("intervene", [bypass, insert])
def test_what_the_model_does_not_have_is_named(intervene: Callable):
    model = build(Placement.of("q"))
    with pytest.raises(ValueError, match=r"unknown pathways \['qk'\]; allowed: q, k, v, mlp"):
        intervene(model, {"q", "qk"})
    with pytest.raises(ValueError, match=r"layers \[1\] are not in 0..0"):
        intervene(model, {"q"}, layers=[0, 1])
