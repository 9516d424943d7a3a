"""The exact tangent kernel against gradients that are written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PLACEMENTS, random_model
from small_models import build, configs, draw_affines, some
from transformer_lens import HookedTransformer
from transformer_lens.config import HookedTransformerConfig

from mech_grok.config import ModelConfig
from mech_grok.errors import UserError
from mech_grok.model import GrokTransformer, adopt
from mech_grok.probes import ntk as ntk_module
from mech_grok.probes.ntk import ntk

P = 5
TOKENS = torch.tensor([[0, 1, P], [3, 3, P], [4, 0, P], [1, 0, P], [0, 1, P], [2, 4, P]])
FEW = TOKENS[1:4]


def jacobian(model, tokens):
    """Gradients of all logits at `=` with respect to everything trained, [n, classes, parameters]."""
    theta = [x for x in model.parameters() if x.requires_grad]
    logits = model(tokens)[:, -1]
    one_hot = torch.eye(logits.numel(), dtype=logits.dtype).reshape(-1, *logits.shape)
    found = torch.autograd.grad(logits, theta, one_hot, is_grads_batched=True, allow_unused=True)
    return torch.cat([x.reshape(*logits.shape, -1) for x in found if x is not None], -1)


def explicit(model, tokens):
    j = jacobian(model, tokens)
    total = j.sum(1)
    return {"sum": total @ total.T, "trace": torch.einsum("icw,jcw->ij", j, j)}


def assert_exact(model, tokens, reference=None):
    for output, expected in explicit(reference or model, tokens).items():
        error = (ntk(model, tokens, output) - expected).norm() / expected.norm()
        assert error < 1e-10, f"{output}: {error}"


def stock(seed=0, **changes):
    """A stock HookedTransformer with every parameter drawn, biases and norms included."""
    torch.manual_seed(seed)
    sizes = {"d_model": 8, "d_head": 4, "n_heads": 2, "d_mlp": 12, "n_layers": 1}
    vocabulary = {"n_ctx": 3, "d_vocab": P + 1, "d_vocab_out": P}
    rest = {"act_fn": "relu", "normalization_type": "LN", "dtype": torch.float64, "device": "cpu"}
    with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
        model = HookedTransformer(HookedTransformerConfig(**{**sizes, **vocabulary, **rest, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("norm", ["ln", "rms"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement(placement, norm):
    assert_exact(random_model(P, placement=placement, norm=norm), FEW)


@pytest.mark.parametrize("placement", ["pre", "post", "peri"])
@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 2, "final_norm": "on", "shared_affine": False},
        {"tied_unembed": True, "activation": "swiglu", "readout_scale": 0.5, "final_norm": "frozen"},
        {"qk_norm": True, "tied_unembed": True, "n_layers": 2, "norm": "rms"},
        {"freeze_norm_affine": True, "activation": "gelu", "scale_in_loss": True, "readout_scale": 3.0},
        {"attention_factor": ((0.4, 2.0, 5.0, 1.0),)},
        {"attention_factor": ((0.4, 2.0, 5.0, 1.0), (3.0, 0.2, 0.7, 1.5)), "qk_norm": True, "n_layers": 2},
    ],
    ids=["depth-2", "tied-gated", "qk-norm-tied-depth-2", "frozen", "factors", "factors-qk-norm-depth-2"],
)
def test_options(placement, options):
    assert_exact(random_model(P, placement=placement, **options), FEW)


@some
@given(configs, st.integers(0, 2**31))
def test_any_config(config, seed):
    model = draw_affines(GrokTransformer(config, P, seed, torch.float64))
    assert_exact(model, FEW)


def test_example_by_example_and_class_by_class():
    model = random_model(P, placement="pre", tied_unembed=True)
    theta = list(model.trained_parameters().values())

    def gradients(tokens):
        logits = model(tokens[None])[0, -1]
        return [
            torch.cat([x.flatten() for x in torch.autograd.grad(f, theta, retain_graph=True)]) for f in logits
        ]

    g = [gradients(x) for x in FEW]
    trace = torch.tensor([[sum(float(x @ y) for x, y in zip(a, b, strict=True)) for b in g] for a in g])
    torch.testing.assert_close(ntk(model, FEW, "trace"), trace.double(), rtol=1e-6, atol=0)
    total = torch.tensor([[float(sum(a) @ sum(b)) for b in g] for a in g])
    torch.testing.assert_close(ntk(model, FEW, "sum"), total.double(), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layers": 2, "normalization_type": "RMS", "d_vocab_out": P + 1},
        {"attention_dir": "bidirectional", "normalization_type": None, "attn_scores_soft_cap": 1.0},
        {"gated_mlp": True, "act_fn": "silu", "normalization_type": "LNPre"},
        {"use_attn_result": True, "use_split_qkv_input": True, "use_hook_mlp_in": True},
        {"use_attn_in": True, "attention_dir": "bidirectional", "use_attn_scale": False},
    ],
    ids=["causal", "depth-2", "soft-cap", "gated", "split", "copies"],
)
def test_adopted_models(changes):
    model = stock(**changes)
    assert_exact(adopt(model), TOKENS, reference=model)


def test_replaced_activation_and_frozen_parameters_of_an_adopted_model():
    model = stock()
    model.blocks[0].mlp.act_fn = torch.square
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".b_" not in name and name != "blocks.0.attn.W_Q")
    assert_exact(adopt(model), TOKENS, reference=model)


@pytest.mark.parametrize(
    "frozen", ["embed.W_E", "pos_embed.W_pos", "unembed.W_U", "blocks.0.attn.W_K", "blocks.0.mlp.W_in"]
)
def test_a_frozen_parameter_has_no_share(frozen):
    model = random_model(P, placement="pre")
    whole = ntk(model, TOKENS, "trace")
    model.get_parameter(frozen).requires_grad_(False)
    assert_exact(model, TOKENS)
    assert torch.linalg.eigvalsh(whole - ntk(model, TOKENS, "trace")).min() > -1e-8


def test_an_activation_that_nothing_reads():
    model = random_model(P)
    model.blocks[0].mlp.act_fn = torch.zeros_like
    assert_exact(model, TOKENS)


def test_unknown_parameters_are_refused_by_name():
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.q_norm\.w"):
        ntk(adopt(stock(use_qk_norm=True)), TOKENS, "sum")
    twice = random_model(P, n_layers=2)
    twice.blocks[1].mlp.W_in = twice.blocks[0].mlp.W_in
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.W_in, blocks\.1\.mlp\.W_in"):
        ntk(twice, TOKENS, "sum")


@pytest.mark.parametrize("output", ["sum", "trace"])
def test_batches_of_rows_and_classes_change_nothing(output, monkeypatch):
    model = random_model(P, placement="pre", tied_unembed=True)
    whole = ntk(model, TOKENS, output)
    monkeypatch.setattr("mech_grok.probes.ntk_outer_products._ROWS", 4)
    monkeypatch.setattr(ntk_module, "_NUMBERS", 1)
    torch.testing.assert_close(ntk(model, TOKENS, output), whole, rtol=1e-12, atol=1e-10)


@given(st.integers(0, 2**31), st.permutations(range(len(TOKENS))), st.sampled_from(["off", "pre", "post"]))
@settings(max_examples=8, deadline=None)
def test_symmetric_positive_and_as_permuted_as_the_examples(seed, order, placement):
    model = random_model(P, seed=seed, placement=placement)
    for output in ("sum", "trace"):
        kernel = ntk(model, TOKENS, output)
        assert torch.equal(kernel, kernel.T)
        assert torch.linalg.eigvalsh(kernel).min() > -1e-10 * kernel.trace()
        permuted = kernel[order][:, order]
        torch.testing.assert_close(ntk(model, TOKENS[list(order)], output), permuted, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_examples(n):
    model = random_model(P, placement="pre", n_layers=2)
    whole = {output: ntk(model, TOKENS, output) for output in ("sum", "trace")}
    for output, kernel in whole.items():
        few = ntk(model, TOKENS[:n], output)
        assert few.shape == (n, n)
        torch.testing.assert_close(few, kernel[:n, :n])


@torch.no_grad()
def features(model):
    _, cache = model.run_with_cache(TOKENS)
    return cache["unembed.hook_in"][:, -1]


@pytest.mark.parametrize("output", ["sum", "trace"])
def test_scaling_the_unembedding_scales_all_but_its_own_share(output):
    model = random_model(P)
    own = (P + 1) * features(model) @ features(model).T
    before = ntk(model, TOKENS, output) - own
    with torch.no_grad():
        model.unembed.W_U.mul_(3.0)
    torch.testing.assert_close(ntk(model, TOKENS, output) - own, 9 * before)


def test_zero_sum_unembedding_leaves_the_sum_kernel_its_readout_only():
    model = random_model(P, placement="pre", readout_scale=2.0)
    with torch.no_grad():
        model.unembed.W_U.sub_(model.unembed.W_U.mean(1, keepdim=True))
    expected = 4 * (P + 1) * features(model) @ features(model).T
    torch.testing.assert_close(ntk(model, TOKENS, "sum"), expected)
    assert (ntk(model, TOKENS, "trace") - expected).norm() > expected.norm()


def test_the_model_is_left_as_it_was():
    model = random_model(P, placement="pre")
    before = {name: (x.detach().clone(), x.requires_grad) for name, x in model.named_parameters()}
    with torch.no_grad():
        ntk(model, TOKENS, "trace")
    for name, x in model.named_parameters():
        assert torch.equal(x, before[name][0])
        assert x.requires_grad == before[name][1]
        assert x.grad is None
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_float32_is_exact_to_its_rounding():
    model = GrokTransformer(ModelConfig(d_model=16, n_heads=2), 23, seed=1)
    tokens = torch.tensor([[a, 3 * a % 23, 23] for a in range(20)])
    in_float64 = GrokTransformer(model.config, 23, seed=1, dtype=torch.float64)
    for output in ("sum", "trace"):
        kernel = ntk(model, tokens, output)
        assert kernel.dtype == torch.float32
        expected = ntk(in_float64, tokens, output)
        assert (kernel - expected).norm() / expected.norm() < 1e-6


def test_even_modulus_and_the_smallest():
    assert_exact(random_model(6, placement="M"), torch.tensor([[0, 5, 6], [3, 3, 6]]))
    assert_exact(random_model(2, placement="M"), torch.tensor([[0, 1, 2], [1, 1, 2], [0, 0, 2]]))
    assert_exact(build("pre"), torch.tensor([[6, 6, 7], [0, 6, 7]]))
