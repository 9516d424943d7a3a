"""Weights of the paper's code: recorded runs, and every variant against an independent forward pass."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_model import DEFAULTS, LN_TYPES, parameter_shapes, random_parameters, reference_logits
from safetensors.torch import load_file

from mech_grok.model import GrokTransformer, import_reference
from mech_grok.model.norm_sites import numeric_eps, pathway_sites, residual_sites
from mech_grok.model.reference import reference_model_config
from mech_grok.task import Task
from mech_grok.training.loss import score

DATA = Path(__file__).parent / "data"
STEPS = [(path.parent.name, int(path.stem.removeprefix("step_"))) for path in sorted(DATA.glob("*/step_*"))]
PRE = DEFAULTS | {"ln_type": "pre", "final_ln": "on"}
ONE_UNREAD_GAIN = ("attn-pre", "attn-pre-qk", "attn-pre-v", "mlp-pre")


@cache
def record(run: str) -> dict[str, Any]:
    return json.loads((DATA / run / "record.json").read_text())


def recorded_model(run: str, step: int) -> GrokTransformer:
    state = load_file(DATA / run / f"step_{step:06}.safetensors")
    return import_reference(state, record(run)["meta"]["model"])


def tokens_of(task: Task) -> torch.Tensor:
    return torch.from_numpy(task.tokens(task.pairs()))


@pytest.mark.parametrize(("run", "step"), STEPS)
def test_losses_and_accuracies_of_the_recorded_steps(run: str, step: int):
    meta, expected = record(run)["meta"], record(run)["probes"][str(step)]
    task = Task("add", meta["P"], 0.7)
    answers = torch.from_numpy(task.answers(task.pairs()))
    model = recorded_model(run, step)
    with torch.no_grad():
        logits = torch.cat([model(tokens)[:, -1] for tokens in tokens_of(task).split(1024)])
    for split, indices in task.split_indices(meta["data_seed"]).items():
        loss, accuracy = score(logits[indices], answers[indices])
        recorded = expected[f"{split}/loss"]
        assert loss.item() == pytest.approx(recorded, abs=1e-5 * max(1, abs(recorded)))
        n_right, recorded_accuracy = accuracy.item() * len(indices), expected[f"{split}/accuracy"]
        assert n_right == pytest.approx(recorded_accuracy * len(indices), abs=0.01), "the same number of hits"


@pytest.mark.parametrize(("run", "step"), STEPS)
def test_weight_norms_of_the_recorded_steps(run: str, step: int):
    model = recorded_model(run, step)
    squared = sum(p.detach().double().square().sum().item() for p in model.trained_parameters().values())
    if model.config.placement.specifier in ONE_UNREAD_GAIN:
        # The reference also counts a gain of ones that nothing reads and that is never updated.
        squared += model.config.n_layers * model.config.d_model
    assert squared**0.5 == pytest.approx(record(run)["probes"][str(step)]["weight_norm"], rel=1e-6)


def assert_same_logits(**fields: Any) -> None:
    cfg = DEFAULTS | fields
    state = random_parameters(cfg)
    task = Task("add", cfg["P"], 0.5)
    with torch.no_grad():
        ours = import_reference(state, cfg)(tokens_of(task))[:, -1]
    torch.testing.assert_close(ours, reference_logits(state, cfg, tokens_of(task)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("ln_type", LN_TYPES)
@pytest.mark.parametrize("ln_fn", ["og", "rms"])
def test_logits_of_every_placement(ln_type: str, ln_fn: str):
    assert_same_logits(ln_type=ln_type, ln_fn=ln_fn)
    assert_same_logits(ln_type=ln_type, ln_fn=ln_fn, n_layers=3, n_heads=4)


@given(
    st.fixed_dictionaries(
        {
            "ln_type": st.sampled_from(LN_TYPES),
            "ln_fn": st.sampled_from(["og", "rms"]),
            "mlp_type": st.sampled_from(["ff", "glu"]),
            "mlp_act": st.sampled_from(["relu", "gelu", "silu"]),
            "mlp_r": st.sampled_from([1, 4]),
            "final_ln": st.sampled_from(["off", "on", "center_only"]),
            "unembed": st.sampled_from(["separate", "tied"]),
            "output_scaling": st.sampled_from([1.0, 0.25]),
            "use_softmax_temp": st.booleans(),
            "n_layers": st.sampled_from([1, 3]),
            "n_heads": st.sampled_from([1, 2, 4]),
        }
    )
)
@settings(max_examples=40, deadline=None)
def test_logits_of_every_combination_of_options(fields: dict[str, Any]):
    assert_same_logits(**fields)


def eps_of(ln_type: str, ln_fn: str, dtype: torch.dtype) -> dict[str, float]:
    """Key of each affine -> epsilon, 0 where it is too small to change a sum."""
    config = reference_model_config(DEFAULTS | {"ln_type": ln_type, "ln_fn": ln_fn})
    sites = {**pathway_sites(config), **residual_sites(config)}
    found = {s.affine: numeric_eps(s, dtype) for s in sites.values() if s.affine}
    return {affine: 0.0 if eps == torch.finfo(dtype).tiny else eps for affine, eps in found.items()}


@pytest.mark.parametrize(
    ("ln_fn", "dtype", "late"),
    [
        ("og", torch.float32, 1e-5),
        ("og", torch.float64, 1e-5),
        ("rms", torch.float32, 2**-23),
        ("rms", torch.float64, 2**-52),
    ],
)
def test_epsilons_are_those_of_the_reference(ln_fn: str, dtype: torch.dtype, late: float):
    assert eps_of("pre", ln_fn, dtype) == {"ln1": 0.0, "ln2": 0.0}
    assert eps_of("post", ln_fn, dtype) == {"ln1": 0.0, "ln2": 0.0}
    # The reference's ln1, ln2, ln3, ln4, under TransformerLens' names for norms on inputs and outputs.
    assert eps_of("peri", ln_fn, dtype) == {"ln1": 0.0, "ln1_post": 0.0, "ln2": late, "ln2_post": late}


@pytest.mark.parametrize("ln_fn", ["og", "rms"])
def test_the_late_epsilon_is_read(ln_fn: str):
    # MLP outputs around 1e-4 make the eps of ln4 matter: without it the logits differ by far more than 1e-10.
    cfg = DEFAULTS | {"ln_type": "peri", "ln_fn": ln_fn}
    state = {k: v * 1e-4 if "fc2" in k else v for k, v in random_parameters(cfg).items()}
    tokens = tokens_of(Task("add", cfg["P"], 0.5))
    with torch.no_grad():
        ours = import_reference(state, cfg)(tokens)[:, -1]
    torch.testing.assert_close(ours, reference_logits(state, cfg, tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", list(parameter_shapes(PRE)))
def test_a_missing_parameter_is_named(name: str):
    state = random_parameters(PRE)
    del state[name]
    with pytest.raises(ValueError, match=f"no parameter '{name}'"):
        import_reference(state, PRE)


@pytest.mark.parametrize("name", list(parameter_shapes(PRE)))
@pytest.mark.parametrize("change", ["longer", "one dimension more"])
def test_a_parameter_of_the_wrong_shape_is_named(name: str, change: str):
    state = random_parameters(PRE)
    state[name] = torch.cat([state[name]] * 2) if change == "longer" else state[name][None]
    with pytest.raises(ValueError, match=name):
        import_reference(state, PRE)


@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        ({}, "layers.0.ln1.weight"),
        ({}, "layers.1.attn.in_proj_weight"),
        ({"ln_type": "pre"}, "layers.0.ln3.weight"),
        ({"ln_type": "mlp-pre"}, "layers.0.ln4.weight"),
        ({"ln_type": "mlp-pre", "ln_fn": "rms"}, "layers.0.ln1.bias"),
        ({"ln_type": "mlp-pre", "ln_fn": "rms"}, "layers.0.ln2.bias"),
        ({"unembed": "tied"}, "unembed.weight"),
        ({}, "final_ln.weight"),
        ({}, "layers.0.mlp.fc3.weight"),
        ({}, "layers.0.attn.in_proj_bias"),
    ],
)
def test_a_parameter_that_the_variant_does_not_have_is_named(fields: dict[str, Any], extra: str):
    cfg = DEFAULTS | fields
    state = random_parameters(cfg) | {extra: torch.ones(16, dtype=torch.float64)}
    with pytest.raises(ValueError, match=f"does not have: {extra}"):
        import_reference(state, cfg)


@pytest.mark.parametrize("fields", [{"ln_fn": "batch"}, {"ln_type": "sideways"}, {"mlp_act": "tanh"}])
def test_a_config_that_the_model_cannot_be_is_refused(fields: dict[str, Any]):
    (value,) = fields.values()
    cfg = DEFAULTS | fields
    with pytest.raises(ValueError, match=value):
        import_reference(random_parameters(DEFAULTS), cfg)


def test_a_config_without_a_needed_field_is_refused():
    cfg = {k: v for k, v in DEFAULTS.items() if k != "ln_type"}
    with pytest.raises(ValueError, match="ln_type"):
        import_reference(random_parameters(DEFAULTS), cfg)
