"""The ablation grid against full passes with the hooks attached, against the probes, and by hand."""

import copy
import math

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import clock_loss, clock_model, random_model
from small_models import P, build
from torch.nn.functional import softmax

from mech_grok.config import ModelConfig
from mech_grok.interventions import (
    PATHWAY_SETS,
    ablate,
    affine_only,
    bypass,
    freeze_scale,
    insert,
    mean,
    passes,
    resample,
    scale,
    temperature,
    unit,
    zero,
)
from mech_grok.interventions.changes import INTERVENTIONS, Change, change_of, scaling_of, sharpening
from mech_grok.interventions.grid import FACTORS, donors_of
from mech_grok.interventions.pass_scores import MEASURES
from mech_grok.model import GrokTransformer
from mech_grok.placement import Placement
from mech_grok.probes import Anchors, late_pass, measure
from mech_grok.task import Task
from mech_grok.training.loss import correct, cross_entropy

TASK = Task("add", P, 0.5)
SPLIT = TASK.split_indices(0)
TOKENS = torch.from_numpy(TASK.tokens(TASK.pairs()))
ANSWERS = torch.from_numpy(TASK.answers(TASK.pairs()))
KEYS = Anchors(key_frequencies=(1, 3))
TRAIN = TOKENS[SPLIT["train"]]
DONORS = TOKENS[donors_of({name: torch.from_numpy(index) for name, index in SPLIT.items()}, P**2)]

HOOKS = {
    "bypass": bypass,
    "insert": insert,
    "unit": unit,
    "affine_only": affine_only,
    "freeze_scale": lambda model, pathways: freeze_scale(model, pathways, TRAIN),
    "zero": zero,
    "mean": lambda model, pathways: mean(model, pathways, TRAIN),
    "resample": lambda model, pathways: resample(model, pathways, DONORS),
}


@torch.no_grad()
def examined(model, hooks):
    """All measures of a full forward pass with hooks, [measure, split], with none of the grid's code."""
    kept = [f"blocks.{x}.attn.hook_pattern" for x in range(model.cfg.n_layers)] + ["unembed.hook_in"]
    with model.hooks(fwd_hooks=list(hooks)):
        logits, cache = model.run_with_cache(TOKENS, names_filter=kept)
    logits, patterns = (
        logits[:, -1],
        [cache[f"blocks.{x}.attn.hook_pattern"] for x in range(model.cfg.n_layers)],
    )
    rows = torch.stack(patterns)[..., -1, :].numpy()
    rows = np.where(rows.sum(-1, keepdims=True) > 0, rows, np.nan)  # overflowed: TransformerLens' zeros
    per_pair = -(rows * np.log(np.where(rows == 0, 1.0, rows))).sum(-1).mean(axis=(0, 2))
    losses = cross_entropy(logits, ANSWERS, model.config.loss_scale).numpy()
    right = correct(logits, ANSWERS).double().numpy()
    restricted, excluded = with_and_without_keys(logits[:, :P].numpy() * model.config.loss_scale)
    features = cache["unembed.hook_in"][:, -1].numpy()
    columns = []
    for index in SPLIT.values():
        means = [x[index].mean() for x in (losses, right, per_pair, restricted, excluded)]
        columns.append([*means, effective_rank(features[index])])
    return np.array(columns).T


def effective_rank(features):
    if not np.isfinite(features).all():
        return math.nan
    power = np.linalg.svd(features, compute_uv=False) ** 2
    shares = power[power > 1e-24 * power.sum()] / power.sum()
    return math.exp(-(shares * np.log(shares)).sum())


def with_and_without_keys(logits):
    """Losses [pair] of the logits on cos and sin w_k (a + b) of the key frequencies, and without them."""
    angle = 2 * np.pi * np.array(KEYS.key_frequencies)[:, None] * ANSWERS.numpy() / P
    directions = np.concatenate([np.cos(angle), np.sin(angle)])
    kept = directions.T @ (directions @ logits) / (P**2 / 2)
    restricted, excluded = kept + logits.mean(0), logits - kept
    return (nats(restricted), nats(excluded))


def nats(logits):
    lead = logits - logits[np.arange(len(logits)), ANSWERS.numpy()][:, None]
    return np.log(np.exp(lead).sum(1))


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def hooks_or_none(model, intervention, pathways):
    """None where the intervention does nothing by its definition, from the placement alone."""
    normed = {"mlp"} if str(model.config.placement) == "mlp-inpnorm" else model.config.placement.pathways
    with_affine = model.config.placement.pathways
    applies = {"insert": set("qkv") | {"mlp"}, "affine_only": with_affine}
    places = {"bypass": normed, "freeze_scale": normed, "affine_only": with_affine}.get(intervention)
    if intervention == "insert":
        places = applies["insert"] - normed
    if places is not None and not pathways & places:
        return None
    return HOOKS[intervention](model, pathways)


