import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_clock_model, stock_model
from oracles import clock_model, random_model

from mech_grok.config import ModelConfig
from mech_grok.model import GrokTransformer, adopt
from mech_grok.probes import find_probe, measure
from mech_grok.probes.attention import (
    head_average_entropy,
    head_participation,
    head_similarity,
    largest_entropy,
    mean_similarity,
    row_entropy,
    spectral_gap,
)
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import Needs
from mech_grok.probes.observation import run as run_pass
from mech_grok.task import Task

LN2, LN3 = math.log(2), math.log(3)
ABAB = [0, 1, 0, 1]


def one_hot_rows(keys):
    """[head, query, key]: each head looks at one key from every query."""
    return torch.eye(3)[torch.tensor(keys)][:, None].expand(-1, 3, -1)


def random_pattern(seed=0, n=6, heads=4, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(n, heads, 3, 3, generator=generator, dtype=torch.float64)).softmax(-1)


def attention_of(model, p=5, names=("attention",)):
    task = Task("add", p, 0.5)
    found = measure(adopt(model), task, task.split_indices(3), names)
    return found[names[0]] if len(names) == 1 else found


def look_nowhere(model):
    """The model with all attention scores 0."""
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.W_Q)
    return model


def test_uniform_attention_has_entropy_ln_3():
    pattern = torch.full((2, 4, 3, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(row_entropy(pattern), torch.full((2, 4, 3), LN3, dtype=torch.float64))
    torch.testing.assert_close(head_average_entropy(pattern), torch.full((2, 3), LN3, dtype=torch.float64))


def test_heads_on_different_tokens_are_sharp_alone_and_spread_together():
    pattern = one_hot_rows([0, 0, 1, 1])
    assert row_entropy(pattern).eq(0).all()
    assert head_average_entropy(pattern).tolist() == pytest.approx([LN2] * 3, abs=1e-15)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 30))
def test_entropy_is_bounded_and_averaging_heads_never_lowers_it(seed, sharpness):
    pattern = random_pattern(seed, sharpness=sharpness)
    each = row_entropy(pattern)
    assert each.min() >= 0
    assert each.max() <= LN3 + 1e-12
    assert (head_average_entropy(pattern) >= each.mean(1) - 1e-12).all()


def test_clock_looks_from_equals_at_a_with_two_heads_and_at_b_with_two():
    task = Task("add", 113, 0.7)
    seen = measure(clock_model(), task, task.split_indices(0), ["attention"])["attention"]
    rows = seen["pattern"].sel(layer=0, query="=").values
    assert rows.tolist() == one_hot_rows([0, 0, 1, 1])[:, 0].tolist()
    assert (seen["entropy_per_head"].sel(query="=") == 0).all()
    # Its rows of a and b are uniform, so the mean over rows is (ln 3 + ln 3 + ln 2) / 3.
    assert seen["entropy_headavg_allrows"].values == pytest.approx((2 * LN3 + LN2) / 3, abs=1e-12)
    assert seen["entropy_headavg_lastrow"].values == pytest.approx(LN2, abs=1e-12)
    assert (seen["attention_to_itself"] == 0).all()
    assert seen["head_similarity_lastrow"].values == pytest.approx(1 / 3, rel=1e-12)
    # Flattened: 2/3 from the uniform rows of a and b, and 1 or 0 from that of `=`; squared length 5/3.
    assert seen["head_similarity"].values == pytest.approx((2 + 4 * (2 / 3) / (5 / 3)) / 6, rel=1e-12)
    assert seen["head_entropy_spread"].values == pytest.approx(0, abs=1e-12)
    assert np.isnan(seen["head_participation"].values).all()


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


def test_uniform_causal_attention():
    seen = attention_of(look_nowhere(stock_model())).sel(layer=0)
    assert seen["entropy_per_head"].sel(split="all").values == pytest.approx(
        np.tile([0, LN2, LN3], (2, 1)), abs=1e-15
    )
    assert seen["entropy_headavg_allrows"].values == pytest.approx((LN2 + LN3) / 3, rel=1e-12)
    assert seen["entropy_headavg_allrows"].values == pytest.approx(0.597253, abs=5e-7)
    assert seen["entropy_headavg_lastrow"].values == pytest.approx(LN3, rel=1e-12)
    for name in ("entropy_per_head_normalised", "entropy_headavg_normalised"):
        assert np.isnan(seen[name].sel(query="a")).all()
        assert seen[name].sel(query=["b", "="]).values == pytest.approx(1, rel=1e-12)
    assert seen["attention_to_itself"].values == pytest.approx(1 / 3, rel=1e-12)


def test_masked_scores_are_nan_and_the_others_are_not():
    seen = attention_of(stock_model())
    masked = np.triu(np.ones((3, 3)), 1).astype(bool)
    assert (np.isnan(seen["attention_score"].values) == masked).all()
    assert seen["attention_score_std"].notnull().all()
    assert attention_of(random_model())["attention_score"].notnull().all()


