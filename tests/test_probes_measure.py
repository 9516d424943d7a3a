from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import random_model

from mech_grok.errors import UserError
from mech_grok.probes import PROBES, Quantity, find_probe, measure
from mech_grok.probes.observation import Needs, run
from mech_grok.task import Task

P = 5
TASK = Task("subtract", P, 0.6)
SPLIT = TASK.split_indices(1)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))


@pytest.mark.parametrize("placement", ["off", "pre", "post", "peri", "mlp-inpnorm"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_probe_finds_the_same_alone_and_in_company(placement, n_layers):
    model = random_model(P, placement=placement, n_layers=n_layers)
    together = measure(model, TASK, SPLIT, list(PROBES))
    assert list(together) == list(PROBES)
    for name, seen in together.items():
        xr.testing.assert_allclose(seen, measure(model, TASK, SPLIT, [name])[name], rtol=1e-10)


def test_every_quantity_says_what_it_is():
    for seen in measure(random_model(P), TASK, SPLIT, list(PROBES)).values():
        assert seen.attrs["title"]
        assert not {"seed", "step"} & set(seen.dims)
        for variable in seen.data_vars.values():
            assert variable.attrs["long_name"]
            assert variable.attrs["source"]
            assert variable.attrs["definition"].endswith(".")
            assert variable.attrs["units"] in ("nats", "logits", "1")
            assert variable.dtype in (np.float64, np.float32)
            assert variable.attrs["nan"] or np.isfinite(variable).all()


def test_names_are_unique_and_dimensions_agree_over_all_probes():
    names = [name for probe in PROBES.values() for name in probe.quantities]
    assert len(names) == len(set(names)) > 50
    found = measure(random_model(P, n_layers=2, placement="post"), TASK, SPLIT, list(PROBES))
    xr.merge(found.values(), join="exact", compat="equals", combine_attrs="drop_conflicts")


def test_a_probe_must_compute_what_it_declares(monkeypatch):
    declared = dict(PROBES["stability"].quantities)
    for broken in ({**declared, "one_more": Quantity((), "x", "1", "X.")}, dict(list(declared.items())[1:])):
        monkeypatch.setitem(PROBES, "stability", replace(PROBES["stability"], quantities=broken))
        with pytest.raises(ValueError, match="probe 'stability' declares and computes different quantities"):
            measure(random_model(P), TASK, SPLIT, ["stability"])


def test_a_value_of_another_shape_is_refused(monkeypatch):
    wrong = replace(PROBES["fourier"], compute=lambda seen: dict.fromkeys(PROBES["fourier"].quantities, 0.0))
    monkeypatch.setitem(PROBES, "fourier", wrong)
    with pytest.raises(ValueError, match="embedding norm has shape \\(\\), expected \\(3,\\)"):
        measure(random_model(P), TASK, SPLIT, ["fourier"])


def test_the_model_is_left_as_it_was():
    model = random_model(P, placement="pre")
    before = {name: x.clone() for name, x in model.state_dict().items()}
    measure(model, TASK, SPLIT, list(PROBES))
    after = model.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_weights_alone_need_no_forward_pass():
    model = random_model(P)
    model.forward = None
    measure(model, TASK, SPLIT, ["fourier"])


@pytest.mark.parametrize(
    "everywhere",
    [
        [],
        ["blocks.1.attn.hook_pattern"],
        ["blocks.1.mlp.hook_post", "blocks.0.hook_resid_mid"],
        ["unembed.hook_in"],
    ],
)
@pytest.mark.parametrize("placement", ["pre", "post", "peri"])
def test_dropped_positions_change_nothing_that_is_kept(everywhere, placement):
    model = random_model(P, placement=placement, n_layers=2)
    equals = ["hook_embed", "blocks.1.attn.hook_z", "blocks.0.attn.hook_pattern", "blocks.1.hook_mlp_out"]
    at_equals, at_all, _ = run(model, TOKENS, Needs([*equals, "unembed.hook_out"], everywhere))
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    for name, x in at_equals.items():
        expected = cache[name][:, :, -1] if name.endswith("pattern") else cache[name][:, -1]
        torch.testing.assert_close(x, expected)
    for name, x in at_all.items():
        torch.testing.assert_close(x, cache[name])


def test_passes_are_joined_in_the_order_of_the_pairs():
    task = Task("add", 23, 0.7)
    tokens = torch.as_tensor(task.tokens(task.pairs()))
    model = random_model(23)
    kept = run(model, tokens, Needs(["unembed.hook_out"])).at_equals
    with torch.no_grad():
        torch.testing.assert_close(kept["unembed.hook_out"], model(tokens)[:, -1])


@pytest.mark.parametrize(
    ("typed", "near"), [("atention", "attention"), ("Fourier", "fourier"), ("shortcuts", "shortcut")]
)
def test_unknown_probe_names_the_nearest(typed, near):
    with pytest.raises(UserError, match=f"unknown probe '{typed}'; did you mean '{near}'"):
        measure(random_model(P), TASK, SPLIT, [typed])


def test_known_probe_is_found():
    assert find_probe("shortcut") is PROBES["shortcut"]


def test_model_of_another_modulus_is_refused():
    with pytest.raises(ValueError, match="the model has 8 tokens, but p = 5 needs 6"):
        measure(random_model(7), TASK, SPLIT, ["fourier"])


@pytest.mark.parametrize("broken", ["embed.W_E", "blocks.0.attn.W_Q"])
def test_of_a_diverged_model_everything_is_nan(broken: str):
    """TransformerLens zeroes NaN patterns: a NaN in W_Q alone would look like attention to nothing."""
    model = random_model(P)
    with torch.no_grad():
        model.get_parameter(broken)[0] = float("nan")
    for data in measure(model, TASK, SPLIT, list(PROBES)).values():
        assert all(np.isnan(variable).all() for variable in data.data_vars.values())
        assert all("definition" in variable.attrs for variable in data.data_vars.values())