VARIANTS = [
    ("off", {}),
    ("pre", {"qk_norm": True, "final_norm": "on", "tied_unembed": True}),
    ("peri", {"norm": "rms"}),
    ("kv", {"n_layers": 2, "shared_affine": False}),
]
WIDE = [
    ("pre", {}),
    ("v+mlp", {"norm": "rms"}),
    ("off", {"attention_factor": ((0.3, 2.0),)}),
    ("mlp-inpnorm", {"readout_scale": 0.5, "scale_in_loss": True, "activation": "swiglu"}),
    *(
        (placement, fields)
        for placement in ("off", "q", "kv", "qkv+mlp", "mlp", "post", "peri", "mlp-inpnorm")
        for fields in ({"n_layers": 2}, {"qk_norm": True}, {"norm": "rms", "shared_affine": False})
    ),
]
CASES = [*VARIANTS, *(pytest.param(*x, marks=pytest.mark.slow) for x in WIDE)]


@pytest.mark.parametrize(("placement", "fields"), CASES)
def test_the_grid_is_what_the_hooks_give(placement, fields):
    model = build(placement, **fields)
    scores = ablate(model, TASK, SPLIT, KEYS)
    untouched = examined(model, [])
    assert_close(np.stack([scores[x] for x in MEASURES]), untouched)
    for intervention in INTERVENTIONS:
        for name, pathways in PATHWAY_SETS.items():
            hooks = hooks_or_none(model, intervention, pathways)
            expected = np.full((6, 2), np.nan) if hooks is None else examined(model, hooks) - untouched
            assert hooks is None or np.isfinite(expected).all()
            cell = scores.sel(intervention=intervention, pathways=name)
            assert_close(np.stack([cell[f"{x}_change"] for x in MEASURES]), expected)
    check_factors(model, scores, untouched)


def check_factors(model, scores, untouched):
    for factor in FACTORS:
        sharpened = scores.sel(factor=factor)
        changed = [sharpened[f"temperature_{x}_change"] for x in ("loss", "accuracy", "entropy")]
        assert_close(np.stack(changed), (examined(model, temperature(model, factor)) - untouched)[:3])
        for name, pathways in PATHWAY_SETS.items():
            cell = sharpened.sel(pathways=name)
            expected = examined(model, scale(model, pathways, factor)) - untouched
            assert_close(np.stack([cell.scale_loss_change, cell.scale_accuracy_change]), expected[:2])
    for name in ("scale_loss_change", "scale_accuracy_change", "temperature_entropy_change"):
        assert not scores[name].sel(factor=1.0).values.any()


def test_a_norm_without_epsilon_undoes_a_factor_to_the_last_bit():
    scores = ablate(build("qkv+mlp", norm="rms"), TASK, SPLIT, KEYS)
    assert not scores["scale_loss_change"].values.any()
    with_epsilon = ablate(build("peri"), TASK, SPLIT, KEYS)["scale_loss_change"].sel(
        pathways="mlp", factor=0.125
    )
    assert with_epsilon.values.all()


@pytest.mark.parametrize("placement", ["off", "pre"])
def test_untouched_measures_are_those_of_the_probes(placement):
    model = random_model(P, placement=placement)
    found = measure(model, TASK, SPLIT, ["shortcut", "progress", "compressibility", "attention"], KEYS)
    scores = ablate(model, TASK, SPLIT, KEYS)
    expected = {
        "loss": found["shortcut"]["loss"],
        "accuracy": found["shortcut"]["accuracy"],
        "attention_entropy": found["attention"]["entropy_per_head"].sel(query="=").mean(["layer", "head"]),
        "restricted_loss": found["progress"]["restricted_loss"],
        "excluded_loss": found["progress"]["excluded_loss"],
        "effective_rank": found["compressibility"]["effective_rank"],
    }
    for name, of_probe in expected.items():
        assert scores[name].values == pytest.approx(of_probe.sel(split=["train", "test"]).values, rel=1e-10)


