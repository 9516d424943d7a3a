"""Patched models against models built to compute the same, and against TransformerLens' own cache."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import TOKENS, P, build, configs, draw_affines, run
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.interventions import Component, default_components, patch, patching
from mech_grok.interventions.patching import SMALLEST_GAP, recovered
from mech_grok.model import GrokTransformer
from mech_grok.model.norm_hooks import rewrite_norm
from mech_grok.placement import Placement, all_placements
from mech_grok.task import Task

TASK = Task("add", P, 0.5)
SPLIT = TASK.split_indices(0)
ANSWERS = torch.from_numpy(TASK.answers(TASK.pairs()))
MEASURES = ("loss", "accuracy", "margin")
few = settings(max_examples=4, deadline=None)
placements = st.sampled_from(["off", "M", "pre", "q", "mlp-inpnorm", "post", "peri"])


def scored(logits: Tensor, loss_scale: float = 1.0, task: Task = TASK) -> dict[str, list[float]]:
    """Loss, accuracy and margin of each split, one pair after the other."""
    found = {measure: [] for measure in MEASURES}
    for indices in task.split_indices(0).values():
        of_pairs = []
        for i in indices:
            x, answer = loss_scale * logits[i].numpy(), task.answers(task.pairs())[i]
            others = [x[c] for c in range(task.p) if c != answer]
            loss = np.log(np.exp(x - x.max()).sum()) + x.max() - x[answer]
            of_pairs.append((loss, float(x.argmax() == answer), x[answer] - sum(others) / len(others)))
        for measure, values in zip(MEASURES, zip(*of_pairs, strict=True), strict=True):
            found[measure].append(sum(values) / len(values))
    return found


def assert_scored(found: xr.Dataset, expected: dict[str, list[float]], prefix: str = "") -> None:
    for measure in MEASURES:
        np.testing.assert_allclose(found[f"{prefix}{measure}"], expected[measure], rtol=1e-11, atol=1e-12)


def by_cache(clean: GrokTransformer, corrupted: GrokTransformer, component: Component, tokens: Tensor):
    """Logits at `=`, with TransformerLens' own cache of a whole pass put in, entry by entry."""
    _, cache = clean.run_with_cache(tokens)

    def put(activation: Tensor, hook: object) -> Tensor:
        name = hook.name
        attention = name.endswith("hook_pattern")
        for head in range(clean.cfg.n_heads) if component.heads is None else component.heads:
            for position in range(3) if component.positions is None else component.positions:
                if activation.ndim < 4:
                    activation[:, position] = cache[name][:, position]
                elif attention:
                    activation[:, head, position] = cache[name][:, head, position]
                else:
                    activation[:, position, head] = cache[name][:, position, head]
        return activation

    with torch.no_grad(), corrupted.hooks(fwd_hooks=[(name, put) for name in component.names]):
        return corrupted(tokens)[:, -1]


