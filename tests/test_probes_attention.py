import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import clock_model, random_model

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer
from mech_grok.probes import measure
from mech_grok.probes.attention import head_average_entropy, row_entropy
from mech_grok.task import Task

LN2, LN3 = math.log(2), math.log(3)


def one_hot_rows(keys):
    """[head, query, key]: each head looks at one key from every query."""
    return torch.eye(3)[torch.tensor(keys)][:, None].expand(-1, 3, -1)


def test_uniform_attention_has_entropy_ln_3():
    pattern = torch.full((2, 4, 3, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(row_entropy(pattern), torch.full((2, 4, 3), LN3, dtype=torch.float64))
    torch.testing.assert_close(head_average_entropy(pattern), torch.full((2,), LN3, dtype=torch.float64))


def test_heads_on_different_tokens_are_sharp_alone_and_spread_together():
    pattern = one_hot_rows([0, 0, 1, 1])
    assert row_entropy(pattern).eq(0).all()
    assert head_average_entropy(pattern).item() == pytest.approx(LN2, abs=1e-15)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 30))
def test_entropy_is_bounded_and_averaging_heads_never_lowers_it(seed, sharpness):
    scores = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pattern = (sharpness * scores).softmax(-1)
    each = row_entropy(pattern)
    assert each.min() >= 0
    assert each.max() <= LN3 + 1e-12
    assert (head_average_entropy(pattern) >= each.mean((1, 2)) - 1e-12).all()


def test_clock_looks_from_equals_at_a_with_two_heads_and_at_b_with_two():
    task = Task("add", 113, 0.7)
    seen = measure(clock_model(), task, task.split_indices(0), ["attention"])["attention"]
    rows = seen["pattern"].sel(layer=0, query="=").values
    assert rows.tolist() == one_hot_rows([0, 0, 1, 1])[:, 0].tolist()
    assert (seen["entropy_per_head"].sel(query="=") == 0).all()
    # Its rows of a and b are uniform, so the mean over rows is (ln 3 + ln 3 + ln 2) / 3.
    assert seen["entropy_headavg_allrows"].values == pytest.approx((2 * LN3 + LN2) / 3, abs=1e-12)


def test_split_means_are_those_of_the_split():
    task = Task("add", 5, 0.6)
    split = task.split_indices(3)
    model = random_model(n_layers=2)
    seen = measure(model, task, split, ["attention"])["attention"]
    _, cache = model.run_with_cache(torch.as_tensor(task.tokens(task.pairs())))
    for layer in range(2):
        entropy = row_entropy(cache[f"blocks.{layer}.attn.hook_pattern"])
        for name, index in split.items():
            expected = entropy[torch.as_tensor(index)].mean(0).numpy(force=True)
            actual = seen["entropy_per_head"].sel(split=name, layer=layer)
            assert actual.values == pytest.approx(expected, abs=1e-12)
        assert seen["entropy_per_head"].sel(split="all", layer=layer).values == pytest.approx(
            entropy.mean(0).numpy(force=True), abs=1e-12
        )


def test_untrained_attention_is_uniform():
    task = Task("add", 113, 0.7)
    model = GrokTransformer(ModelConfig(), 113, seed=1)
    seen = measure(model, task, task.split_indices(1), ["attention"])["attention"]
    assert seen["entropy_per_head"].values == pytest.approx(LN3, abs=1e-3)
    assert seen["pattern"].values == pytest.approx(1 / 3, abs=0.02)
    assert seen["pattern"].sum("key").values == pytest.approx(1, abs=1e-6)
