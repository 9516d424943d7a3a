"""Interventions that only some heads read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import TOKENS, build, some
from test_interventions_hooks import DONORS, MAKERS, TRAIN, cache_of, made, run

from mech_grok.interventions import affine_only, bypass, freeze_scale, scale, unit, zero
from mech_grok.placement import ATTENTION_PATHWAYS, all_placements
from mech_grok.probes.observation import logits_under

placements = st.sampled_from([str(x) for x in all_placements()])
attention_sets = st.frozensets(st.sampled_from(ATTENTION_PATHWAYS), min_size=1)
HEADS = range(2)


def assert_equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12, equal_nan=True)


@given(placements, attention_sets, st.sampled_from(list(MAKERS)), st.booleans(), st.sampled_from([1, 2]))
@some
def test_all_heads_are_the_whole_pathway(placement, pathways, name, qk_norm, n_layers):
    model = build(placement, qk_norm=qk_norm, n_layers=n_layers)
    of_heads = made(name, model, pathways, heads=HEADS)
    assert_equal(run(model, of_heads), run(model, made(name, model, pathways)))
    assert_equal(run(model, of_heads, of_heads), run(model, made(name, model, pathways) * 2))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("pathway", ATTENTION_PATHWAYS)
def test_only_the_chosen_head_changes(name, pathway, qk_norm):
    model = build("off" if name == "insert" else "pre", qk_norm=qk_norm, n_heads=4)
    plain, whole = cache_of(model), cache_of(model, MAKERS[name](model, {pathway}))
    cache = cache_of(model, MAKERS[name](model, {pathway}, heads=[2]))
    others = [0, 1, 3]
    for at in (f"attn.hook_{pathway}", "attn.hook_z"):
        mine, before, after = (x[f"blocks.0.{at}"] for x in (cache, plain, whole))
        assert torch.equal(mine[:, :, others], before[:, :, others])
        assert_equal(mine[:, :, 2], after[:, :, 2])
    assert not torch.allclose(
        cache[f"blocks.0.attn.hook_{pathway}"], plain[f"blocks.0.attn.hook_{pathway}"]
    ) or (name == "scale")
    for at in ("hook_in", "hook_scale", "hook_normalized", "hook_out"):
        assert torch.equal(cache[f"blocks.0.norm_{pathway}.{at}"], plain[f"blocks.0.norm_{pathway}.{at}"])


def test_one_heads_queries_by_hand():
    model = build("qk")
    cache = cache_of(model, scale(model, {"v"}, 3.0, heads=[1]), bypass(model, {"q"}, heads=[0]))
    stream, attn = cache["blocks.0.hook_resid_pre"], model.blocks[0].attn
    assert_equal(cache["blocks.0.attn.hook_q"][:, :, 0], stream @ attn.W_Q[0])
    assert_equal(cache["blocks.0.attn.hook_v"][:, :, 1], 3 * stream @ attn.W_V[1])
    assert_equal(cache["blocks.0.attn.hook_v"][:, :, 0], stream @ attn.W_V[0])


def test_several_on_one_head_are_applied_in_order():
    model = build("pre")

    def both(**at):
        return [*scale(model, {"v"}, 2.0, **at), *scale(model, {"v"}, 3.0, **at), *bypass(model, {"v"}, **at)]

    plain = cache_of(model)
    of_one = cache_of(model, both(heads=[1]))["blocks.0.attn.hook_v"]
    assert_equal(of_one[:, :, 1], cache_of(model, both())["blocks.0.attn.hook_v"][:, :, 1])
    assert torch.equal(of_one[:, :, 0], plain["blocks.0.attn.hook_v"][:, :, 0])
    overlapping = [*affine_only(model, {"k"}, heads=[0, 1]), *zero(model, {"k"}, heads=[1])]
    keys = cache_of(model, overlapping)["blocks.0.attn.hook_k"]
    assert_equal(keys[:, :, 0], cache_of(model, affine_only(model, {"k"}))["blocks.0.attn.hook_k"][:, :, 0])
    assert torch.equal(keys[:, :, 1], torch.zeros_like(keys[:, :, 1]))


def test_a_head_reads_what_was_done_to_the_whole_input_before():
    model = build("qk")
    queries = cache_of(model, scale(model, {"q"}, 2.0), bypass(model, {"q"}, heads=[0]))[
        "blocks.0.attn.hook_q"
    ]
    stream = cache_of(model)["blocks.0.hook_resid_pre"]
    assert_equal(queries[:, :, 0], 2 * stream @ model.blocks[0].attn.W_Q[0])


@pytest.mark.parametrize("first", ["whole", "head"])
@pytest.mark.parametrize("whole", [bypass, zero, unit, affine_only])
def test_what_is_done_to_the_whole_pathway_holds_for_the_chosen_heads(whole, first):
    """A doubled input of head 0, under something that is done to all heads."""
    model = build("pre")
    of_all, of_one = whole(model, {"q"}), scale(model, {"q"}, 2.0, heads=[0])
    queries = cache_of(model, *((of_all, of_one) if first == "whole" else (of_one, of_all)))[
        "blocks.0.attn.hook_q"
    ]
    doubled = cache_of(model, of_all, scale(model, {"q"}, 2.0))["blocks.0.attn.hook_q"]
    assert_equal(queries[:, :, 0], doubled[:, :, 0])
    assert torch.equal(queries[:, :, 1], cache_of(model, of_all)["blocks.0.attn.hook_q"][:, :, 1])


def test_of_whole_pathway_and_head_the_later_one_wins_where_both_set_the_same():
    model = build("pre")
    of_all, of_one = zero(model, {"v"}), bypass(model, {"v"}, heads=[1])
    values = cache_of(model, of_all, of_one)["blocks.0.attn.hook_v"]
    assert_equal(values[:, :, 1], cache_of(model, bypass(model, {"v"}))["blocks.0.attn.hook_v"][:, :, 1])
    assert not values[:, :, 0].any()
    assert not cache_of(model, of_one, of_all)["blocks.0.attn.hook_v"].any()


def test_heads_of_a_model_with_two_layers_at_the_layer_asked_for():
    model = build("pre", n_layers=2)
    plain = cache_of(model)
    cache = cache_of(model, freeze_scale(model, {"k"}, TRAIN, layers=[1], heads=[0]))
    assert torch.equal(cache["blocks.0.attn.hook_k"], plain["blocks.0.attn.hook_k"])
    changed = cache["blocks.1.attn.hook_k"] - plain["blocks.1.attn.hook_k"]
    assert changed[:, :, 0].abs().max() > 1e-3
    assert not changed[:, :, 1].any()


def test_a_broken_off_pass_leaves_nothing_behind():
    model = build("off")
    hooks = scale(model, {"v"}, 2.0, heads=[0])
    expected = run(model, hooks)

    def stop(activation, hook):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, hooks, [("blocks.0.norm_v.hook_out", stop)])
    assert torch.equal(run(model, hooks), expected)


@pytest.mark.parametrize("name", [x for x in MAKERS if x != "insert"])
def test_a_pass_of_the_last_positions_only_gives_the_same(name):
    model = build("pre")
    hooks = MAKERS[name](model, ATTENTION_PATHWAYS, heads=[1])
    assert_equal(logits_under(model, TOKENS, hooks), run(model, hooks)[:, -1])


def test_donors_are_counted_for_heads_too():
    model = build("off")
    hooks = MAKERS["resample"](model, {"v"}, heads=[0])
    assert len(DONORS) == 49
    with pytest.raises(ValueError, match="49 donors for a batch of 5"), model.hooks(fwd_hooks=hooks):
        model(TOKENS[:5])


@pytest.mark.parametrize("name", ["use_split_qkv_input", "use_attn_in"])
def test_split_inputs_are_refused_for_heads_and_served_for_whole_pathways(name):
    model = build("pre")
    expected = run(model, unit(model, {"q", "v"}))
    setattr(model.cfg, name, True)
    with pytest.raises(ValueError, match=f"the model has {name} set, which splits the heads' inputs"):
        unit(model, {"q"}, heads=[0])
    assert_equal(run(model, unit(model, {"q", "v"})), expected)
    for make in ("mean", "freeze_scale", "resample"):
        together = run(model, MAKERS[make](model, ATTENTION_PATHWAYS))
        setattr(model.cfg, name, False)
        assert_equal(together, run(model, MAKERS[make](model, ATTENTION_PATHWAYS)))
        setattr(model.cfg, name, True)


def test_gradients_flow_to_the_heads_weights():
    model = build("pre")
    with model.hooks(fwd_hooks=bypass(model, {"v"}, heads=[1])):
        model(TOKENS).sum().backward()
    assert model.blocks[0].attn.W_V.grad.abs().sum() > 0