def changed(model: GrokTransformer, **values: Callable[[Tensor], Tensor]) -> GrokTransformer:
    """A copy with some parameters changed; dots of their names are written as `__`."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in values.items():
            parameter = other.get_parameter(name.replace("__", "."))
            parameter.copy_(change(parameter))
    return other


def noise(parameter: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return parameter + torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@given(
    clean=placements,
    corrupted=placements,
    final_norm=st.sampled_from(["off", "on"]),
    tied_unembed=st.booleans(),
    n_layers=st.sampled_from([1, 2]),
)
@few
def test_everything_patched_is_the_clean_model_exactly(clean: str, corrupted: str, **shared) -> None:
    donor, model = build(clean, **shared), build(corrupted, seed=1, **shared)
    found = patching(donor, model, TASK, SPLIT, {"everything": default_components(model)["everything"]})
    everything = found.sel(component="everything")
    for measure in MEASURES:
        np.testing.assert_array_equal(everything[measure], found[f"clean_{measure}"])
        ends = found[f"clean_{measure}"].values, found[f"corrupted_{measure}"].values
        apart = ~np.isclose(*ends, rtol=2 * SMALLEST_GAP, atol=0)  # two measures may nearly agree by chance
        assert (everything[f"{measure}_recovered"].values[apart] == 1.0).all()
    assert (everything["loss_recovered"] == 1.0).all()


@given(placement=placements, n_layers=st.sampled_from([1, 2]))
@few
def test_a_model_patched_into_itself_changes_nothing(placement: str, n_layers: int) -> None:
    model = build(placement, n_layers=n_layers)
    found = patching(copy.deepcopy(model), model, TASK, SPLIT)
    for measure in MEASURES:
        assert (found[measure] == found[f"corrupted_{measure}"]).all()
        assert (found[f"clean_{measure}"] == found[f"corrupted_{measure}"]).all()
        assert found[f"{measure}_recovered"].isnull().all()


def assert_agrees_with_cache(
    donor: GrokTransformer, model: GrokTransformer, components: dict[str, Component]
) -> None:
    """All scores, and what is recovered, are those of patches by the cache and of logits scored by hand."""
    found = patching(donor, model, TASK, SPLIT, components)
    scale = model.config.loss_scale
    clean, corrupted = (scored(run(x)[:, -1], scale) for x in (donor, model))
    assert_scored(found, clean, "clean_")
    assert_scored(found, corrupted, "corrupted_")
    for label, component in components.items():
        expected = scored(by_cache(donor, model, component, TOKENS), scale)
        assert_scored(found.sel(component=label), expected)
        for measure in MEASURES:
            share = found[f"{measure}_recovered"].sel(component=label).values
            of_clean, of_corrupted = np.array(clean[measure]), np.array(corrupted[measure])
            divides = ~np.isnan(share)
            assert (divides | np.isclose(of_clean, of_corrupted, rtol=2 * SMALLEST_GAP)).all()
            undone = of_corrupted + np.where(divides, share, 0) * (of_clean - of_corrupted)
            np.testing.assert_allclose(
                undone[divides], np.array(expected[measure])[divides], rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize(
    ("clean", "corrupted", "fields"),
    [
        ("M", "off", {}),
        ("off", "pre", {"n_layers": 2, "qk_norm": True}),
        ("post", "peri", {"final_norm": "on", "activation": "swiglu", "tied_unembed": True}),
        ("pre", "M", {"readout_scale": 0.5, "scale_in_loss": True, "norm": "rms"}),
    ],
)
def test_every_component_agrees_with_patches_by_the_cache(clean: str, corrupted: str, fields: dict) -> None:
    donor, model = build(clean, **fields), build(corrupted, seed=1, **fields)
    keys = tuple(f"blocks.{n}.attn.hook_k" for n in range(model.cfg.n_layers))
    extra = {
        "keys of b": Component(keys, None, (1,)),
        "head 1 at =": Component(("blocks.0.attn.hook_z", "blocks.0.attn.hook_v"), (1,), (2,)),
        "queries of a in the pattern": Component(("blocks.0.attn.hook_pattern",), (0,), (0,)),
        "resid_mid at a and =": Component(("blocks.0.hook_resid_mid",), None, (0, 2)),
    }
    assert_agrees_with_cache(donor, model, {**default_components(model), **extra})


@pytest.mark.slow
@given(config=configs, other=st.sampled_from(all_placements()))
@settings(max_examples=60, deadline=None)
def test_every_component_agrees_for_any_config(config: ModelConfig, other: Placement) -> None:
    donor = draw_affines(GrokTransformer(config, P, 0, torch.float64))
    config = config.model_copy(update={"placement": other})
    model = draw_affines(GrokTransformer(config, P, 1, torch.float64))
    assert_agrees_with_cache(donor, model, default_components(model))


def test_pairs_in_several_batches() -> None:
    task = Task("add", 23, 0.5)  # 529 pairs
    fields = {"d_model": 8, "n_heads": 2}
    donor, model = (
        GrokTransformer(build(x, **fields).config, 23, seed, torch.float64)
        for seed, x in enumerate(["M", "off"])
    )
    tokens = torch.from_numpy(task.tokens(task.pairs()))
    component = Component(("blocks.0.hook_attn_out",))
    found = patching(donor, model, task, task.split_indices(0), {"attention": component})
    expected = by_cache(donor, model, component, tokens)
    assert_scored(found.sel(component="attention"), scored(expected, task=task))
    with model.hooks(fwd_hooks=patch(model, donor, component.names, tokens)):
        torch.testing.assert_close(run(model, tokens)[:, -1], expected, rtol=0, atol=1e-12)


def test_components_cover_the_forward_pass_in_order() -> None:
    labels = list(default_components(build("M", n_layers=2)))
    layer = [
        *(f"{x}.{point}" for x in "qkv" for point in ("scale", "normalized", "read")),
        *("queries", "keys", "values", "pattern", "H0", "H1", "attn_out", "resid_mid"),
        *("mlp.scale", "mlp.normalized", "mlp.read", "mlp_post", "mlp_out", "resid_post"),
    ]
    expected = [f"L{n}{'' if x.startswith('H') else '.'}{x}" for n in range(2) for x in layer]
    assert labels == ["embed", *expected, "everything"]


def test_the_dataset_says_what_it_holds() -> None:
    found = patching(build("M"), build("off"), TASK, SPLIT)
    assert found["loss"].dims == found["loss_recovered"].dims == ("component", "split")
    assert list(found["split"].values) == list(SPLIT)
    assert set(found.data_vars) == {
        x for m in MEASURES for x in (m, f"{m}_recovered", f"clean_{m}", f"corrupted_{m}")
    }
    for variable in found.data_vars.values():
        assert all(variable.attrs[key] for key in ("long_name", "units", "definition"))
    assert found["hook_points"].sel(component="L0H1").item() == "blocks.0.attn.hook_z [head 1]"
    of_two = Component(("hook_embed", "hook_pos_embed"), positions=(0, 1))
    assert str(of_two) == "hook_embed + hook_pos_embed [position 0, 1]"


def test_the_embedding_is_all_that_differs_so_that_it_recovers_all() -> None:
    corrupted = build("M")
    clean = changed(corrupted, embed__W_E=noise)
    found = patching(clean, corrupted, TASK, SPLIT).sel(component=["embed", "L0.resid_post", "everything"])
    np.testing.assert_allclose(found["loss_recovered"], 1.0, atol=1e-12)
    np.testing.assert_allclose(found["margin_recovered"], 1.0, atol=1e-12)


def test_the_pattern_of_uniform_attention_is_that_of_no_queries() -> None:
    corrupted = build("M")
    uniform = changed(build("off", seed=5), blocks__0__attn__W_Q=torch.zeros_like)
    hooks = patch(corrupted, uniform, ["blocks.0.attn.hook_pattern"], TOKENS)
    with corrupted.hooks(fwd_hooks=hooks):
        patched = run(corrupted)
    without_queries = run(changed(corrupted, blocks__0__attn__W_Q=torch.zeros_like))
    torch.testing.assert_close(patched, without_queries, rtol=0, atol=1e-12)
    assert (patched - run(corrupted)).abs().max() > 1e-3


def test_models_that_differ_in_a_gain_share_the_divisor_and_not_what_is_read() -> None:
    corrupted = build("M")
    clean = changed(corrupted, blocks__0__ln2__w=noise)
    found = patching(clean, corrupted, TASK, SPLIT)
    for label in ("L0.mlp.scale", "L0.mlp.normalized", "L0.resid_mid", "L0.attn_out", "embed"):
        assert (found["loss_recovered"].sel(component=label) == 0).all()
    for label in ("L0.mlp.read", "L0.mlp_post", "L0.mlp_out", "L0.resid_post"):
        np.testing.assert_allclose(found["loss_recovered"].sel(component=label), 1.0, atol=1e-12)


def test_the_divisor_of_a_layer_norm_divides_what_has_no_norm() -> None:
    none, normed = build("off", random_affines=False), build("M", random_affines=False)
    for seed_of_both in (none, normed):
        assert seed_of_both.W_E.equal(none.W_E)
    scale = ["blocks.0.norm_mlp.hook_scale"]
    with none.hooks(fwd_hooks=patch(none, normed, scale, TOKENS)):
        divided = run(none)
    with none.hooks(
        fwd_hooks=rewrite_norm("blocks.0.norm_mlp", lambda x: x / x.std(-1, False, keepdim=True))
    ):
        torch.testing.assert_close(divided, run(none), rtol=0, atol=1e-12)
    with normed.hooks(fwd_hooks=patch(normed, none, scale, TOKENS)):
        undivided = run(normed)
    with none.hooks(fwd_hooks=rewrite_norm("blocks.0.norm_mlp", lambda x: x - x.mean(-1, keepdim=True))):
        torch.testing.assert_close(undivided, run(none), rtol=0, atol=1e-12)


def test_z_of_all_heads_is_the_attention_output_where_w_o_is_the_same() -> None:
    corrupted = build("pre")
    clean = changed(corrupted, blocks__0__attn__W_Q=noise, blocks__0__attn__W_V=noise)
    z = ("blocks.0.attn.hook_z",)
    sets = {
        "all": Component(z),
        "0 and 1": Component(z, (0, 1)),
        "out": Component(("blocks.0.hook_attn_out",)),
    }
    found = patching(clean, corrupted, TASK, SPLIT, sets)
    np.testing.assert_allclose(found["loss_recovered"], 1.0, atol=1e-12)
    one = patching(clean, corrupted, TASK, SPLIT, {"0": Component(z, (0,)), "none": Component(z, ())})
    assert (abs(one["loss_recovered"].sel(component="0") - 1) > 1e-3).all()
    assert (one["loss_recovered"].sel(component="none") == 0).all()


def test_residual_before_the_readout_is_all_where_the_readout_is_the_same() -> None:
    clean, model = build("M", final_norm="on"), build("off", seed=1, final_norm="on")
    same_readout = changed(model, unembed__W_U=lambda _: clean.W_U, ln_final__w=lambda _: clean.ln_final.w)
    same_readout = changed(same_readout, ln_final__b=lambda _: clean.ln_final.b)
    resid = {"resid": Component(("blocks.0.hook_resid_post",))}
    found = patching(clean, same_readout, TASK, SPLIT, resid)
    assert (found["loss_recovered"] == 1.0).all()
    assert (found["loss"].sel(component="resid") == found["clean_loss"]).all()
    own_readout = patching(clean, model, TASK, SPLIT, resid)
    assert (abs(own_readout["loss_recovered"] - 1) > 1e-3).all()


def test_recovered_by_hand() -> None:
    clean, corrupted = np.array([0.5, 2.0, 1.0, 0.0]), np.array([4.5, 2.0, 1.0 + SMALLEST_GAP / 2, 0.0])
    patched = np.array(
        [[2.5, 3.0, 1.0, 1.0], [4.5, 2.0, 2.0, 0.0], [0.5, 2.0, 1.0, 0.0], [-3.5, 0.0, 0.0, 0.0]]
    )
    found = recovered(patched, clean, corrupted)
    np.testing.assert_array_equal(found[:, 0], [0.5, 0.0, 1.0, 2.0])
    assert np.isnan(found[:, 1:]).all()
    just_enough = recovered(np.array([[1.0]]), np.array([1.0]), np.array([1 + 2 * SMALLEST_GAP]))
    np.testing.assert_allclose(just_enough, 1.0)
    assert np.isnan(recovered(np.array([[1.0]]), np.array([1.0]), np.array([np.inf]))).all()


def test_a_diverged_model_has_nothing_but_nan() -> None:
    diverged = changed(build("off"), embed__W_E=lambda x: x * np.nan)
    for models in ((diverged, build("M")), (build("M"), diverged)):
        found = patching(*models, TASK, SPLIT)
        assert all(variable.isnull().all() for variable in found.data_vars.values())


def test_models_are_left_as_they_were() -> None:
    clean, corrupted = build("M"), build("off")
    before = run(corrupted), run(clean)
    patching(clean, corrupted, TASK, SPLIT)
    hooks = patch(corrupted, clean, ["hook_embed"], TOKENS)
    torch.testing.assert_close((run(corrupted), run(clean)), before, rtol=0, atol=0)

    def spoil(activation: Tensor, hook: object) -> Tensor:
        return activation.zero_()

    with corrupted.hooks(fwd_hooks=hooks):
        once = run(corrupted)
    with corrupted.hooks(fwd_hooks=[*hooks, ("hook_embed", spoil)]):
        run(corrupted)
    with corrupted.hooks(fwd_hooks=hooks):
        assert run(corrupted).equal(once)


def test_gradients_flow_through_what_is_not_patched() -> None:
    model, donor = build("off"), build("M", seed=1)
    with model.hooks(fwd_hooks=patch(model, donor, ["blocks.0.attn.hook_pattern"], TOKENS)):
        model(TOKENS)[:, -1].sum().backward()
    assert model.blocks[0].attn.W_Q.grad is None or not model.blocks[0].attn.W_Q.grad.any()
    assert model.blocks[0].attn.W_V.grad.any()
    assert all(parameter.grad is None for parameter in donor.parameters())


def test_another_number_of_pairs_is_refused() -> None:
    model = build("off")
    hooks = patch(model, build("M"), ["hook_embed"], TOKENS)
    message = "hook_embed: the patch holds 49 pairs, the model is run on 5; run it on the tokens"
    with model.hooks(fwd_hooks=hooks), pytest.raises(ValueError, match=message):
        run(model, TOKENS[:5])


@pytest.mark.parametrize(
    ("names", "choice", "message"),
    [
        (["blocks.0.hook_z"], {}, "no hook point 'blocks.0.hook_z'; did you mean blocks.0.attn.hook_z?"),
        (["blocks.0.attn.hook_result"], {}, "'blocks.0.attn.hook_result' is never reached in the model"),
        ("hook_embed", {}, r"hook points are given as a list: \['hook_embed'\]"),
        (["blocks.0.attn.hook_z"], {"heads": [0, 2]}, r"heads \[2\] are not in 0..1"),
        (["blocks.0.attn.hook_pattern"], {"heads": [-1]}, r"heads \[-1\] are not in 0..1"),
        (["blocks.0.hook_attn_out"], {"heads": [0]}, "blocks.0.hook_attn_out has no heads to choose from"),
        (["hook_embed"], {"positions": [1, 3]}, r"positions of \(a, b, =\) \[3\] are not in 0..2"),
    ],
)
def test_what_cannot_be_patched_is_refused(names, choice: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patch(build("M"), build("off"), names, TOKENS, **choice)


@pytest.mark.parametrize(
    ("donor", "message"),
    [
        ({"d_model": 32}, "the donor has d_model = 32, the model 16"),
        ({"n_layers": 2}, "the donor has n_layers = 2, the model 1"),
        ({"n_heads": 4}, "the donor has n_heads = 4, the model 2"),
        ({"mlp_ratio": 2}, r"hook_post is \(3, 32\) for a pair in the donor, \(3, 64\) in the model"),
    ],
)
def test_a_donor_of_another_size_is_refused(donor: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patch(build("M"), build("off", **donor), ["blocks.0.mlp.hook_post"], TOKENS)


def test_a_donor_of_another_modulus_or_scale_is_refused() -> None:
    model = build("off")
    other = GrokTransformer(model.config, 11, dtype=torch.float64)
    with pytest.raises(ValueError, match="the donor has p = 11, the model 7"):
        patch(model, other, ["hook_embed"], TOKENS)
    with pytest.raises(ValueError, match="the task has p = 7, the corrupted model was built for p = 11"):
        patching(model, other, TASK, SPLIT)
    scaled = build("off", readout_scale=0.5, scale_in_loss=True)
    with pytest.raises(
        ValueError, match=r"multiplies the clean model's logits by 0.5, the corrupted one's by 1.0"
    ):
        patching(scaled, model, TASK, SPLIT)
    with pytest.raises(ValueError, match="no components to patch"):
        patching(model, model, TASK, SPLIT, {})