def test_interactions_are_joint_changes_less_the_sum_of_single_ones():
    scores = ablate(build("v+mlp"), TASK, SPLIT, KEYS)
    for name in MEASURES:
        change, interaction = scores[f"{name}_change"], scores[f"{name}_interaction"]
        of = {
            (i, x): change.sel(intervention=i, pathways=x).values for i in INTERVENTIONS for x in PATHWAY_SETS
        }
        by_hand = {
            ("zero", "q+k"): of["zero", "q+k"] - of["zero", "q"] - of["zero", "k"],
            ("bypass", "q+k+v"): 0 * of["bypass", "v"],  # only v has a norm
            ("bypass", "q+k+v+mlp"): of["bypass", "q+k+v+mlp"] - of["bypass", "v"] - of["bypass", "mlp"],
            ("insert", "q+k+v+mlp"): of["insert", "q+k"] - of["insert", "q"] - of["insert", "k"],
            ("unit", "q+k+v"): of["unit", "q+k+v"] - of["unit", "q"] - of["unit", "k"] - of["unit", "v"],
        }
        for (intervention, pathways), expected in by_hand.items():
            found = interaction.sel(intervention=intervention, pathways=pathways)
            np.testing.assert_allclose(found, expected, atol=1e-12)
        assert interaction.sel(pathways=["q", "k", "v", "mlp"]).isnull().all()
        assert interaction.sel(intervention="bypass", pathways="q+k").isnull().all()
    assert abs(scores["loss_interaction"].sel(intervention="unit", pathways="q+k+v+mlp")).min() > 1e-6


def test_what_applies_to_nothing_is_nan():
    def empty(scores, intervention):
        nan = scores["loss_change"].sel(intervention=intervention).isnull().all("split")
        return scores["pathways"].values[nan.values].tolist()

    scores = ablate(build("v+mlp"), TASK, SPLIT)
    for intervention in ("bypass", "freeze_scale", "affine_only"):
        assert empty(scores, intervention) == ["q", "k", "q+k"]
    assert empty(scores, "insert") == ["v", "mlp"]
    for intervention in ("unit", "zero", "mean", "resample"):
        assert empty(scores, intervention) == []
    bare = ablate(build("off"), TASK, SPLIT)
    for intervention in ("bypass", "freeze_scale", "affine_only"):
        assert empty(bare, intervention) == list(PATHWAY_SETS)
    unit_input = ablate(build("mlp-inpnorm"), TASK, SPLIT)
    assert empty(unit_input, "affine_only") == list(PATHWAY_SETS)
    assert empty(unit_input, "bypass") == ["q", "k", "v", "q+k", "q+k+v"]
    assert empty(ablate(build("peri"), TASK, SPLIT), "insert") == list(PATHWAY_SETS)


def test_without_key_frequencies_only_their_losses_are_nan():
    model = build("mlp-pre")
    scores = ablate(model, TASK, SPLIT, Anchors(key_frequencies=()))
    division = Task("multiply", P, 0.5)
    others = ablate(model, division, division.split_indices(0), KEYS)
    for found in (scores, others):
        for name in MEASURES:
            missing = name in ("restricted_loss", "excluded_loss")
            assert found[name].isnull().all() == missing
            of_unit = found[f"{name}_change"].sel(intervention="unit")
            assert of_unit.isnull().all() == missing
            assert of_unit.isnull().any() == missing


@pytest.mark.slow
def test_key_frequencies_are_those_of_the_model_if_no_other_is_given():
    task = Task("add", 113, 0.7)
    everything = {"train": np.arange(113**2), "test": task.split_indices(0)["test"]}
    scores = ablate(clock_model(), task, everything)
    assert scores["loss"].values == pytest.approx(clock_loss(), rel=1e-8)
    # All that the clock knows is on its key frequencies: without them it guesses.
    assert scores["restricted_loss"].values == pytest.approx(clock_loss(), rel=0.05)
    assert scores["excluded_loss"].values == pytest.approx(math.log(113), rel=1e-10)
    change = scores["loss_change"]
    assert change.sel(intervention="unit", pathways="mlp").values == pytest.approx(
        clock_loss(shrunk_by=11) - clock_loss(), rel=1e-8
    )
    of_values = scores["scale_loss_change"].sel(pathways="v", factor=0.5).values
    assert of_values == pytest.approx(clock_loss(shrunk_by=4) - clock_loss(), rel=1e-6)
    # Heads look at one token each, however sharply.
    assert np.abs(scores["temperature_loss_change"].values).max() < 1e-12


def test_donors_are_a_fixed_permutation_of_each_split():
    split = {name: torch.from_numpy(index) for name, index in SPLIT.items()}
    donors = donors_of(split, P**2)
    assert torch.equal(donors, donors_of(split, P**2))
    for index in split.values():
        assert sorted(donors[index].tolist()) == sorted(index.tolist())
        assert (donors[index] != index).any()


