"""Bypassed and inserted norms against models of other placements, and the grid against the hooks."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.interventions import PATHWAY_SETS, ablate, bypass, grid, insert
from mech_grok.model import GrokTransformer
from mech_grok.placement import PATHWAYS, Placement, all_placements
from mech_grok.task import Task
from mech_grok.training.loss import score
from mech_grok.training.table_forward import table_logits

TASK = Task("add", 7, 0.5)
TOKENS = torch.from_numpy(TASK.tokens(TASK.pairs()))
SPLIT = TASK.split_indices(0)

pathway_sets = st.frozensets(st.sampled_from(PATHWAYS))
layer_sets = st.none() | st.frozensets(st.sampled_from([0, 1]))
placements = st.sampled_from(all_placements())
norms = st.sampled_from(["ln", "rms"])
some = settings(max_examples=20, deadline=None)


def build(placement: Placement, **fields) -> GrokTransformer:
    """A small float64 model whose gains are not 1 and whose biases are not 0."""
    config = ModelConfig.model_validate({"placement": placement, "d_model": 16, "n_heads": 2} | fields)
    model = GrokTransformer(config, TASK.p, seed=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in ("w", "b", "b_in", "b_out"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def with_weights_of(model: GrokTransformer, placement: Placement) -> GrokTransformer:
    """A model of another placement with the weights of `model`; affines it lacks stay gain 1 and bias 0."""
    config = model.config.model_copy(update={"placement": placement})
    other = GrokTransformer(config, TASK.p, dtype=torch.float64)
    own = other.state_dict()
    other.load_state_dict(own | {k: v for k, v in model.state_dict().items() if k in own})
    return other


@torch.no_grad()
def run(model: GrokTransformer, *hooks: list) -> Tensor:
    with model.hooks(fwd_hooks=[hook for part in hooks for hook in part]):
        return model(TOKENS)


def assert_equal(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@given(pathway_sets, pathway_sets, norms, st.sampled_from([1, 2]))
@some
def test_bypass_gives_the_model_of_the_remaining_pathways(normalised, chosen, norm: str, n_layers: int):
    model = build(Placement(normalised), norm=norm, n_layers=n_layers)
    other = with_weights_of(model, Placement(normalised - chosen))
    assert_equal(run(model, bypass(model, chosen)), run(other))


@given(pathway_sets, pathway_sets, norms, st.sampled_from([1, 2]))
@some
def test_insert_gives_the_model_of_all_these_pathways(normalised, chosen, norm: str, n_layers: int):
    model = build(Placement(normalised), norm=norm, n_layers=n_layers)
    other = with_weights_of(model, Placement(normalised | chosen))
    assert_equal(run(model, insert(model, chosen)), run(other))


def test_bypassing_every_norm_leaves_the_model_without_any():
    for placement in all_placements():
        if placement.arrangement in ("pre", "mlp-inpnorm"):
            model = build(placement)
            assert_equal(run(model, bypass(model, PATHWAYS)), run(with_weights_of(model, Placement.of())))


def test_a_norm_inserted_where_there_was_none_has_no_affine():
    model = build(Placement.of())
    assert_equal(run(model, insert(model, {"mlp"})), run(with_weights_of(model, Placement.of("mlp"))))


def test_an_inserted_norm_takes_the_layers_own_affine():
    model = build(Placement.of("q"))
    with torch.no_grad():
        hooks = insert(model, {"v"})
        with model.hooks(fwd_hooks=hooks):
            _, cache = model.run_with_cache(TOKENS)
    affine, x = model.blocks[0].ln1, cache["blocks.0.norm_v.hook_in"]
    expected = torch.nn.functional.layer_norm(x, (16,), affine.w, affine.b, 0.0)
    assert_equal(cache["blocks.0.norm_v.hook_out"], expected)


def test_with_separate_affines_an_inserted_norm_has_none():
    model = build(Placement.of("q"), shared_affine=False)
    with torch.no_grad(), model.hooks(fwd_hooks=insert(model, {"v"})):
        _, cache = model.run_with_cache(TOKENS)
    expected = torch.nn.functional.layer_norm(cache["blocks.0.norm_v.hook_in"], (16,), eps=0.0)
    assert_equal(cache["blocks.0.norm_v.hook_out"], expected)


@given(placements, norms, pathway_sets, layer_sets, st.sampled_from([bypass, insert]), st.booleans())
@some
def test_only_the_chosen_pathways_and_layers_change(
    placement: Placement, norm: str, pathways, layers, intervene: Callable, qk_norm: bool
):
    model = build(placement, norm=norm, n_layers=2, qk_norm=qk_norm)
    with torch.no_grad(), model.hooks(fwd_hooks=intervene(model, pathways, layers)):
        _, cache = model.run_with_cache(TOKENS)
    for layer in (0, 1):
        for pathway in PATHWAYS:
            norm_at = f"blocks.{layer}.norm_{pathway}"
            site = model.blocks[layer].get_submodule(f"norm_{pathway}").site
            bare = torch.equal(cache[f"{norm_at}.hook_out"], cache[f"{norm_at}.hook_in"])
            chosen = pathway in pathways and (layers is None or layer in layers)
            assert bare == ((site.kind is None) if not chosen else intervene is bypass)


@given(placements, norms, pathway_sets, layer_sets, st.sampled_from([bypass, insert]))
@some
def test_twice_is_once_and_gone_is_gone(
    placement: Placement, norm: str, pathways, layers, intervene: Callable
):
    model = build(placement, norm=norm, n_layers=2)
    before, config = copy.deepcopy(model.state_dict()), model.config
    plain = run(model)
    hooks = intervene(model, pathways, layers)
    once = run(model, hooks)
    assert torch.equal(run(model, hooks, intervene(model, pathways, layers)), once)
    assert torch.equal(run(model, hooks, hooks), once)
    assert torch.equal(run(model, hooks), once), "the same hooks serve any number of runs"
    assert torch.equal(run(model), plain)
    assert model.config == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if not hooks:
        assert torch.equal(once, plain)


@given(placements, pathway_sets)
@some
def test_what_is_in_that_state_already_is_left_alone(placement: Placement, pathways):
    model = build(placement)
    normalised = {"mlp"} if placement.arrangement == "mlp-inpnorm" else placement.pathways
    assert {name.split(".")[2] for name, _ in bypass(model, pathways)} == {
        f"norm_{x}" for x in pathways & normalised
    }
    assert {name.split(".")[2] for name, _ in insert(model, pathways)} == {
        f"norm_{x}" for x in pathways - normalised
    }


def test_gradients_flow_through_both():
    model = build(Placement.of("q", "k"))
    with model.hooks(fwd_hooks=[*bypass(model, {"q"}), *insert(model, {"mlp"})]):
        model(TOKENS).sum().backward()
    other = with_weights_of(model, Placement.of("k", "mlp"))
    other(TOKENS).sum().backward()
    torch.testing.assert_close(model.W_E.grad, other.W_E.grad)


@pytest.mark.parametrize("intervene", [bypass, insert])
def test_what_the_model_does_not_have_is_named(intervene: Callable):
    model = build(Placement.of("q"))
    with pytest.raises(ValueError, match=r"unknown pathways \['qk'\]; allowed: q, k, v, mlp"):
        intervene(model, {"q", "qk"})
    with pytest.raises(ValueError, match=r"layers \[1\] are not in 0..0"):
        intervene(model, {"q"}, layers=[0, 1])


def scores_with(model: GrokTransformer, hooks: list) -> np.ndarray:
    """Loss and accuracy on train and test, [split, 2], of the hooked model."""
    logits, answers = run(model, hooks)[:, -1], torch.from_numpy(TASK.answers(TASK.pairs()))
    scale = model.config.readout_scale if model.config.scale_in_loss else 1.0
    return np.array([[x.item() for x in score(logits[i], answers[i], scale)] for i in SPLIT.values()])


VARIANTS = [
    *((p, {}) for p in all_placements()),
    *((Placement.parse(p), {"norm": "rms", "n_layers": 2}) for p in ("kv", "peri", "post", "mlp-inpnorm")),
    *((Placement.parse(p), {"shared_affine": False, "qk_norm": True}) for p in ("qv", "off", "post")),
    (Placement.of("k"), {"final_norm": "on", "tied_unembed": True}),
    (Placement.of("v", "mlp"), {"readout_scale": 0.5, "scale_in_loss": True}),
]


@pytest.mark.parametrize(("placement", "fields"), VARIANTS, ids=[" ".join([str(p), *f]) for p, f in VARIANTS])
def test_the_grid_is_what_the_hooks_give(placement: Placement, fields: dict):
    model = build(placement, **fields)
    scores, untouched = ablate(model, TASK, SPLIT), scores_with(model, [])
    for intervene in (bypass, insert):
        for name, pathways in PATHWAY_SETS.items():
            hooks = intervene(model, pathways)
            expected = scores_with(model, hooks) - untouched if hooks else np.full((2, 2), np.nan)
            cell = scores.sel(intervention=intervene.__name__, pathways=name)
            measured = np.stack([cell.loss_change, cell.accuracy_change], axis=-1)
            np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-12)


def test_the_grids_untouched_scores_and_labels():
    model = build(Placement.of("v", "mlp"))
    scores = ablate(model, TASK, SPLIT)
    assert scores.sizes == {"intervention": 2, "pathways": 7, "split": 2}
    assert scores["pathways"].values.tolist() == ["q", "k", "v", "mlp", "q+k", "q+k+v", "q+k+v+mlp"]
    assert all("+".join(x for x in PATHWAYS if x in s) == name for name, s in PATHWAY_SETS.items())
    assert scores["intervention"].values.tolist() == ["bypass", "insert"]
    assert (
        scores["loss_change"].dims == scores["accuracy_change"].dims == ("intervention", "pathways", "split")
    )
    assert {a.attrs["units"] for a in scores.data_vars.values()} == {"nats", "1"}
    assert all({"long_name", "definition"} <= set(a.attrs) for a in scores.data_vars.values())
    answers = torch.from_numpy(TASK.answers(TASK.pairs()))
    for split, indices in SPLIT.items():
        loss, accuracy = score(run(model)[indices, -1], answers[indices])
        assert scores["loss"].sel(split=split).item() == pytest.approx(loss.item(), abs=1e-12)
        assert scores["accuracy"].sel(split=split).item() == accuracy.item()


def test_an_intervention_that_applies_to_nothing_is_nan():
    def empty(scores: xr.Dataset, intervention: str) -> list[str]:
        nan = scores["loss_change"].sel(intervention=intervention).isnull().all("split")
        return scores["pathways"].values[nan.values].tolist()

    scores = ablate(build(Placement.of("v", "mlp")), TASK, SPLIT)
    assert empty(scores, "bypass") == ["q", "k", "q+k"]
    assert empty(scores, "insert") == ["v", "mlp"]
    assert empty(ablate(build(Placement.of()), TASK, SPLIT), "bypass") == list(PATHWAY_SETS)
    assert empty(ablate(build(Placement.parse("peri")), TASK, SPLIT), "insert") == list(PATHWAY_SETS)


def test_the_grid_leaves_the_model_as_it_was():
    model = build(Placement.of("k"))
    before = copy.deepcopy(model.state_dict())
    ablate(model, TASK, SPLIT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_grid_refuses_a_task_of_another_modulus():
    with pytest.raises(ValueError, match="the task has p = 5, the model was built for p = 7"):
        ablate(build(Placement.of()), Task("add", 5, 0.5), {"train": np.arange(3)})


@pytest.mark.parametrize(
    ("placement", "n_models"), [("off", 8), ("pre", 8), ("mlp-pre", 7), ("pre-v", 7), ("post", 8)]
)
def test_the_grid_runs_each_distinct_model_once(
    placement: str, n_models: int, monkeypatch: pytest.MonkeyPatch
):
    n_pairs = []

    def counted(parameters, pairs: Tensor, config: ModelConfig) -> Tensor:
        n_pairs.append(pairs.shape[1])
        return table_logits(parameters, pairs, config)

    monkeypatch.setattr(grid, "fast_logits", counted)
    ablate(build(Placement.parse(placement)), TASK, SPLIT)
    assert sum(n_pairs) == n_models * TASK.p**2


@pytest.mark.parametrize("chunk", [1, 5, 10_000])
def test_the_grid_does_not_depend_on_how_pairs_are_chunked(chunk: int, monkeypatch: pytest.MonkeyPatch):
    model = build(Placement.of("v", "mlp"))
    expected = ablate(model, TASK, SPLIT)
    monkeypatch.setattr(grid, "_CHUNK", chunk)
    xr.testing.assert_allclose(ablate(model, TASK, SPLIT), expected, rtol=0, atol=1e-12)
