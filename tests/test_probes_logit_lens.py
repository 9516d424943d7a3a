import math

import numpy as np
import pytest
import torch
from oracle_circuits import stock_model
from oracles import PLACEMENTS, clock_loss, clock_model, random_model

from mech_grok.model import adopt
from mech_grok.probes import measure
from mech_grok.task import Task
from mech_grok.training.loss import score

P = 5
TASK = Task("add", P, 0.6)
SPLIT = TASK.split_indices(0)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))
ANSWERS = torch.as_tensor(TASK.answers(TASK.pairs()))


def lens(model, task=TASK, split=SPLIT):
    return measure(model, task, split, ["logit_lens"])["logit_lens"]


def assert_read(seen, read_from, logits, scale=1.0):
    here = seen.sel(read_from=read_from)
    for name, index in {"all": np.arange(P * P), **SPLIT}.items():
        expected = score(logits[torch.as_tensor(index)], ANSWERS[torch.as_tensor(index)], scale)
        found = here["logit_lens_loss"].sel(split=name).item()
        assert found == pytest.approx(expected.loss.item(), rel=1e-10)
        assert here["logit_lens_accuracy"].sel(split=name).item() == pytest.approx(expected.accuracy.item())


def stream_norm(x, norm):
    """A norm spelled out, without its hook points."""
    if norm is None:
        return x
    if norm.site.kind == "ln":
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + norm.site.eps).sqrt() * norm.w
    return x if norm.b is None else x + norm.b


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_every_point_is_read_by_the_same_unembedding(placement, n_layers):
    model = random_model(
        P,
        placement=placement,
        n_layers=n_layers,
        final_norm="on",
        readout_scale=3.0,
        scale_in_loss=n_layers > 1,
    )
    seen = lens(model)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    names = [f"{layer}_{at}" for layer in range(n_layers) for at in ("pre", "mid")]
    assert seen["read_from"].values.tolist() == [*names, "final_post"]
    points = {x: f"blocks.{x[0]}.hook_resid_{x[2:]}" for x in names}
    points["final_post"] = f"blocks.{n_layers - 1}.hook_resid_post"
    for read_from, point in points.items():
        with torch.no_grad():
            logits = stream_norm(cache[point][:, -1], model.unembed.final_norm) @ model.W_U
        assert_read(seen, read_from, logits * 3)


@pytest.mark.parametrize("kind", [None, "LN", "RMS", "LNPre"])
@pytest.mark.parametrize("d_vocab_out", [P, P + 1])
def test_agrees_with_transformer_lens(kind, d_vocab_out):
    model = stock_model(n_layers=2, normalization_type=kind, d_vocab_out=d_vocab_out)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        _, cache = model.run_with_cache(TOKENS)
        stack, labels = cache.accumulated_resid(
            incl_mid=True, apply_ln=True, pos_slice=-1, return_labels=True
        )
        logits = stack @ model.W_U + model.b_U
    seen = lens(adopt(model))
    assert seen["read_from"].values.tolist() == labels
    for label, read in zip(labels, logits, strict=True):
        assert_read(seen, label, read)


def test_the_last_point_is_the_model():
    model = random_model(P, placement="peri", n_layers=2, final_norm="on")
    found = measure(model, TASK, SPLIT, ["logit_lens", "shortcut"])
    last = found["logit_lens"].sel(read_from="final_post")
    assert last["logit_lens_loss"].values.tolist() == found["shortcut"]["loss"].values.tolist()
    assert last["logit_lens_accuracy"].values.tolist() == found["shortcut"]["accuracy"].values.tolist()


@pytest.mark.parametrize("placement", ["off", "pre", "post"])
def test_the_first_point_knows_nothing_of_a_and_b(placement):
    """All answers are as frequent: no constant guess is better than uniform over the p answers."""
    start = lens(random_model(P, placement=placement)).sel(read_from="0_pre", split="all")
    assert start["logit_lens_loss"].item() > math.log(P)
    assert start["logit_lens_accuracy"].item() in (0, pytest.approx(1 / P))


def test_clock_is_unread_before_its_mlp():
    task = Task("add", 113, 0.7)
    seen = lens(clock_model(), task, task.split_indices(0))
    assert seen["logit_lens_loss"].sel(read_from=["0_pre", "0_mid"]).values == pytest.approx(math.log(114))
    assert seen["logit_lens_loss"].sel(read_from="final_post").values == pytest.approx(clock_loss(), rel=1e-8)
    assert seen["logit_lens_accuracy"].sel(read_from="final_post").values.tolist() == [1, 1, 1]


def test_empty_and_small_splits():
    split = {"train": np.empty(0, dtype=np.int64), "test": np.arange(3)}
    seen = lens(random_model(P, n_layers=2), split=split)
    assert seen.sel(split="train").isnull().all().to_array().all()
    assert seen.drop_sel(split="train").notnull().all().to_array().all()


@pytest.mark.parametrize("p", [2, 3])
def test_smallest_tasks(p):
    task = Task("add", p, 0.5)
    assert lens(random_model(p), task, task.split_indices(0)).notnull().all().to_array().all()
