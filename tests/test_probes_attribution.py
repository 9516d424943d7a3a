from functools import partial

import pytest
import torch
from oracles import PLACEMENTS, clock_model, random_model

from mech_grok.model.norm_sites import residual_sites
from mech_grok.probes import measure
from mech_grok.probes.attribution import component_logits, right_answer_logits
from mech_grok.probes.residual import decompose_residual, residual_hooks
from mech_grok.task import Task

P = 5
TASK = Task("add", P, 0.6)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))

VARIANTS = [
    {"n_layers": 1, "norm": "rms"},
    {"n_layers": 2, "final_norm": "on", "readout_scale": 2.5},
    {"n_layers": 2, "norm": "rms", "final_norm": "on", "activation": "swiglu"},
    {"tied_unembed": True, "final_norm": "frozen", "readout_scale": 0.3},
    {"qk_norm": True, "shared_affine": False, "activation": "swiglu"},
    {"n_layers": 3, "readout_scale": 3.0, "scale_in_loss": True, "activation": "gelu", "init": "kaiming"},
]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(f"{v}" for v in s.values()))
def test_components_sum_to_what_is_read_and_to_the_centred_logits(placement, settings):
    model = random_model(P, placement=placement, **settings)
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS, names_filter=lambda name: "hook" in name)
        labels, stack = decompose_residual(model, cache)
    assert len(labels) == len(set(labels)) == len(stack)
    torch.testing.assert_close(stack.sum(0), cache["unembed.hook_in"], atol=1e-10, rtol=0)
    answers = logits[..., :P]
    centred = answers - answers.mean(-1, keepdim=True)
    torch.testing.assert_close(component_logits(model, stack).sum(0), centred, atol=1e-10, rtol=0)


def held(model, cache):
    """Hooks that hold every head, every MLP and every divisor on the stream at its cached value."""
    return [
        (name, lambda activation, hook: cache[hook.name])
        for name in residual_hooks(model)
        if name not in ("hook_embed", "hook_pos_embed")
    ]


def without(activation, hook, *, head=None):
    if head is None:
        return torch.zeros_like(activation)
    activation = activation.clone()
    activation[..., head, :] = 0
    return activation


def removal(model, label):
    """The hook that removes a component, or None for a norm's bias."""
    if label in ("embed", "pos_embed"):
        return (f"hook_{label}", without)
    if label.startswith("L"):
        layer, head = (int(x) for x in label[1:].split("H"))
        return (f"blocks.{layer}.attn.hook_z", partial(without, head=head))
    if label.endswith("_mlp_out"):
        layer = int(label.removesuffix("_mlp_out"))
        normed = "norm_mlp_out" in residual_sites(model.config)
        return (f"blocks.{layer}.{'norm_mlp_out.hook_in' if normed else 'hook_mlp_out'}", without)
    return None


@pytest.mark.parametrize("placement", ["off", "pre", "post", "peri"])
@pytest.mark.parametrize("norm", ["ln", "rms"])
def test_each_component_is_what_its_removal_takes_away(placement, norm):
    model = random_model(P, placement=placement, norm=norm, n_layers=2, final_norm="on")
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
        labels, stack = decompose_residual(model, cache)
        read = cache["unembed.hook_in"]
        for label, component in zip(labels, stack, strict=True):
            hook = removal(model, label)
            if hook is None:
                continue
            rest = {}
            keep = ("unembed.hook_in", lambda x, hook: rest.update(x=x))  # noqa: B023
            model.run_with_hooks(TOKENS, fwd_hooks=[*held(model, cache), hook, keep])
            torch.testing.assert_close(read - rest["x"], component, atol=1e-10, rtol=0, msg=label)


def test_biases_of_norms_are_named_where_they_sit_on_the_stream():
    def labels(**settings):
        model = random_model(P, **settings)
        with torch.no_grad():
            return decompose_residual(model, model.run_with_cache(TOKENS, pos_slice=-1)[1])[0]

    plain = ["embed", "pos_embed", "L0H0", "L0H1", "L0H2", "L0H3", "0_mlp_out"]
    assert labels(placement="pre") == plain
    post = [*plain[:-1], "0_norm_resid_mid_bias", "0_mlp_out", "0_norm_resid_post_bias"]
    assert labels(placement="post") == post
    assert labels(placement="post", norm="rms") == plain
    peri = [*plain[:-1], "0_norm_attn_out_bias", "0_mlp_out", "0_norm_mlp_out_bias", "ln_final_bias"]
    assert labels(placement="peri", final_norm="on") == peri


def test_one_position_and_all_positions_agree():
    model = random_model(P, placement="post", n_layers=2)
    with torch.no_grad():
        _, everywhere = decompose_residual(model, model.run_with_cache(TOKENS)[1])
        _, equals = decompose_residual(model, model.run_with_cache(TOKENS, pos_slice=-1)[1])
    torch.testing.assert_close(everywhere[:, :, -1:], equals)


def test_agrees_with_transformer_lens_without_norms():
    model = random_model(P, n_layers=2)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
        labels, stack = decompose_residual(model, cache)
        theirs, names = cache.get_full_resid_decomposition(
            layer=-1, expand_neurons=False, pos_slice=-1, return_labels=True
        )
    by_name = dict(zip(names, theirs, strict=True))
    assert by_name.pop("bias").eq(0).all()
    assert set(by_name) == set(labels)
    for label, component in zip(labels, stack, strict=True):
        torch.testing.assert_close(component[:, -1], by_name[label])


def test_clock_gets_everything_from_the_mlp():
    task = Task("add", 113, 0.7)
    seen = measure(clock_model(), task, task.split_indices(0), ["attribution"])["attribution"]
    attribution = seen["logit_attribution"]
    assert attribution.sel(component="0_mlp_out").values == pytest.approx(30, abs=1e-10)
    assert attribution.drop_sel(component="0_mlp_out").values == pytest.approx(0, abs=1e-10)


def test_attribution_is_the_mean_over_the_split_of_the_right_answers():
    split = TASK.split_indices(0)
    model = random_model(P, placement="peri", final_norm="on", readout_scale=2.0)
    seen = measure(model, TASK, split, ["attribution"])["attribution"]["logit_attribution"]
    answers = torch.as_tensor(TASK.answers(TASK.pairs()))
    with torch.no_grad():
        labels, stack = decompose_residual(model, model.run_with_cache(TOKENS)[1])
        stack = stack[:, :, -1]
        logits = component_logits(model, stack)
        right = right_answer_logits(model, stack, answers)
    expected = logits.gather(-1, answers.expand(len(labels), -1)[..., None])[..., 0]
    torch.testing.assert_close(right, expected)
    assert list(seen["component"].values) == labels
    for name, index in {"all": range(P * P), **split}.items():
        mean = expected[:, list(index)].mean(1).numpy()
        assert seen.sel(split=name).values == pytest.approx(mean, abs=1e-12)