def test_largest_entropy_counts_the_keys_that_are_not_masked():
    scores = torch.tensor([[1.0, -torch.inf, -torch.inf], [-1e30, 2.0, -torch.inf], [0.0, 0.0, 5.0]])
    assert largest_entropy(scores).tolist() == pytest.approx([math.nan, LN2, LN3], nan_ok=True)


def test_heads_that_are_all_alike():
    similarity = head_similarity(torch.full((7, 4, 3, 3), 1 / 3))
    assert mean_similarity(similarity) == pytest.approx(1, abs=1e-14)
    assert spectral_gap(similarity) == pytest.approx(4, abs=1e-14)


def test_heads_on_a_b_a_b_are_a_third_alike():
    similarity = head_similarity(one_hot_rows(ABAB).expand(5, -1, -1, -1))
    assert mean_similarity(similarity) == pytest.approx(1 / 3, abs=1e-15)
    assert spectral_gap(similarity) == pytest.approx(0, abs=1e-14)  # eigenvalues 2, 2, 0, 0


def test_three_heads_alike_and_one_apart():
    similarity = head_similarity(one_hot_rows([0, 0, 0, 2]).expand(5, -1, -1, -1))
    assert spectral_gap(similarity) == pytest.approx(2, abs=1e-14)  # eigenvalues 3, 1, 0, 0


def test_participation_is_0_for_heads_that_vary_together_and_1_for_heads_that_vary_apart():
    base = torch.full((4, 3, 3, 3), 1 / 3, dtype=torch.float64)
    signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=torch.float64)
    move = torch.tensor([0.1, -0.1, 0.0], dtype=torch.float64)
    apart = base + signs.T[:, :, None, None] * move
    together = base + signs[0][:, None, None, None] * torch.tensor([1.0, 2, -0.5])[:, None, None] * move
    assert head_participation(apart) == pytest.approx(1, abs=1e-12)
    assert head_participation(together) == pytest.approx(0, abs=1e-12)
    still = apart.clone()
    still[:, 2] = 1 / 3
    assert head_participation(still) == pytest.approx((2 - 1) / (3 - 1), abs=1e-12)


def test_participation_of_rounding_noise_is_nan():
    noise = 1e-7 * torch.randn(50, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert math.isnan(head_participation(1 / 3 + noise))
    assert 0 < head_participation(1 / 3 + 100 * noise) <= 1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0.1, 20))
def test_likeness_knows_neither_the_order_of_pairs_nor_that_of_heads(seed, heads, sharpness):
    pattern = random_pattern(seed, heads=heads, sharpness=sharpness)
    generator = torch.Generator().manual_seed(seed)
    pairs, order = (torch.randperm(n, generator=generator) for n in (len(pattern), heads))
    permuted = pattern[pairs][:, order]

    def all_of(x):
        similarity = head_similarity(x)
        return mean_similarity(similarity), spectral_gap(similarity), head_participation(x)

    assert all_of(permuted) == pytest.approx(all_of(pattern), rel=1e-9, abs=1e-12)
    similar, gap, participation = all_of(pattern)
    assert 0 <= similar <= 1 + 1e-12
    assert -1e-12 <= gap <= heads + 1e-12
    assert -1e-12 <= participation <= 1 + 1e-12


def test_likeness_against_loops():
    pattern = random_pattern(heads=3).numpy()
    heads = pattern.shape[1]
    cosines, covariance = [], np.zeros((heads, heads))
    for i in range(heads):
        for j in range(i):
            x, y = pattern[:, i].ravel(), pattern[:, j].ravel()
            cosines.append(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)))
    for query in range(3):
        for key in range(3):
            covariance += np.cov(pattern[:, :, query, key], rowvar=False)
    alpha = np.linalg.eigvalsh(covariance)
    effective = alpha.sum() ** 2 / (alpha**2).sum()
    similarity = head_similarity(torch.as_tensor(pattern))
    assert mean_similarity(similarity) == pytest.approx(np.mean(cosines), rel=1e-12)
    assert head_participation(torch.as_tensor(pattern)) == pytest.approx((effective - 1) / 2, rel=1e-12)


