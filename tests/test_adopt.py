import copy

import pytest
import torch
from oracle_circuits import stock_clock_model, stock_model, stock_pizza_model
from oracles import random_model

from mech_grok.errors import UserError
from mech_grok.model import adopt
from mech_grok.model.block import GrokBlock
from mech_grok.model.unembed import GrokUnembed
from mech_grok.probes.attribution import component_logits
from mech_grok.probes.observation import Needs, run
from mech_grok.probes.residual import component_labels, decompose_residual, residual_hooks

P = 5
TOKENS = torch.tensor([[a, b, P] for a in range(P) for b in range(P)])
NORMS = [None, "LN", "LNPre", "RMS", "RMSPre"]
DIRECTIONS = ["causal", "bidirectional"]


@torch.no_grad()
def drawn(seed=0, dtype=torch.float64, **settings):
    """A stock model whose every parameter, biases and gains included, is away from its initial value."""
    model = stock_model(**{"n_layers": 2, "dtype": dtype, **settings})
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator).to(dtype))
    return model


@torch.no_grad()
def logits_of(model, tokens=TOKENS):
    return model(tokens)


@torch.no_grad()
def cache_of(model):
    return dict(model.run_with_cache(TOKENS)[1])


def assert_same_function(model, exactly=True):
    adopted = adopt(model)
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(logits_of(adopted), logits_of(model), **tolerance)
    for tokens in (TOKENS[:1], TOKENS[:3]):
        torch.testing.assert_close(logits_of(adopted, tokens), logits_of(model, tokens), **tolerance)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attention_dir", DIRECTIONS)
@pytest.mark.parametrize("classes", [P, P + 1])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_adopted_is_the_same_function(norm, attention_dir, classes, n_layers):
    assert_same_function(
        drawn(normalization_type=norm, attention_dir=attention_dir, d_vocab_out=classes, n_layers=n_layers),
        exactly=norm is None,
    )


@pytest.mark.parametrize("act_fn", ["gelu", "silu", "relu", "gelu_new"])
@pytest.mark.parametrize("gated_mlp", [False, True])
def test_any_activation_and_the_gated_mlp(act_fn, gated_mlp):
    assert_same_function(drawn(act_fn=act_fn, gated_mlp=gated_mlp, normalization_type="LN"), exactly=False)


@pytest.mark.parametrize("norm", NORMS)
def test_a_replaced_activation_is_kept(norm):
    model = drawn(normalization_type=norm)
    plain = logits_of(model)
    model.blocks[1].mlp.act_fn = torch.square
    assert not torch.allclose(logits_of(model), plain)
    assert_same_function(model, exactly=norm is None)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_ctx": 8},
        {"use_split_qkv_input": True},
        {"use_attn_in": True},
        {"use_hook_mlp_in": True},
        {"use_qk_norm": True},
        {"n_heads": 4, "d_head": 4, "n_key_value_heads": 2},
        {"n_heads": 3, "d_head": 5},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_other_settings_of_the_stock_model(settings):
    assert_same_function(drawn(normalization_type="LN", **settings), exactly=False)


@pytest.mark.parametrize("build", [stock_clock_model, stock_pizza_model])
@pytest.mark.parametrize("attention_dir", DIRECTIONS)
def test_hand_built_models(build, attention_dir):
    model = build(attention_dir)
    tokens = torch.tensor([[0, 0, 113], [1, 112, 113], [57, 3, 113], [100, 100, 113]])
    assert torch.equal(logits_of(adopt(model), tokens), logits_of(model, tokens))


def test_float32():
    assert_same_function(drawn(dtype=torch.float32))


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_has_its_hook_points_and_they_are_right(norm):
    model = drawn(normalization_type=norm)
    theirs, ours = cache_of(model), cache_of(adopt(model))
    sites = [(f"blocks.{layer}", site) for layer in (0, 1) for site in ("q", "k", "v", "mlp")]
    for block, site in sites:
        x = theirs[f"{block}.{'hook_resid_mid' if site == 'mlp' else 'hook_resid_pre'}"]
        own, stock = f"{block}.norm_{site}", f"{block}.{'ln2' if site == 'mlp' else 'ln1'}"
        assert_norm(own, stock, x, model, ours, theirs)
    if norm is not None:
        assert_norm("ln_final", "ln_final", theirs["blocks.1.hook_resid_post"], model, ours, theirs)


def assert_norm(own, stock, x, model, ours, theirs):
    kind, eps = model.cfg.normalization_type, model.cfg.eps
    torch.testing.assert_close(ours[f"{own}.hook_in"], x)
    if kind is None:
        assert ours[f"{own}.hook_scale"].eq(1).all()
        torch.testing.assert_close(ours[f"{own}.hook_out"], x)
        return
    centred = x - x.mean(-1, keepdim=True) if kind.startswith("LN") else x
    divisor = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    torch.testing.assert_close(ours[f"{own}.hook_scale"], divisor)
    torch.testing.assert_close(ours[f"{own}.hook_scale"], theirs[f"{stock}.hook_scale"])
    torch.testing.assert_close(ours[f"{own}.hook_normalized"], centred / divisor)
    out = centred / divisor
    if not kind.endswith("Pre"):
        affine = model.get_submodule(stock)
        out = out * affine.w + (affine.b if kind == "LN" else 0)
    torch.testing.assert_close(ours[f"{own}.hook_out"], out)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attention_dir", DIRECTIONS)