def test_labels():
    scores = ablate(build("v+mlp"), TASK, SPLIT)
    assert scores.sizes == {"intervention": 8, "pathways": 7, "split": 2, "factor": 7}
    assert scores["intervention"].values.tolist() == [
        *("bypass", "insert", "unit", "freeze_scale", "affine_only", "zero", "mean", "resample")
    ]
    assert scores["pathways"].values.tolist() == ["q", "k", "v", "mlp", "q+k", "q+k+v", "q+k+v+mlp"]
    assert scores["split"].values.tolist() == ["train", "test"]
    assert scores["factor"].values.tolist() == [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    grid = ("intervention", "pathways", "split")
    dims = {x + suffix: grid for x in MEASURES for suffix in ("_change", "_interaction")}
    dims |= dict.fromkeys(MEASURES, ("split",))
    dims |= {f"scale_{x}_change": ("pathways", "factor", "split") for x in ("loss", "accuracy")}
    dims |= {f"temperature_{x}_change": ("factor", "split") for x in ("loss", "accuracy", "entropy")}
    assert {name: array.dims for name, array in scores.data_vars.items()} == dims
    assert all(array.attrs["units"] in ("nats", "1") for array in scores.data_vars.values())
    assert all(array.attrs["long_name"] and array.attrs["definition"] for array in scores.data_vars.values())
    assert "seed 0" in scores["loss_change"].attrs["definition"]


def test_a_diverged_model_is_nan_throughout():
    model = build("pre")
    healthy = ablate(model, TASK, SPLIT)
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] = math.nan
    scores = ablate(model, TASK, SPLIT)
    assert all(array.isnull().all() for array in scores.data_vars.values())
    assert {n: (a.dims, a.attrs) for n, a in scores.items()} == {
        n: (a.dims, a.attrs) for n, a in healthy.items()
    }


@pytest.mark.parametrize("placement", ["off", "pre", "peri"])
def test_weights_that_overflow_do_not_crash(placement):
    model = GrokTransformer(ModelConfig(placement=Placement.parse(placement), d_model=16, n_heads=2), P)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    scores = ablate(model, TASK, SPLIT)
    assert not np.isposinf(scores["accuracy"].values).any()


def test_the_grid_repeats_itself_and_leaves_the_model_as_it_was():
    model = build("pre")
    before = copy.deepcopy(model.state_dict())
    xr.testing.assert_identical(ablate(model, TASK, SPLIT), ablate(model, TASK, SPLIT))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_grid_refuses_a_task_of_another_modulus():
    with pytest.raises(ValueError, match="the task has p = 5, the model was built for p = 7"):
        ablate(build("off"), Task("add", 5, 0.5), {"train": np.arange(3), "test": np.arange(3)})


@pytest.mark.parametrize(
    ("placement", "in_full", "quick"), [("off", 30, 34), ("pre", 42, 6), ("mlp-pre", 31, 22)]
)
def test_each_distinct_pass_is_run_once(placement, in_full, quick, monkeypatch):
    model, run = build(placement), []
    original = passes._read_on

    def counted(subject, edits, attended, untouched):
        run.append((edits, id(attended)))
        return original(subject, edits, attended, untouched)

    monkeypatch.setattr(passes, "_read_on", counted)
    ablate(model, TASK, SPLIT)
    config = model.config
    cells = {change_of(config, i, x) for i in INTERVENTIONS for x in PATHWAY_SETS.values()} - {None}
    factors = {scaling_of(config, x, f) for x in PATHWAY_SETS.values() for f in FACTORS}
    factors |= {sharpening(f) for f in FACTORS}
    assert (len(cells | {Change()}), len(factors - cells - {Change()})) == (in_full, quick)
    assert len(run) == in_full + quick


def test_the_grid_does_not_depend_on_how_pairs_are_chunked(monkeypatch):
    model = build("v+mlp")
    expected = ablate(model, TASK, SPLIT, KEYS)
    monkeypatch.setattr(passes, "_PAIRS", 5)
    monkeypatch.setattr(late_pass, "_PAIRS", 9)
    xr.testing.assert_allclose(ablate(model, TASK, SPLIT, KEYS), expected, rtol=0, atol=1e-12)


def test_an_entropy_by_hand():
    model = build("off", n_heads=1)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    rows = softmax(2 * cache["blocks.0.attn.hook_attn_scores"][:, 0, -1], dim=-1)
    entropy = torch.special.entr(rows).sum(-1).numpy()
    scores = ablate(model, TASK, SPLIT)
    sharper = scores["attention_entropy"] + scores["temperature_entropy_change"].sel(factor=2.0)
    for name, index in SPLIT.items():
        assert sharper.sel(split=name).item() == pytest.approx(entropy[index].mean(), rel=1e-12)
