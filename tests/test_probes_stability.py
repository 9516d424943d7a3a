import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracle_circuits import stock_model
from oracles import random_model

from mech_grok import probe
from mech_grok.probes import measure
from mech_grok.probes.stability import answer_margin, collapsed, top2_margin
from mech_grok.task import Task

CERTAIN = {torch.float32: 22.0, torch.float64: 43.0}
"""A lead from which on 112 equal competitors vanish, in whatever order they are added."""
IMPOSSIBLE = {torch.float32: 16.6, torch.float64: 36.7}
"""A lead up to which not even one does."""

logits_of_four = arrays(np.float64, (6, 4), elements=st.floats(-50, 50))


def leading_by(gap, competitors=112):
    return torch.tensor([[gap, *[0.0] * competitors]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", CERTAIN)
@pytest.mark.parametrize("competitors", [1, 5, 112, 113])
def test_collapse_by_lead(dtype, competitors):
    for gap in (CERTAIN[dtype], 100.0, 1e4):
        assert collapsed(leading_by(gap, competitors), 1.0, dtype).item() == 1
    for gap in (IMPOSSIBLE[dtype], 3.0, 0.0):
        assert collapsed(leading_by(gap, competitors), 1.0, dtype).item() == 0


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
def test_one_competitor_vanishes_at_half_the_resolution(dtype, bits):
    """1 + e^-g rounds to 1 from e^-g = 2^-bits on."""
    threshold = bits * math.log(2)
    assert threshold == pytest.approx({24: 16.636, 53: 36.737}[bits], abs=1e-3)
    for gap, expected in ((threshold - 0.001, 0), (threshold + 0.001, 1)):
        assert collapsed(leading_by(gap, 1), 1.0, dtype).item() == expected


def test_the_loss_scale_counts():
    assert collapsed(leading_by(10.0), 2.5, torch.float32).item() == 1
    assert collapsed(leading_by(100.0), 0.1, torch.float32).item() == 0


@given(logits_of_four, st.sampled_from([-8.0, 4.0, 16.0]))
def test_invariance_to_shifts_and_permutations(logits, shift):
    # Of quarters, so that the shifted logits are exact.
    z = (torch.as_tensor(logits) * 4).round() / 4
    for other in (z + shift, z.flip(-1)):
        assert torch.equal(top2_margin(other), top2_margin(z))
    for dtype in CERTAIN:
        assert torch.equal(collapsed(z + shift, 1.0, dtype), collapsed(z, 1.0, dtype))


@settings(deadline=None)
@given(logits_of_four, st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_margins_by_hand(logits, answers):
    top2, right = (
        top2_margin(torch.as_tensor(logits)),
        answer_margin(torch.as_tensor(logits), torch.tensor(answers)),
    )
    for row, answer, seen_top2, seen_right in zip(logits.tolist(), answers, top2, right, strict=True):
        *_, second, first = sorted(row)
        assert seen_top2 == first - second
        assert seen_right == row[answer] - max(x for i, x in enumerate(row) if i != answer)


@pytest.mark.parametrize(
    ("row", "expected"), [([3.0, 3.0, 1.0], 0.0), ([3.0, 1.0, 2.0], 1.0), ([1.0, 1.0, 1.0], 0.0)]
)
def test_ties(row, expected):
    assert top2_margin(torch.tensor([row])).item() == expected
    assert answer_margin(torch.tensor([row]), torch.tensor([0])).item() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_is_not_collapsed_but_nan(bad):
    assert collapsed(torch.tensor([[bad, 0.0, 0.0]]), 1.0, torch.float32).isnan().all()
    # A scale that float32 cannot hold.
    assert collapsed(torch.tensor([[1e30, 0.0]]), 1e10, torch.float32).isnan().all()


@given(logits_of_four, st.floats(1, 20))
def test_a_loss_is_0_where_the_softmax_collapses_onto_the_answer(logits, scale):
    """Against torch's own log-softmax, on single competitors: with more, the order of summation differs."""
    z = torch.as_tensor(logits)[:, :2].contiguous()
    for dtype in CERTAIN:
        losses = -(scale * z.to(dtype)).log_softmax(-1)[:, 0]
        zero = collapsed(z, scale, dtype) * (answer_margin(z, torch.zeros(6, dtype=torch.long)) >= 0)
        assert torch.equal(losses == 0, zero.bool())


def with_logits(model, factor):
    with torch.no_grad():
        model.unembed.W_U *= factor
    return model


@pytest.mark.parametrize("factor", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("settings", [{}, {"readout_scale": 0.5, "scale_in_loss": True}], ids=["", "scaled"])
def test_the_probe_by_loops(factor, settings):
    task = Task("add", 5, 0.6)
    split = task.split_indices(0)
    model = with_logits(random_model(dtype=torch.float32, **settings), factor)
    seen = measure(model, task, split, ["stability"])["stability"]
    pairs, answers = task.pairs(), task.answers(task.pairs())
    with torch.no_grad():
        logits = model(torch.as_tensor(task.tokens(pairs)))[:, -1].numpy()
    for name, index in {**split, "all": np.arange(25)}.items():
        rows, right = logits[index], answers[index]
        collapse, zero, margins, top2 = [], [], [], []
        for row, answer in zip(rows, right, strict=True):
            z = np.float64(model.unembed.loss_scale) * row.astype(np.float64)
            collapse.append(1 + sum(np.sort(np.exp(z - z.max()))[:-1]) == 1)
            zero.append(collapse[-1] and row.argmax() == answer)
            margins.append(z[answer] - np.delete(z, answer).max())
            top2.append(np.sort(z)[-1] - np.sort(z)[-2])
        at = seen.sel(split=name)
        assert float(at["softmax_collapse_float64"]) == pytest.approx(np.mean(collapse))
        assert float(at["zero_loss_float64"]) == pytest.approx(np.mean(zero))
        assert float(at["answer_margin"]) == pytest.approx(np.mean(margins), rel=1e-5)
        assert float(at["answer_margin_min"]) == pytest.approx(np.min(margins), rel=1e-5)
        assert float(at["top2_margin"]) == pytest.approx(np.mean(top2), rel=1e-5)
        assert float(at["top2_margin_min"]) == pytest.approx(np.min(top2), rel=1e-4, abs=1e-6)
        assert float(at["largest_logit"]) == pytest.approx(
            model.unembed.loss_scale * np.abs(rows).max(), rel=1e-6
        )


def test_float32_collapses_first():
    """Logits of around a hundred: some have collapsed in float32, fewer in float64, and not all rightly."""
    task = Task("add", 5, 0.6)
    seen = measure(with_logits(random_model(), 24.0), task, task.split_indices(0), ["stability"])["stability"]
    at = {name: float(seen[name].sel(split="all")) for name in seen.data_vars}
    assert 0 < at["softmax_collapse_float64"] < at["softmax_collapse"] < 1
    assert 0 < at["zero_loss"] < at["softmax_collapse"]


def test_empty_and_single_splits():
    model = stock_model(d_vocab=4, d_vocab_out=3)
    tokens = torch.tensor([[a, b, 3] for a in range(3) for b in range(3)])
    seen = probe(model, "stability", tokens_train=tokens[:1])
    assert all(np.isfinite(seen[name].sel(split=["all", "train"])).all() for name in seen.data_vars)
    assert all(np.isnan(seen[name].sel(split="test")) for name in seen.data_vars)
    assert float(seen["answer_margin"].sel(split="train")) == float(
        seen["answer_margin_min"].sel(split="train")
    )


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_logits_that_overflow_are_nan(bad):
    """Finite weights whose product is not."""
    task = Task("add", 5, 0.6)
    model = random_model(dtype=torch.float32)
    with torch.no_grad():
        model.unembed.b_U[0] = math.copysign(3e38, bad)
        model.unembed.W_U[:, 0] *= 3e38 / model.unembed.W_U[:, 0].abs().max()
    seen = measure(model, task, task.split_indices(0), ["stability"])["stability"]
    assert all(np.isnan(seen[name].sel(split="all")) for name in seen.data_vars)


def test_constant_logits():
    model = stock_model(d_vocab=3, d_vocab_out=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    tokens = torch.tensor([[a, b, 2] for a in range(2) for b in range(2)])
    seen = probe(model, "stability", tokens_train=tokens[:3], tokens_test=tokens[3:])
    assert all((seen[name].values == 0).all() for name in seen.data_vars)
