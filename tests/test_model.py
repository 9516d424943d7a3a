"""GrokTransformer as a HookedTransformer: its tools, its hook points, its logits."""

import copy
import warnings
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import TOKENS, D, P, build, configs, draw_affines, run, some
from torch import Tensor
from transformer_lens import ActivationCache, FactoredMatrix, HookedTransformer

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.model.norm_sites import NormSite, centre_and_divisor, numeric_eps, standardise
from mech_grok.placement import PATHWAYS, Placement, all_placements

IDENTITY_NORMS = ("norm_attn_out", "norm_resid_mid", "norm_mlp_out", "norm_resid_post")


def stock(config: ModelConfig, **switches) -> HookedTransformer:
    """TransformerLens' own model of the same sizes, without normalisation."""
    cfg = GrokTransformer(config, P, dtype=torch.float64).cfg
    cfg = copy.deepcopy(cfg)
    for name, value in switches.items():
        setattr(cfg, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(cfg)


def fired(model: HookedTransformer) -> Counter:
    counts = Counter()
    hooks = [(name, lambda value, hook: counts.update([hook.name])) for name in model.hook_dict]
    with torch.no_grad():
        model.run_with_hooks(TOKENS[:2], fwd_hooks=hooks)
    return counts


def test_is_a_hooked_transformer_with_its_tools():
    model = build("pre", n_layers=2)
    assert isinstance(model, HookedTransformer)
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS, names_filter=lambda n: n.endswith("hook_pattern"))
    assert isinstance(cache, ActivationCache)
    assert set(cache) == {f"blocks.{layer}.attn.hook_pattern" for layer in (0, 1)}
    torch.testing.assert_close(
        cache["pattern", 1].sum(-1), torch.ones(len(TOKENS), 2, 3, dtype=torch.float64)
    )
    assert logits.shape == (P * P, 3, P + 1)


