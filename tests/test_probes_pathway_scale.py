import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_model
from oracles import PLACEMENTS, random_model

from mech_grok.model import adopt
from mech_grok.placement import PATHWAYS
from mech_grok.probes import measure
from mech_grok.probes.pathway_scale import mean_and_variation
from mech_grok.task import Task

POSITIONS = ("a", "b", "=")


def scales(model, p=5):
    task = Task("add", p, 0.5)
    return measure(adopt(model), task, task.split_indices(0), ["pathway_scale"])["pathway_scale"]


def check_against_the_cache(model, seen, p=5):
    """Each value from a plain cached pass, by numpy; nan where the answer does not depend on it."""
    task = Task("add", p, 0.5)
    _, cache = model.run_with_cache(torch.as_tensor(task.tokens(task.pairs())))
    last = model.cfg.n_layers - 1
    for layer in range(last + 1):
        for pathway in PATHWAYS:
            norm = f"blocks.{layer}.norm_{pathway}"
            lengths = np.sqrt((cache[f"{norm}.hook_in"].numpy(force=True) ** 2).sum(-1))
            divisors = cache[f"{norm}.hook_scale"].numpy(force=True)[..., 0]
            here = seen.sel(layer=layer, pathway=pathway)
            for name, x in (("pathway_input_length", lengths), ("pathway_divisor", divisors)):
                mean, variation = x.mean(0), x.std(0) / x.mean(0)
                if layer == last and pathway in ("q", "mlp"):
                    mean[:2] = variation[:2] = np.nan
                assert here[name].values == pytest.approx(mean, rel=1e-10, nan_ok=True)
                assert here[f"{name}_variation"].values == pytest.approx(
                    variation, rel=1e-8, abs=1e-12, nan_ok=True
                )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_against_a_cached_pass(placement):
    model = random_model(placement=placement, n_layers=2, shared_affine=False)
    check_against_the_cache(model, scales(model))


@pytest.mark.parametrize("norm", ["LN", "LNPre", "RMS", None])
def test_against_a_cached_pass_of_a_causal_stock_model(norm):
    model = adopt(stock_model(n_layers=2, normalization_type=norm))
    check_against_the_cache(model, scales(model))


def test_where_the_input_is_copied_for_every_head():
    model = random_model(placement="attn-pre", n_layers=2)
    expected = scales(model)
    model.set_use_split_qkv_input(True)
    xr.testing.assert_allclose(scales(model), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_nan_is_only_what_the_answer_does_not_depend_on(n_layers):
    seen = scales(random_model(n_layers=n_layers, placement="pre"))
    for values in seen.values():
        unread = np.zeros(values.shape, dtype=bool)
        unread[-1, [0, 3], :2] = True
        assert (np.isnan(values.values) == unread).all()


def test_without_norms_the_divisor_is_one():
    seen = scales(random_model())
    assert (seen["pathway_divisor"].sel(position="=") == 1).all()
    assert (seen["pathway_divisor_variation"].sel(position="=") == 0).all()


def test_rms_divides_by_length_over_the_root_of_the_width_and_the_unit_norm_by_length():
    rms = scales(random_model(placement="pre", norm="rms"))
    assert rms["pathway_divisor"].values == pytest.approx(
        rms["pathway_input_length"].values / math.sqrt(16), rel=1e-10, nan_ok=True
    )
    unit = scales(random_model(placement="mlp-inpnorm")).sel(pathway="mlp", position="=")
    assert unit["pathway_divisor"].values == pytest.approx(unit["pathway_input_length"].values, rel=1e-10)


def test_the_input_at_equals_is_the_same_for_all_pairs_before_the_first_attention():
    seen = scales(random_model()).sel(layer=0, position="=")["pathway_input_length_variation"]
    assert seen.sel(pathway=["q", "k", "v"]).values == pytest.approx(0, abs=1e-12)
    assert seen.sel(pathway="mlp") > 1e-3


def test_mean_and_variation_by_hand():
    mean, variation = mean_and_variation(torch.tensor([[[1.0, 2.0, 0.0]], [[3.0, 2.0, 0.0]]]))
    assert mean[0].tolist() == [2.0, 2.0, 0.0]
    assert variation[0].tolist() == pytest.approx([0.5, 0.0, math.nan], nan_ok=True)


@torch.no_grad()
def test_a_model_of_zeros_has_length_0_and_no_variation():
    model = random_model()
    for parameter in model.parameters():
        parameter.zero_()
    seen = scales(model).sel(position="=")
    assert (seen["pathway_input_length"] == 0).all()
    assert seen["pathway_input_length_variation"].isnull().all()


@torch.no_grad()
def rotated(model, seed):
    """The model in another basis of the residual stream; it must have no norm with an affine."""
    basis, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(seed)).double())
    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf in ("W_E", "W_pos", "W_O", "W_out", "b_out"):
            parameter.copy_(parameter @ basis)
        elif leaf in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
            parameter.copy_(basis.T @ parameter)
    return model


def scales_of_two_bases(seed, **settings):
    """With gains of 1 and biases of 0, so that only centring knows the basis."""
    models = [random_model(n_layers=2, **settings) for _ in range(2)]
    for model in models:
        for name, parameter in model.named_parameters():
            if name.endswith((".w", "ln1.b", "ln2.b")):
                torch.nn.init.constant_(parameter, float(name.endswith(".w")))
    return scales(models[0]), scales(rotated(models[1], seed))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**31), st.sampled_from(["off", "mlp-inpnorm", "rms"]))
def test_lengths_and_uncentred_divisors_do_not_know_the_basis(seed, kind):
    options = {"placement": "pre", "norm": "rms"} if kind == "rms" else {"placement": kind}
    given_basis, other_basis = scales_of_two_bases(seed, **options)
    for name in given_basis:
        assert other_basis[name].values == pytest.approx(
            given_basis[name].values, rel=1e-8, abs=1e-10, nan_ok=True
        )


def test_layer_norm_knows_the_basis_because_it_centres():
    given_basis, other_basis = scales_of_two_bases(0, placement="pre")
    first = [x["pathway_divisor"].sel(layer=0, pathway="q").values for x in (given_basis, other_basis)]
    assert first[0] != pytest.approx(first[1], rel=1e-3)
