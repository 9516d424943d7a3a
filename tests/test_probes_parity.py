"""The probes against what the paper's own code measured on the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from mech_grok.model import import_reference
from mech_grok.probes import PROBES, measure
from mech_grok.task import Task

DATA = Path(__file__).parent / "data"
CHECKPOINTS = [
    (run, step)
    for run, steps in {
        "p23_off": (0, 100, 200, 300),
        "p23_pre": (0, 100, 200, 300),
        "p23_attn-pre-qk": (0, 100, 200, 300),
        "p113_off": (0, 200),
    }.items()
    for step in steps
]


@pytest.fixture(params=CHECKPOINTS, ids=lambda x: f"{x[0]}-{x[1]}", scope="module")
def checkpoint(request):
    """What this project measures, and what the reference recorded, at one checkpoint."""
    run, step = request.param
    record = json.loads((DATA / run / "record.json").read_text())
    model = import_reference(load_file(DATA / run / f"step_{step:06d}.safetensors"), record["meta"]["model"])
    task = Task("add", record["meta"]["P"], 0.7)
    split = task.split_indices(record["meta"]["data_seed"])
    assert task.tokens(task.pairs())[split["train"]][:8].tolist() == record["meta"]["first_train_pairs"]
    return measure(model, task, split, list(PROBES)), record["probes"][str(step)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_entropy(checkpoint, split):
    seen, recorded = checkpoint
    (entropy,) = recorded[f"{split}/entropy"]
    ours = seen["attention"].sel(split=split, layer=0)
    # The recorded weights were clamped from below, in float32.
    assert float(ours["entropy_headavg_allrows"]) == pytest.approx(entropy["entropy_of_head_mean"], abs=2e-6)
    expected = np.array(entropy["entropy_per_head_query"])
    assert ours["entropy_per_head"].transpose("head", "query").values == pytest.approx(expected, abs=2e-6)


def test_c_fourier(checkpoint):
    seen, recorded = checkpoint
    assert float(seen["fourier"]["c_fourier"]) == pytest.approx(recorded["fourier/col_energy"], rel=1e-6)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("ours", "theirs"), [("", ""), ("sr_", "spec_")])
def test_loss_and_accuracy_before_and_after_the_switch(checkpoint, split, ours, theirs):
    seen, recorded = checkpoint
    here, there = ("_reference_switch", "_official") if ours else ("", "")
    scores = seen["shortcut"].sel(split=split)
    loss, accuracy = (float(scores[f"{ours}{x}{here}"]) for x in ("loss", "accuracy"))
    assert loss == pytest.approx(recorded[f"{split}/{theirs}loss{there}"], rel=2e-5)
    assert accuracy == pytest.approx(recorded[f"{split}/{theirs}accuracy{there}"], abs=1e-6)


@pytest.mark.parametrize("split", ["train", "test"])
def test_effective_rank_is_theirs_less_the_noise_of_float32(checkpoint, split):
    seen, recorded = checkpoint
    ours = float(seen["compressibility"]["effective_rank"].sel(split=split))
    assert ours == pytest.approx(recorded[f"{split}/compress"]["effective_rank"], rel=0.05)