def test_weight_properties_and_factored_matrices():
    model = build("pre", n_layers=2)
    assert model.W_E.shape == (P + 1, D)
    assert model.W_pos.shape == (3, D)
    assert model.W_U.shape == (D, P + 1)
    assert model.W_Q.shape == model.W_K.shape == model.W_V.shape == (2, 2, D, D // 2)
    assert model.W_O.shape == (2, 2, D // 2, D)
    assert model.W_in.shape == (2, D, 4 * D)
    assert model.W_out.shape == (2, 4 * D, D)
    for circuit, left, right in ((model.QK, model.W_Q, model.W_K.mT), (model.OV, model.W_V, model.W_O)):
        assert isinstance(circuit, FactoredMatrix)
        torch.testing.assert_close(circuit.AB, left @ right)
        assert circuit[0, 1].svd()[1].shape == (D // 2,)


def test_the_residual_stream_is_the_sum_of_its_components():
    model = build("pre", n_layers=2)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    parts, labels = cache.decompose_resid(return_labels=True)
    assert labels == ["embed", "pos_embed", "0_attn_out", "0_mlp_out", "1_attn_out", "1_mlp_out"]
    torch.testing.assert_close(parts.sum(0), cache["resid_post", -1])
    torch.testing.assert_close(cache.accumulated_resid()[-1], cache["resid_post", -1])
    heads = cache.stack_head_results(layer=1)
    torch.testing.assert_close(heads.sum(0), cache["attn_out", 0])


@given(configs)
@some
def test_every_norm_has_its_four_hooks_and_every_hook_fires_once(config: ModelConfig):
    model = GrokTransformer(config, P)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS[:5])
    for layer in range(config.n_layers):
        for pathway in PATHWAYS:
            for hook in ("hook_in", "hook_normalized", "hook_out"):
                assert cache[f"blocks.{layer}.norm_{pathway}.{hook}"].shape == (5, 3, D)
            assert cache[f"blocks.{layer}.norm_{pathway}.hook_scale"].shape == (5, 3, 1)
    assert cache["unembed.hook_out"].shape == (5, 3, P + 1)
    assert set(fired(model).values()) == {1}


@pytest.mark.parametrize("placement", all_placements(), ids=str)
@pytest.mark.parametrize("norm", ["ln", "rms"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_pathway_hooks_in_every_placement(placement: Placement, norm: str, qk_norm: bool):
    config = ModelConfig.model_validate(
        {"placement": placement, "norm": norm, "qk_norm": qk_norm, "d_model": D, "n_layers": 2}
    )
    model = GrokTransformer(config, P, dtype=torch.float64)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    normalised = {"mlp"} if placement.arrangement == "mlp-inpnorm" else placement.pathways
    for layer in range(2):
        for pathway in PATHWAYS:
            hook_in, scale, normalized, out = (
                cache[f"blocks.{layer}.norm_{pathway}.hook_{x}"] for x in ("in", "scale", "normalized", "out")
            )
            torch.testing.assert_close(out, normalized, msg="gains start at 1 and biases at 0")
            if pathway not in normalised:
                assert (scale == 1).all()
                assert torch.equal(out, hook_in)
            elif placement.arrangement == "mlp-inpnorm":
                torch.testing.assert_close(scale[..., 0], hook_in.norm(dim=-1))
                torch.testing.assert_close(out.norm(dim=-1), torch.ones(P * P, 3, dtype=out.dtype))
            elif placement.arrangement == "pre":
                std = hook_in.std(-1, correction=0) if norm == "ln" else hook_in.square().mean(-1).sqrt()
                torch.testing.assert_close(scale[..., 0], std)
                torch.testing.assert_close(out.square().mean(-1), torch.ones(P * P, 3, dtype=out.dtype))
        extra = {n for n in cache if f"blocks.{layer}." in n and any(f".{x}." in n for x in IDENTITY_NORMS)}
        expected = {"post": ("norm_resid_mid", "norm_resid_post"), "peri": ("norm_attn_out", "norm_mlp_out")}
        assert extra == {
            f"blocks.{layer}.{n}.hook_{x}"
            for n in expected.get(placement.arrangement, ())
            for x in ("in", "scale", "normalized", "out")
        }
        for name, width in (("q_norm", D // 4), ("k_norm", D // 4)) if qk_norm else ():
            assert cache[f"blocks.{layer}.attn.{name}.hook_out"].shape == (P * P, 3, 4, width)
            assert cache[f"blocks.{layer}.attn.{name}.hook_scale"].shape == (P * P, 3, 4, 1)


@given(
    configs, st.sampled_from(["", "use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"])
)
@some
def test_stock_hooks_are_all_there_and_fire_as_in_the_stock_model(config: ModelConfig, switch: str):
    model = GrokTransformer(config, P, dtype=torch.float64)
    reference = stock(config, **({switch: True} if switch else {}))
    if switch:
        setattr(model.cfg, switch, True)
    assert set(reference.hook_dict) <= set(model.hook_dict)
    ours, theirs = fired(model), fired(reference)
    assert set(theirs) <= set(ours)
    assert set(ours.values()) == {1}


@pytest.mark.parametrize("switch", ["attn_result", "split_qkv_input", "attn_in", "hook_mlp_in"])
@pytest.mark.parametrize("placement", ["off", "pre", "peri", "kv+mlp"])
def test_transformer_lens_switches_leave_the_logits_alone(switch: str, placement: str):
    model = build(placement)
    plain = run(model)
    getattr(model, f"set_use_{switch}")(True)
    torch.testing.assert_close(run(model), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_norms_everything_is_as_in_the_stock_model(n_layers: int, dtype: torch.dtype):
    config = ModelConfig(d_model=D, n_layers=n_layers)
    model = draw_affines(GrokTransformer(config, P, seed=3, dtype=dtype))
    reference = stock(config, dtype=dtype)
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        (ours, cache), (theirs, expected) = (m.run_with_cache(TOKENS) for m in (model, reference))
    for name in expected:
        if name != "unembed.hook_out":  # may differ by the order of summation
            assert torch.equal(cache[name], expected[name]), name
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


def test_readout_scale_multiplies_the_logits_and_not_w_u():
    plain, scaled = build(), build(readout_scale=4.0)
    assert torch.equal(plain.W_U, scaled.W_U)
    assert torch.equal(run(scaled), 4 * run(plain))
    assert torch.equal(run(build(readout_scale=4.0, scale_in_loss=True)), run(plain))
    with torch.no_grad():
        _, cache = scaled.run_with_cache(TOKENS)
    assert torch.equal(cache["unembed.hook_out"], run(scaled))


def test_the_final_norm_is_hooked_and_read():
    model = build(final_norm="on", norm="ln")
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    for hook in ("in", "scale", "normalized", "out"):
        assert f"ln_final.hook_{hook}" in cache
    x = cache["resid_post", 0]
    expected = torch.nn.functional.layer_norm(x, (D,), model.ln_final.w, model.ln_final.b, 1e-5)
    torch.testing.assert_close(cache["unembed.hook_in"], expected)
    torch.testing.assert_close(logits, expected @ model.W_U)


@pytest.mark.parametrize("kind", ["ln", "rms", "unit"])
@pytest.mark.parametrize("eps", [0.0, 1e-5, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_norm_of_zeros_is_zeros_and_no_other_feels_it(kind: str, eps: float | None, dtype: torch.dtype):
    site = NormSite(kind, eps)
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[0] = 0
    centred, divisor = centre_and_divisor(x, site)
    for normalized in (centred / divisor, standardise(x, site)):
        assert torch.equal(normalized[0], torch.zeros(D, dtype=dtype))
        assert torch.isfinite(normalized).all()
    if kind != "unit":
        exact = numeric_eps(site, dtype) if eps != 0.0 else 0.0
        by_hand = x - x.mean(-1, keepdim=True) if kind == "ln" else x
        by_hand = by_hand / (by_hand.square().mean(-1, keepdim=True) + exact).sqrt()
        assert torch.equal((centred / divisor)[1:], by_hand[1:])
        norm = torch.nn.functional.layer_norm if kind == "ln" else torch.nn.functional.rms_norm
        assert torch.equal(standardise(x, site)[1:], norm(x, (D,), eps=exact)[1:])


def test_tied_unembedding_is_the_embedding_transposed_and_stored_once():
    model = build(tied_unembed=True)
    assert "unembed.W_U" not in dict(model.named_parameters())
    assert torch.equal(model.W_U, model.W_E.T)
    with torch.no_grad():
        model.embed.W_E[0] += 1
    assert torch.equal(model.W_U, model.W_E.T)


@pytest.mark.parametrize("pathway", PATHWAYS)
@pytest.mark.parametrize("placement", ["off", "pre", "peri", "mlp-inpnorm"])
@pytest.mark.parametrize("hook", ["in", "scale", "normalized", "out"])
def test_editing_any_hook_of_any_pathway_changes_the_logits(pathway: str, placement: str, hook: str):
    model = build(placement)
    plain = run(model)
    # Not a plain doubling of the input: a norm does not see it, and that is its point.
    weights = torch.linspace(1, 2, D, dtype=torch.float64)

    def edit(value: Tensor, hook) -> Tensor:
        return value * 2 if value.shape[-1] == 1 else value * weights

    with torch.no_grad():
        edited = model.run_with_hooks(TOKENS, fwd_hooks=[(f"blocks.0.norm_{pathway}.hook_{hook}", edit)])
    assert (edited - plain)[:, -1].abs().max() > 1e-6
    assert torch.equal(run(model), plain), "a hook that is gone leaves no trace"


@given(configs)
@some
def test_copies_and_state_dicts_give_the_same_logits(config: ModelConfig):
    model = draw_affines(GrokTransformer(config, P, seed=1, dtype=torch.float64))
    clone = copy.deepcopy(model)
    other = GrokTransformer(config, P, seed=2, dtype=torch.float64)
    assert not torch.equal(run(other), run(model))
    other.load_state_dict(model.state_dict())
    assert torch.equal(run(clone), run(model))
    assert torch.equal(run(other), run(model))
    expected = run(model)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.zero_()
    assert torch.equal(run(model), expected), "a deep copy shares nothing"


def test_apples_mps_is_refused():
    with pytest.raises(ValueError, match="silently wrong results; use 'cpu' or 'cuda'"):
        GrokTransformer(ModelConfig(d_model=D), P, device="mps")


def test_a_block_refuses_what_it_would_ignore():
    model = build()
    with pytest.raises(ValueError, match="no shortformer embedding, key-value cache or attention mask"):
        model(TOKENS, attention_mask=torch.ones_like(TOKENS))
