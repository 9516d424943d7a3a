from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_model
from oracles import CLOCK_AMPLITUDES, PLACEMENTS, clock_model, crossed, random_model

from mech_grok.model import adopt
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
    assert seen["right_answer_logit"].values == pytest.approx(30, abs=1e-10)
    expected = np.zeros(57)
    expected[list(CLOCK_AMPLITUDES)] = list(CLOCK_AMPLITUDES.values())
    for split in ("all", "train", "test"):
        found = seen["frequency_attribution"].sel(split=split).values
        assert found == pytest.approx(expected, abs=1e-10)
    # Eight neurons for each frequency, and neurons that no weight leads to add nothing.
    of_neurons = seen["neuron_attribution"].sel(split="all", layer=0).values
    amplitudes = list(CLOCK_AMPLITUDES.values())
    assert of_neurons[:40].reshape(5, 8).sum(1) == pytest.approx(amplitudes, abs=1e-10)
    assert (of_neurons[40:] == 0).all()


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


def attribution(model, task=TASK, split=None):
    return measure(model, task, task.split_indices(0) if split is None else split, ["attribution"])[
        "attribution"
    ]


def stock(**settings):
    """A stock model whose every parameter is drawn, all biases included; adopted."""
    model = stock_model(**settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return adopt(model)


def assert_sums(model, task=TASK):
    """Components, frequencies, and a layer's neurons with its bias, against the logits of a plain pass."""
    split = task.split_indices(0)
    seen = attribution(model, task, split)
    with torch.no_grad():
        logits = model(torch.as_tensor(task.tokens(task.pairs())))[:, -1, : task.p].numpy()
    centred = logits - logits.mean(1, keepdims=True)
    right = centred[np.arange(task.p**2), task.answers(task.pairs())]
    for name, index in {"all": np.arange(task.p**2), **split}.items():
        here, expected = seen.sel(split=name), pytest.approx(right[index].mean(), abs=1e-10)
        assert here["right_answer_logit"].item() == expected
        assert here["logit_attribution"].sum().item() == expected
        assert here["frequency_attribution"].sum().item() == expected
    return seen


@pytest.mark.parametrize("kind", [None, "LN", "RMS", "LNPre"])
@pytest.mark.parametrize("classes", [P, P + 1])
def test_biases_of_a_stock_model_are_components(kind, classes):
    model = stock(n_layers=2, normalization_type=kind, d_vocab_out=classes)
    seen = assert_sums(model)
    assert {"0_attn_bias", "1_attn_bias", "unembed_bias"} < set(seen["component"].values)
    bias = model.b_U[:P].detach().numpy()
    # Every answer is right for P of the pairs.
    assert seen["logit_attribution"].sel(split="all", component="unembed_bias").item() == pytest.approx(0)
    index = TASK.split_indices(0)["test"]
    expected = (bias - bias.mean())[TASK.answers(TASK.pairs())[index]].mean()
    found = seen["logit_attribution"].sel(split="test", component="unembed_bias").item()
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("placement", "settings"), crossed(PLACEMENTS, VARIANTS[:3]))
def test_neurons_add_up_to_their_mlp(placement, settings):
    model = random_model(P, placement=placement, **settings)
    seen = assert_sums(model)
    of_bias = np.array([component_of(model, layer, None) for layer in range(len(model.blocks))])
    for layer in range(len(model.blocks)):
        total = seen["neuron_attribution"].sel(layer=layer).sum("neuron") + of_bias[layer]
        component = seen["logit_attribution"].sel(component=f"{layer}_mlp_out")
        assert total.values == pytest.approx(component.values, abs=1e-10)


@torch.no_grad()
def component_of(model, layer, neuron):
    """Split means of the MLP's component, if it gave one neuron's output only; its bias, for None."""
    _, cache = model.run_with_cache(TOKENS)
    mlp = model.blocks[layer].mlp
    out = mlp.b_out.expand(P * P, 3, -1)
    if neuron is not None:
        out = cache[f"blocks.{layer}.mlp.hook_post"][..., neuron, None] * mlp.W_out[neuron]
    normed = "norm_mlp_out" in residual_sites(model.config)
    raw = f"blocks.{layer}.{'norm_mlp_out.hook_in' if normed else 'hook_mlp_out'}"
    labels, stack = decompose_residual(model, {**dict(cache.items()), raw: out})
    alone = component_logits(model, stack[labels.index(f"{layer}_mlp_out"), :, -1][None])[0]
    answers = TASK.answers(TASK.pairs())
    right = alone.numpy()[np.arange(P * P), answers]
    split = TASK.split_indices(0)
    return [right[index].mean() for index in (np.arange(P * P), split["train"], split["test"])]