def test_every_quantity_against_numpy_on_two_layers():
    task = Task("add", 5, 0.5)
    split = task.split_indices(3)
    model = random_model(n_layers=2)
    seen = attention_of(model)
    _, cache = model.run_with_cache(torch.as_tensor(task.tokens(task.pairs())))
    for layer in range(2):
        pattern = cache["pattern", layer].numpy(force=True)
        scores = cache["attn_scores", layer].numpy(force=True)
        here = seen.sel(layer=layer)
        entropy = -(pattern * np.log(pattern)).sum(-1)
        mean_head = pattern.mean(1)
        headavg = -(mean_head * np.log(mean_head)).sum(-1)
        expected = {
            "pattern": pattern.mean(0),
            "attention_score": scores.mean(0),
            "attention_score_std": scores[:, :, 2].std(0),
            "head_entropy_spread": entropy.mean((0, 2)).std(),
            "head_similarity_lastrow": mean_similarity(head_similarity(torch.as_tensor(pattern[:, :, 2]))),
            "head_similarity": mean_similarity(head_similarity(torch.as_tensor(pattern))),
            "head_spectral_gap": spectral_gap(head_similarity(torch.as_tensor(pattern))),
            "head_participation": head_participation(torch.as_tensor(pattern)),
        }
        for name, value in expected.items():
            assert here[name].values == pytest.approx(value, rel=1e-10), name
        for name, index in {**split, "all": slice(None)}.items():
            of_split = here.sel(split=name)
            assert of_split["attention_to_itself"] == pytest.approx(pattern[index][:, :, 2, 2].mean())
            assert of_split["entropy_headavg_lastrow"] == pytest.approx(headavg[index][:, 2].mean())
            assert of_split["entropy_headavg_allrows"] == pytest.approx(headavg[index].mean())
            assert of_split["entropy_headavg_normalised"].values == pytest.approx(
                headavg[index].mean(0) / LN3
            )
            assert of_split["entropy_per_head_normalised"].values == pytest.approx(
                entropy[index].mean(0) / LN3
            )


def test_one_head_is_like_no_other():
    seen = attention_of(random_model(n_heads=1))
    of_heads = [name for name in seen if name.startswith("head_")]
    assert len(of_heads) == 5
    assert all(np.isnan(seen[name].values).all() for name in of_heads)
    assert seen["entropy_per_head"].notnull().all()


def test_scores_that_overflow_give_nan_and_not_the_zeros_of_the_library():
    model = random_model(dtype=torch.float32)
    torch.nn.init.constant_(model.blocks[0].attn.W_Q, 3e38)
    both = attention_of(model, names=("attention", "attention_map"))
    for name in ("pattern", "entropy_per_head", "head_similarity", "head_spectral_gap"):
        assert both["attention"][name].isnull().any(), name
    assert np.isnan(both["attention_map"]["attention_map"]).any()


def test_a_split_without_pairs_is_nan():
    task = Task("add", 3, 0.5)
    split = {"train": np.array([4]), "test": np.empty(0, dtype=np.int64)}
    seen = measure(random_model(p=3), task, split, ["attention"])["attention"]
    for name in ("entropy_per_head", "entropy_headavg_normalised", "attention_to_itself"):
        assert seen[name].sel(split="test").isnull().all()
        assert seen[name].sel(split="train").notnull().all()


@pytest.mark.parametrize("p", [2, 3, 5])
def test_map_against_a_loop_over_pairs(p):
    model = random_model(p=p, n_layers=2)
    seen = attention_of(model, p, ("attention_map",))
    assert seen["attention_map"].dtype == np.float32
    for layer in range(2):
        for a in range(p):
            for b in range(p):
                _, cache = model.run_with_cache(torch.tensor([[a, b, p]]))
                expected = cache["pattern", layer][0, :, 2].numpy(force=True)
                actual = seen["attention_map"].sel(layer=layer, a=a, b=b).values
                assert actual == pytest.approx(expected, rel=1e-6)


def test_map_by_a_and_by_b():
    model = random_model()
    both = attention_of(model, names=("attention_map", "attention"))
    seen = both["attention_map"]
    weights = seen["attention_map"].astype(np.float64)
    assert seen["attention_by_a"].values == pytest.approx(weights.mean("b").values, abs=1e-7)
    assert seen["attention_by_b"].values == pytest.approx(weights.mean("a").values, abs=1e-7)
    last_row = both["attention"]["pattern"].sel(query="=")
    assert seen["attention_by_a"].mean("a").values == pytest.approx(last_row.values, rel=1e-12)
    assert seen["attention_by_b"].mean("b").values == pytest.approx(last_row.values, rel=1e-12)


def test_map_of_a_causal_clock():
    seen = attention_of(stock_clock_model(), 113, ("attention_map",))["attention_map"]
    keys = torch.eye(3)[torch.tensor([0, 0, 1, 1])].numpy()[None, :, :, None, None]
    assert (seen.values == keys).all()


@pytest.mark.parametrize("placement", ["off", "pre", "mlp-inpnorm"])
def test_the_shared_pass_still_drops_positions_a_and_b(placement):
    model = random_model(placement=placement)
    probes = [find_probe(name) for name in ("attention", "attention_map", "pathway_scale")]
    needs = needs_of(probes, model)
    widths = []

    def note(activation, hook):
        widths.append(activation.shape[1])

    run_pass(model, torch.tensor([[0, 1, 5]]), needs, hooks=[("blocks.0.mlp.hook_pre", note)])
    run_pass(
        model,
        torch.tensor([[0, 1, 5]]),
        Needs(lengths=["blocks.0.norm_mlp.hook_in"]),
        hooks=[("blocks.0.mlp.hook_pre", note)],
    )
    assert widths == [1, 3]  # the second shows that the first could fail