def test_all_other_activations_are_those_of_the_stock_cache(norm, attention_dir):
    model = drawn(normalization_type=norm, attention_dir=attention_dir)
    theirs, ours = cache_of(model), cache_of(adopt(model))
    shared = [name for name in theirs if ".ln" not in name and not name.startswith("ln_final")]
    assert len(shared) > 20
    for name in shared:
        torch.testing.assert_close(ours[name], theirs[name], msg=name)
    assert {"unembed.hook_in", "unembed.hook_out"} <= set(ours)


@pytest.mark.parametrize("norm", ["LN", "RMS", None])
@pytest.mark.parametrize("attention_dir", DIRECTIONS)
def test_one_pass_of_the_probes_keeps_what_the_stock_model_computes(norm, attention_dir):
    """Dropping the positions a and b early must work under a causal mask too."""
    model = drawn(normalization_type=norm, attention_dir=attention_dir, d_vocab_out=P)
    equals = [
        "unembed.hook_out",
        "blocks.1.attn.hook_z",
        "blocks.1.mlp.hook_post",
        "blocks.0.hook_resid_post",
    ]
    for everywhere in ([], ["blocks.1.attn.hook_pattern"], ["blocks.0.mlp.hook_pre"], ["hook_embed"]):
        kept = run(adopt(model), TOKENS, Needs(equals, everywhere))
        theirs = cache_of(model)
        theirs["unembed.hook_out"] = logits_of(model)
        for name in equals:
            torch.testing.assert_close(kept.at_equals[name], theirs[name][:, -1], msg=name)
        for name in everywhere:
            torch.testing.assert_close(kept.at_all_positions[name], theirs[name], msg=name)


@pytest.mark.parametrize("norm", NORMS)
def test_the_given_model_is_left_as_it_was(norm):
    model = drawn(normalization_type=norm)
    model.blocks[0].mlp.act_fn = torch.square
    model.unembed.W_U.grad = torch.ones_like(model.unembed.W_U)
    model.embed.W_E.requires_grad_(False)
    model.add_hook("hook_embed", lambda activation, hook: 2 * activation)
    kinds = [type(module) for module in model.modules()]
    state = {name: x.clone() for name, x in model.state_dict().items()}
    cfg, before = copy.deepcopy(model.cfg.to_dict()), logits_of(model)
    adopted = adopt(model)
    with torch.no_grad():
        for parameter in adopted.parameters():
            parameter.zero_()
    assert [type(module) for module in model.modules()] == kinds
    assert model.cfg.to_dict() == cfg
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    assert model.unembed.W_U.grad.eq(1).all()
    assert not model.embed.W_E.requires_grad
    assert len(model.hook_dict["hook_embed"].fwd_hooks) == 1
    assert torch.equal(logits_of(model), before)


def test_an_adopted_model_is_what_probes_expect():
    adopted = adopt(drawn(normalization_type="LN"))
    assert all(isinstance(block, GrokBlock) for block in adopted.blocks)
    assert isinstance(adopted.unembed, GrokUnembed)
    assert adopted.unembed.readout_scale == adopted.unembed.loss_scale == 1
    assert adopt(adopted) is adopted


def test_a_model_of_this_project_is_returned_itself():
    model = random_model()
    assert adopt(model) is model


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"attn_only": True, "d_mlp": None, "act_fn": None}, "no MLP"),
        ({"n_ctx": 2}, "a context of 2 tokens"),
        ({"positional_embedding_type": "rotary", "rotary_dim": 8}, "positions of type 'rotary'"),
        ({"positional_embedding_type": "shortformer"}, "positions of type 'shortformer'"),
        ({"d_vocab_out": P - 1}, "4 logits for 6 tokens"),
        ({"d_vocab_out": P + 2}, "7 logits for 6 tokens"),
        ({"parallel_attn_mlp": True}, "attention and MLP in parallel"),
        ({"output_logits_soft_cap": 30.0}, "soft-capped logits"),
        ({"post_embedding_ln": True, "normalization_type": "LN"}, "a norm on the embedding"),
        ({"n_ctx": 2, "d_vocab_out": 4}, "a context of 2 tokens .*, 4 logits for 6 tokens"),
    ],
)
def test_what_the_probes_cannot_read_is_refused_in_one_line(settings, problem):
    with pytest.raises(UserError, match=f"the probes cannot read a model with {problem}") as refusal:
        adopt(stock_model(**settings))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attention_dir", DIRECTIONS)
@pytest.mark.parametrize("classes", [P, P + 1])
def test_components_sum_to_what_is_read_and_to_the_logits_less_the_bias(norm, attention_dir, classes):
    model = adopt(drawn(normalization_type=norm, attention_dir=attention_dir, d_vocab_out=classes))
    cache, logits = cache_of(model), logits_of(model)
    with torch.no_grad():
        labels, stack = decompose_residual(model, cache)
        assert [*labels, "unembed_bias"] == component_labels(model)
        torch.testing.assert_close(stack.sum(0), cache["unembed.hook_in"], rtol=0, atol=1e-11)
        without_bias = (logits - model.unembed.b_U)[..., :P]
        expected = without_bias - without_bias.mean(-1, keepdim=True)
        torch.testing.assert_close(component_logits(model, stack).sum(0), expected, rtol=0, atol=1e-11)
    assert {"0_attn_bias", "1_attn_bias"} < set(labels)
    assert ("ln_final_bias" in labels) == (norm == "LN")


def test_no_attention_bias_no_component():
    model = adopt(stock_model())
    assert component_labels(model) == ["embed", "pos_embed", "L0H0", "L0H1", "0_mlp_out"]
    assert set(residual_hooks(model)) <= set(cache_of(model))