@pytest.mark.parametrize("placement", ["off", "post", "peri"])
def test_one_neuron(placement):
    model = random_model(P, placement=placement, n_layers=2, final_norm="on", readout_scale=2.0)
    seen = attribution(model)["neuron_attribution"]
    for layer, neuron in ((0, 3), (1, 17)):
        found = seen.sel(layer=layer, neuron=neuron).values
        assert found == pytest.approx(component_of(model, layer, neuron), abs=1e-12)


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [2, 3, 5, 6])
def test_frequencies_are_regressions_on_the_sum_directions(operation, p):
    task = Task(operation, p, 0.5)
    model = random_model(p)
    seen = assert_sums(model, task)["frequency_attribution"]
    with torch.no_grad():
        logits = model(torch.as_tensor(task.tokens(task.pairs())))[:, -1, :p].numpy()
    centred = logits - logits.mean(1, keepdims=True)
    a, b = task.pairs().T
    s = a + b if operation == "add" else a - b
    pairs = np.arange(p * p)
    for k in range(1, p // 2 + 1):
        waves = np.stack([np.cos(2 * np.pi * k * s / p), np.sin(2 * np.pi * k * s / p)], 1)
        fitted = waves @ np.linalg.lstsq(waves, centred, rcond=1e-8)[0]
        right = fitted[pairs, s % p]
        for name, index in {"all": pairs, **task.split_indices(0)}.items():
            found = seen.sel(frequency=k, split=name).item()
            assert found == pytest.approx(right[index].mean(), abs=1e-10), k


@pytest.mark.parametrize("operation", ["multiply", "xor", "and", "rshift"])
def test_other_operations_have_no_sum_directions(operation):
    seen = attribution(random_model(P), Task(operation, P, 0.5))
    assert seen["frequency_attribution"].isnull().all()
    rest = seen.drop_vars("frequency_attribution")
    assert rest.notnull().all().to_array().all()
    total = seen["logit_attribution"].sum("component").values
    assert total == pytest.approx(seen["right_answer_logit"].values, abs=1e-10)


def test_empty_and_small_splits():
    empty = np.empty(0, dtype=np.int64)
    for split in ({"train": empty, "test": np.arange(3)}, {"train": np.arange(1), "test": empty}):
        seen = attribution(random_model(P, n_layers=2), split=split)
        missing = [name for name, x in split.items() if not len(x)]
        assert seen.sel(split=missing).isnull().all().to_array().all()
        assert seen.drop_sel(split=missing).notnull().all().to_array().all()


def test_a_model_of_zeros_adds_nothing():
    model = random_model(P)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (attribution(model) == 0).all().to_array().all()


@settings(deadline=None, max_examples=10)
@given(st.floats(-100, 100), st.sampled_from(PLACEMENTS))
def test_a_shift_of_all_logits_does_not_matter(shift, placement):
    model = random_model(P, placement=placement)
    before = attribution(model)
    with torch.no_grad():
        model.unembed.b_U.add_(shift)
    after = attribution(model)
    if shift != 0:
        bias = after["logit_attribution"].sel(component="unembed_bias")
        assert bias.values == pytest.approx(0, abs=1e-12)
        after = after.drop_sel(component="unembed_bias")
    for name, x in before.items():
        assert after[name].values == pytest.approx(x.values, abs=1e-10)


@torch.no_grad()
def rotate(model, rotation):
    """The same function with the residual stream in another basis; only without norms, which have axes."""
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    for written in (model.embed.W_E, model.pos_embed.W_pos, attn.W_O, mlp.W_out, mlp.b_out):
        written.copy_(written @ rotation)
    for read in (attn.W_Q, attn.W_K, attn.W_V, mlp.W_in, model.unembed.W_U):
        read.copy_(rotation.T @ read)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31))
def test_the_basis_of_the_stream_does_not_matter_without_norms(seed):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    model = random_model(P)
    before = attribution(model)
    rotate(model, rotation)
    for name, x in attribution(model).items():
        assert x.values == pytest.approx(before[name].values, abs=1e-10)
