"""Which parameters a model has, which of them are frozen, and what they start from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import TOKENS, P, build, configs, some
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer


@given(configs)
@some
def test_each_affine_is_stored_once_and_only_where_it_is_read(config: ModelConfig):
    model = GrokTransformer(config, P)
    pathways = config.placement.pathways
    arrangement = config.placement.arrangement
    shared = {"post": {"ln1", "ln2"}, "peri": {"ln1_post", "ln2_post"}}.get(arrangement, set())
    attention = pathways & {"q", "k", "v"}
    shared |= {"ln2"} if "mlp" in pathways else set()
    if config.shared_affine:
        shared |= {"ln1"} if attention else set()
        owners = shared
    else:
        owners = shared | {f"norm_{x}" for x in attention}
    owners = owners | ({"attn.q_norm", "attn.k_norm"} if config.qk_norm else set())
    expected = {f"blocks.{layer}.{owner}.w" for layer in range(config.n_layers) for owner in owners}
    expected |= {"ln_final.w"} if config.final_norm != "off" else set()
    keys = dict(model.named_parameters())
    assert {k for k in keys if k.endswith(".w")} == expected
    with_bias = {k[:-1] + "b" for k in expected if config.norm == "ln" and ".attn." not in k}
    assert {k for k in keys if k.endswith(".b")} == with_bias


def test_a_shared_affine_acts_on_every_pathway_that_reads_it():
    model = build("attn-pre-qk", random_affines=False)
    with torch.no_grad():
        model.blocks[0].ln1.w.fill_(3)
        _, cache = model.run_with_cache(TOKENS)
    for pathway in ("q", "k"):
        out, normalized = (cache[f"blocks.0.norm_{pathway}.hook_{x}"] for x in ("out", "normalized"))
        torch.testing.assert_close(out, 3 * normalized)
    assert torch.equal(cache["blocks.0.norm_v.hook_out"], cache["blocks.0.norm_v.hook_in"])


def test_separate_affines_act_on_their_own_pathway_only():
    model = build("attn-pre", shared_affine=False, random_affines=False)
    with torch.no_grad():
        model.blocks[0].norm_v.w.fill_(3)
        _, cache = model.run_with_cache(TOKENS)
    for pathway, gain in (("q", 1), ("k", 1), ("v", 3)):
        out, normalized = (cache[f"blocks.0.norm_{pathway}.hook_{x}"] for x in ("out", "normalized"))
        torch.testing.assert_close(out, gain * normalized)


@given(configs)
@some
def test_trained_and_frozen_parameters(config: ModelConfig):
    model = GrokTransformer(config, P)
    trained, frozen = set(model.trained_parameters()), set(model.frozen_parameters())
    absent = {
        n for n, _ in model.named_parameters() if n.rpartition(".")[2] in ("b_Q", "b_K", "b_V", "b_O", "b_U")
    }
    assert trained | frozen | absent == {n for n, _ in model.named_parameters()}
    assert len(trained) + len(frozen) + len(absent) == len(list(model.named_parameters()))
    affines = {n for n, _ in model.named_parameters() if n.rpartition(".")[2] in ("w", "b")}
    assert frozen <= affines
    if config.freeze_norm_affine:
        assert frozen == affines
    elif config.final_norm == "frozen":
        assert {n for n in affines if n.startswith("ln_final")} <= frozen


@pytest.mark.parametrize(
    ("placement", "settings", "frozen"),
    [
        ("k", {}, {"blocks.0.ln1.b"}),
        ("attn-pre", {"shared_affine": False}, {"blocks.0.norm_k.b"}),
        ("k+mlp", {"shared_affine": False}, {"blocks.0.norm_k.b"}),
        ("k", {"norm": "rms"}, set()),
        ("k", {"qk_norm": True}, set()),
        ("attn-pre-qk", {}, set()),
        ("kv", {}, set()),
        ("peri", {"shared_affine": False}, {"blocks.0.norm_k.b"}),
    ],
)
def test_a_bias_that_only_the_keys_read_is_frozen(placement: str, settings: dict, frozen: set):
    assert set(build(placement, **settings).frozen_parameters()) == frozen


@pytest.mark.parametrize(
    ("placement", "settings", "bias", "vanishes"),
    [
        ("k", {}, "ln1.b", True),
        ("attn-pre", {"shared_affine": False}, "norm_k.b", True),
        ("attn-pre", {"shared_affine": False}, "norm_q.b", False),
        ("attn-pre", {"shared_affine": False}, "norm_v.b", False),
        ("attn-pre-qk", {}, "ln1.b", False),
        ("k", {"qk_norm": True}, "ln1.b", False),
    ],
)
def test_its_gradient_is_zero_and_that_of_the_others_is_not(
    placement: str, settings: dict, bias: str, vanishes: bool
):
    model = build(placement, **settings)
    parameter = dict(model.named_parameters())[f"blocks.0.{bias}"].requires_grad_()
    model(TOKENS)[:, -1].log_softmax(-1)[:, 0].mean().backward()
    assert parameter.grad is not None
    size = parameter.grad.abs().max().item()
    assert (size < 1e-14) == vanishes, f"gradient of {bias}: {size}"


def std(x: Tensor) -> float:
    return x.detach().std().item()


@pytest.mark.parametrize("init", ["lecun", "kaiming"])
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_initial_weights_have_the_stated_distributions(init: str, activation: str):
    config = ModelConfig.model_validate({"init": init, "activation": activation, "placement": "pre"})
    model = GrokTransformer(config, p=113, seed=0)
    d, block = 128, model.blocks[0]
    assert std(model.W_E) == pytest.approx(d**-0.5, rel=0.02)
    assert std(model.W_U) == pytest.approx(d**-0.5, rel=0.02)
    assert std(model.W_pos) == pytest.approx(0.02, rel=0.1)
    bound = math.sqrt(6 / (4 * d))  # Xavier over [3d, d]
    for weight in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):
        assert 0.99 * bound < weight.detach().abs().max().item() <= bound
        assert std(weight) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    fan_in = {"W_O": d, "W_in": d, "W_gate": d, "W_out": 4 * d}
    for name, parameter in block.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf in fan_in and init == "kaiming":
            assert std(parameter) == pytest.approx(math.sqrt(2 / fan_in[leaf]), rel=0.02)
            assert parameter.detach().abs().max().item() > 3 * std(parameter)
        elif leaf in fan_in:
            sigma = fan_in[leaf] ** -0.5
            # A unit normal cut at two standard deviations, not rescaled: std 0.8796.
            assert std(parameter) == pytest.approx(0.8796 * sigma, rel=0.02)
            assert 1.99 * sigma < parameter.detach().abs().max().item() <= 2 * sigma * (1 + 1e-6)
        elif leaf.startswith("b"):
            assert not parameter.detach().any()
        elif leaf == "w":
            assert (parameter == 1).all()


@given(configs, st.floats(0.1, 10))
@some
def test_the_initialisation_scale_multiplies_every_parameter(config: ModelConfig, scale: float):
    plain = GrokTransformer(config, P, seed=5, dtype=torch.float64)
    scaled = GrokTransformer(config.model_copy(update={"init_scale": scale}), P, seed=5, dtype=torch.float64)
    others = dict(scaled.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(others[name], scale * parameter)


@given(configs)
@some
def test_a_seed_decides_the_weights_in_any_dtype(config: ModelConfig):
    torch.manual_seed(0)
    single, double, other = (
        GrokTransformer(config, P, seed, dtype)
        for seed, dtype in ((9, torch.float32), (9, torch.float64), (10, torch.float64))
    )
    assert torch.rand(()).item() == torch.rand((), generator=torch.Generator().manual_seed(0)).item(), (
        "the global generator is left alone"
    )
    for name, parameter in single.named_parameters():
        assert torch.equal(parameter.double(), dict(double.named_parameters())[name])
    assert not torch.equal(other.W_E, double.W_E)


def test_placements_share_their_initial_weights_where_they_share_parameters():
    pre, off = (dict(build(x, random_affines=False).named_parameters()) for x in ("pre", "off"))
    assert all(torch.equal(pre[name], off[name]) for name in off)
