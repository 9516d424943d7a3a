import json
import math

import pytest
import torch
import torch.nn.functional as F
from oracles import clock_model, random_model
from recordings import DATA, NAMES, load
from reference_model import DEFAULTS, random_parameters
from torch import nn

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.model import import_reference
from mech_grok.probes import measure
from mech_grok.probes.reference_entropy import reference_attention_entropy
from mech_grok.task import Task
from mech_grok.train_stage import train_cell

LN2, LN3 = math.log(2), math.log(3)
STEPS = [(name, step) for name in NAMES for step in sorted(load(name).probes)]
NORMED = {
    "off": "",
    "mlp-pre": "",
    "attn-pre": "qkv",
    "pre": "qkv",
    "attn-pre-qk": "qk",
    "attn-pre-v": "v",
    "pre-v": "v",
}
"""Inputs that the first norm of a layer is applied to."""


@torch.no_grad()
def by_torch(state, cfg, tokens, eps):
    """The entropy by torch's own attention, on the reference's weights, layer after layer."""
    x = state["embed.weight"][tokens] + state["pos_emb"]
    for layer in range(cfg["n_layers"]):
        own = {k.removeprefix(f"layers.{layer}."): v for k, v in state.items() if f"layers.{layer}." in k}
        attention = nn.MultiheadAttention(
            cfg["d_model"], cfg["n_heads"], bias=False, batch_first=True, dtype=x.dtype
        )
        attention.in_proj_weight.copy_(own["attn.in_proj_weight"])
        attention.out_proj.weight.copy_(own["attn.out_proj.weight"])
        inputs = [normed(x, own, cfg) if i in NORMED[cfg["ln_type"]] else x for i in "qkv"]
        _, weights = attention(*inputs, need_weights=True)
    clamped = weights.clamp(eps)
    return (-clamped * clamped.log()).sum(-1).mean().item()


def normed(x, own, cfg):
    gain = own["ln1.weight"]
    if cfg["ln_fn"] == "rms":
        return F.rms_norm(x, gain.shape, gain)
    return F.layer_norm(x, gain.shape, gain, own["ln1.bias"], 0.0)


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_on_the_recordings(name, step):
    recording = load(name)
    state, fields = recording.weights(step), recording.meta["model"]
    task = Task("add", recording.meta["P"], 0.7)
    split = task.split_indices(recording.meta["data_seed"])
    model = import_reference(state, fields)
    for part in ("train", "test"):
        tokens = torch.as_tensor(task.tokens(task.pairs()[split[part]]))
        ours = reference_attention_entropy(model, tokens)
        assert ours == pytest.approx(by_torch(state, fields, tokens, 1e-12), rel=1e-6)
        recorded = json.loads((DATA / name / "record.json").read_text())["probes"][str(step)]
        assert ours == pytest.approx(recorded[f"{part}/entropy"][0]["entropy_of_head_mean"], abs=2e-6)


@pytest.mark.parametrize("ln_fn", ["og", "rms"])
@pytest.mark.parametrize("ln_type", NORMED)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_against_torch_in_float64(ln_type, ln_fn, n_layers):
    cfg = {**DEFAULTS, "ln_type": ln_type, "ln_fn": ln_fn, "n_layers": n_layers}
    state = random_parameters(cfg)
    tokens = torch.tensor([[a, b, 7] for a in range(7) for b in range(7)])
    for eps in (1e-12, 0.2):
        actual = reference_attention_entropy(import_reference(state, cfg), tokens, eps)
        assert actual == pytest.approx(by_torch(state, cfg, tokens, eps), rel=1e-12)


def headavg_allrows(model, p=5):
    task = Task("add", p, 0.5)
    seen = measure(model, task, task.split_indices(0), ["attention"])["attention"]
    return seen["entropy_headavg_allrows"].sel(split="all").values, torch.as_tensor(task.tokens(task.pairs()))


@pytest.mark.parametrize("placement", ["k", "q+mlp", "qv", "kv+mlp", "pre"])
def test_one_layer_agrees_with_the_probe_for_unnamed_placements_too(placement):
    model = random_model(placement=placement)
    (expected,), tokens = headavg_allrows(model)
    assert reference_attention_entropy(model, tokens, 1e-300) == pytest.approx(expected, rel=1e-12)


def test_two_layers_do_not_because_the_second_reads_the_embeddings():
    model = random_model(placement="pre", n_layers=2)
    expected, tokens = headavg_allrows(model)
    assert reference_attention_entropy(model, tokens) != pytest.approx(expected[1], rel=1e-3)


def test_clamped_weights_count():
    tokens = torch.tensor([[3, 8, 113], [0, 112, 113]])
    rows = 2 * LN3 + LN2  # of a and b, and of `=`, where a and b have half the weight each
    model = clock_model()
    assert reference_attention_entropy(model, tokens) == pytest.approx(rows / 3, abs=1e-10)
    expected = (rows + 0.01 * math.log(100)) / 3
    assert reference_attention_entropy(model, tokens, eps=0.01) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("placement", ["post", "peri", "mlp-inpnorm"])
def test_arrangements_without_a_branch_are_refused(placement):
    with pytest.raises(UserError, match=rf"no branch for '{placement}' and fails there"):
        reference_attention_entropy(random_model(placement=placement), torch.tensor([[0, 1, 5]]))


def test_the_model_is_left_as_it_was():
    model = random_model(placement="pre")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    reference_attention_entropy(model, torch.tensor([[0, 1, 5]]))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_from_a_run(tmp_path):
    config = CellConfig.model_validate(
        {
            "task": {"p": 5},
            "model": {"placement": "A*", "d_model": 8, "n_heads": 2},
            "training": {"steps": 2, "seeds": [3, 1], "checkpoint_every": 1},
        }
    )
    run = train_cell(tmp_path / "cell", config, resume=False, command="")
    entropy = reference_attention_entropy(run.model(1, 2), run.tokens("train", 1))
    seen = measure(run.model(1, 2), run.config.task.task, run.split(1), ["attention"])["attention"]
    assert entropy == pytest.approx(
        float(seen["entropy_headavg_allrows"].sel(split="train", layer=0)), rel=1e-5
    )
