"""`mech_grok.probe` on any model, and every registered probe on the models that are hardest to measure."""

import itertools
from functools import cache

import jaxtyping
import numpy as np
import pytest
import torch
import xarray as xr
from oracle_circuits import stock_model
from oracles import random_model

import mech_grok
from mech_grok.errors import UserError
from mech_grok.model import adopt
from mech_grok.probes import PROBES, Anchor, Anchors, measure
from mech_grok.probes.coordinates import SHARED, labels_of
from mech_grok.probes.measure import needs_of
from mech_grok.probes.observation import observe
from mech_grok.task import Task

P = 7
TASK = Task("add", P, 0.5)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))
QUICK = ["fourier", "compressibility", "shortcut", "attribution"]


def stock(p=P, classes=None, **settings):
    return stock_model(d_vocab=p + 1, d_vocab_out=classes or p, **settings)


# Models with nothing to find


@torch.no_grad()
def zeroed(model):
    for parameter in model.parameters():
        parameter.zero_()
    return model


@torch.no_grad()
def without(model, *names):
    """A model in which some parameters are zero."""
    for name in names:
        model.get_parameter(name).zero_()
    return model


NULL_MODELS = {
    "untrained": lambda p: adopt(stock(p)),
    "untrained-p+1-classes-float32": lambda p: adopt(stock(p, p + 1, dtype=torch.float32, n_layers=2)),
    "untrained-norm": lambda p: adopt(stock(p, normalization_type="LN", attention_dir="bidirectional")),
    "random-post-tied": lambda p: random_model(p, placement="post", tied_unembed=True, final_norm="on"),
    "random-peri-gated": lambda p: random_model(p, placement="peri", activation="swiglu", qk_norm=True),
}
DEGENERATE_MODELS = {
    "zero": lambda p: adopt(zeroed(stock(p))),
    "zero-norm": lambda p: zeroed(random_model(p, placement="pre", dtype=torch.float32)),  # 0 / 0
    "zero-embedding": lambda p: without(random_model(p), "embed.W_E"),
    "zero-mlp": lambda p: without(random_model(p), "blocks.0.mlp.W_in", "blocks.0.mlp.b_in"),
    "constant-logits": lambda p: without(random_model(p), "unembed.W_U"),
}
CASES = [
    *itertools.product(NULL_MODELS, [2, 3, 6, 9]),
    *itertools.product(DEGENERATE_MODELS, [2, 6]),
]


@cache
def null_model(kind, p):
    """Built once: every test finds that it is left as it was."""
    return (NULL_MODELS | DEGENERATE_MODELS)[kind](p)


ORDER = np.random.default_rng(0).permutation(P * P)
FEW = {
    "none": {"train": ORDER[:0], "test": ORDER[:0]},
    "no-test": {"train": ORDER, "test": ORDER[:0]},
    "one-and-three": {"train": ORDER[:1], "test": ORDER[1:4]},
}


def anchors_of(names, task, split, model, initial, frequencies=None):
    """A training that begins with `initial` and ends with the model."""

    def anchor(other):
        return Anchor(lambda: observe(other, task, split, needs_of([PROBES[n] for n in names], other)))

    return Anchors(anchor(initial), anchor(model), frequencies)


def measured(name, model, task, split, anchors=None):
    """What one probe finds, after a look at everything that holds of any model."""
    before = {key: x.clone() for key, x in model.state_dict().items()}
    gradients = [(x.requires_grad, x.grad) for x in model.parameters()]
    draws, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = measure(model, task, split, [name], anchors)[name]

    assert torch.equal(torch.get_rng_state(), draws), "a probe draws from a generator of its own"
    assert np.array_equal(np.random.get_state()[1], of_numpy), "a probe draws from a generator of its own"
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    assert [(x.requires_grad, x.grad) for x in model.parameters()] == gradients
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    assert list(found) == list(PROBES[name].quantities)
    for key, quantity in PROBES[name].quantities.items():
        assert found[key].dims == quantity.dims
        assert found[key].dtype == quantity.dtype
        assert not np.isinf(found[key]).any(), f"{key} is infinite"
    for dim in set(found.dims) & set(SHARED):
        assert found[dim].values.tolist() == list(labels_of(dim, model, task))
    return found


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, marks=[] if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, name in enumerate(PROBES)
        for j, case in enumerate(CASES)
    ],
)
def test_a_null_model_is_measured_without_a_crash_or_a_warning(name, case):
    kind, p = case
    task = Task("add", p, 0.5)
    measured(name, null_model(kind, p), task, task.split_indices(0))


@pytest.mark.parametrize("split", FEW)
@pytest.mark.parametrize("kind", ["untrained", "random-post-tied", "zero"])
@pytest.mark.parametrize("name", PROBES)
def test_splits_of_hardly_any_examples(name, kind, split):
    found = measured(name, null_model(kind, P), TASK, FEW[split])
    empty = [key for key, index in FEW[split].items() if not len(index)]
    for key, x in found.items():
        if "split" in x.dims:
            assert np.isnan(x.sel(split=empty)).all(), f"{key} of no examples is not nan"


@pytest.mark.parametrize("operation", ["subtract", "multiply", "and"])
@pytest.mark.parametrize("name", PROBES)
def test_other_operations(name, operation):
    task = Task(operation, P, 0.5)
    measured(name, null_model("untrained", P), task, task.split_indices(0))


@pytest.mark.parametrize("kind", NULL_MODELS)
@pytest.mark.parametrize("name", PROBES)
def test_nan_is_only_where_it_is_announced(name, kind):
    """With both splits, an untrained model, a final one and key frequencies, the rest must be numbers."""
    model, initial, split = null_model(kind, P), NULL_MODELS[kind](P), TASK.split_indices(0)
    with torch.no_grad():
        for parameter in initial.parameters():
            parameter.mul_(0.9)
    found = measured(name, model, TASK, split, anchors_of([name], TASK, split, model, initial, (1, 2)))
    for key, quantity in PROBES[name].quantities.items():
        if not quantity.nan:
            assert np.isfinite(found[key]).all(), f"{key} is nan and does not say when"


@pytest.mark.parametrize("name", PROBES)
def test_the_same_model_gives_the_same_numbers(name):
    model, split = random_model(P, placement="pre"), TASK.split_indices(0)
    xr.testing.assert_identical(
        measure(model, TASK, split, [name])[name], measure(model, TASK, split, [name])[name]
    )


@pytest.mark.parametrize("name", PROBES)
def test_the_order_of_examples_in_a_split_does_not_matter(name):
    """But for what keeps the rounding of the paper's own code."""
    model, split = random_model(P), TASK.split_indices(0)
    backwards = {key: index[::-1].copy() for key, index in split.items()}
    one, other = (measure(model, TASK, x, [name])[name] for x in (split, backwards))
    kept = [key for key in one if not key.endswith("_reference")]
    xr.testing.assert_allclose(one[kept], other[kept], rtol=1e-6, atol=1e-9)


def test_names_of_variables_are_unique_over_all_probes():
    names = [key for probe in PROBES.values() for key in probe.quantities]
    assert sorted(names) == sorted(set(names))
    assert not set(names) & set(SHARED)


# mech_grok.probe


@pytest.fixture(scope="module")
def everything():
    model = stock(attention_dir="causal", normalization_type="LN", n_layers=2)
    train, test = TOKENS[::2], TOKENS[1::2]
    return mech_grok.probe(model, tokens_train=train, tokens_test=test, key_frequencies=[2, 1])


def test_one_dataset_holds_every_quantity_of_every_probe(everything):
    assert everything.attrs["probes"] == ", ".join(PROBES)
    assert set(everything.data_vars) == {key for probe in PROBES.values() for key in probe.quantities}
    assert not {"seed", "step"} & set(everything.dims)
    for probe in PROBES.values():
        for key, quantity in probe.quantities.items():
            assert everything[key].attrs["long_name"] == quantity.long_name
            assert everything[key].attrs["units"] == quantity.units
            assert everything[key].attrs["definition"] == quantity.definition
            assert everything[key].attrs["source"] == (quantity.source or probe.source)
            assert everything[key].attrs["nan"] == quantity.nan


def test_the_given_model_is_left_as_it_was():
    model = stock()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    mech_grok.probe(model, QUICK, tokens_train=TOKENS[:9])
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(x.requires_grad and x.grad is None for x in model.parameters())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("operation", ["add", "subtract"])
def test_the_numbers_are_those_of_measure(operation):
    task, model = Task(operation, P, 0.5), random_model(P, placement="pre", n_layers=2)
    split = task.split_indices(3)
    expected = measure(model, task, split, list(PROBES), Anchors(key_frequencies=(1, 3)))
    seen = mech_grok.probe(
        model,
        tokens_train=TOKENS[split["train"]],
        tokens_test=TOKENS[split["test"]],
        operation=operation,
        key_frequencies=[3, 1, 3],
    )
    for of_probe in expected.values():
        for key, x in of_probe.items():
            xr.testing.assert_identical(seen[key].drop_attrs(), x.drop_attrs())


def test_the_order_of_the_tokens_does_not_matter():
    model, order = stock(), torch.randperm(30, generator=torch.Generator().manual_seed(0))
    one, other = (mech_grok.probe(model, "shortcut", tokens_train=TOKENS[:30][x]) for x in (range(30), order))
    xr.testing.assert_allclose(one, other)


@pytest.mark.parametrize("n", [1, 3])
def test_one_example_and_exactly_three(n):
    seen = mech_grok.probe(stock(), QUICK, tokens_train=TOKENS[5 : 5 + n], tokens_test=TOKENS[:n])
    alone = [mech_grok.probe(stock(), "attribution", tokens_train=TOKENS[[5 + i]]) for i in range(n)]
    mean = np.mean([x["logit_attribution"].sel(split="train") for x in alone], axis=0)
    np.testing.assert_allclose(seen["logit_attribution"].sel(split="train"), mean, atol=1e-12)


def test_without_tokens_their_set_is_nan_and_the_rest_is_the_same():
    names = ["attribution", "attention", "compressibility"]
    seen, full = (mech_grok.probe(stock(), names, tokens_train=t) for t in (None, TOKENS[:20]))
    for key, x in seen.items():
        if "split" in x.dims:
            assert np.isnan(x.sel(split=["train", "test"])).all()
            xr.testing.assert_equal(x.sel(split="all"), full[key].sel(split="all"))
            if not x.attrs["nan"]:
                assert np.isfinite(full[key].sel(split="train")).all()


def test_names_as_a_string_and_none_for_all(everything):
    seen = mech_grok.probe(stock(), "fourier")
    assert seen.attrs["probes"] == "fourier"
    assert set(seen.data_vars) == set(PROBES["fourier"].quantities)
    assert set(everything.data_vars) > set(seen.data_vars)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[0, 1, P], [1, 2, P - 1]]), r"tokens \[1, 2, 6\] are not `a b =`, with a, b < 7"),
        (torch.tensor([[0, P, P]]), r"tokens \[0, 7, 7\] are not"),
        (torch.tensor([[-1, 0, P]]), r"tokens \[-1, 0, 7\] are not"),
        (torch.tensor([[0, 1, P, 0]]), r"tokens have shape \(1, 4\), expected \[n, 3\]"),
        (torch.tensor([[0, 1]]), r"tokens have shape \(1, 2\)"),
        (torch.tensor([0, 1, P]), r"tokens have shape \(3,\)"),
    ],
)
@pytest.mark.parametrize("argument", ["tokens_train", "tokens_test"])
def test_tokens_that_are_no_inputs_are_refused(tokens, message, argument, without_shape_checks):
    with pytest.raises(UserError, match=message):
        mech_grok.probe(stock(), "fourier", **{argument: tokens})


@pytest.fixture
def without_shape_checks():
    """Only the tests check annotations; a user meets the function's own check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("frequencies", [[0], [4], [1, -1], [2, 7]])
def test_frequencies_that_p_does_not_have_are_refused(frequencies):
    with pytest.raises(UserError, match=r"key frequencies \[.+\] are not in 1..3; k and p - k are the same"):
        mech_grok.probe(stock(), "fourier", key_frequencies=frequencies)


@pytest.mark.parametrize(("typed", "near"), [("circuits", "circuit"), ("Attention", "attention")])
def test_unknown_probes_name_the_nearest(typed, near):
    with pytest.raises(UserError, match=f"unknown probe '{typed}'; did you mean '{near}'"):
        mech_grok.probe(stock(), ["fourier", typed])


@pytest.mark.parametrize("argument", ["model", "initial", "final"])
def test_a_model_that_cannot_be_read_is_refused(argument):
    models = {"model": stock(), argument: stock(n_ctx=2)}
    with pytest.raises(UserError, match="the probes cannot read a model with a context of 2 tokens"):
        mech_grok.probe(models.pop("model"), "fourier", **models)


def test_an_initial_and_a_final_model_of_another_kind_than_the_model():
    seen = mech_grok.probe(stock(), initial=stock(seed=1), final=random_model(P), tokens_train=TOKENS[:20])
    assert set(seen.data_vars) == {key for probe in PROBES.values() for key in probe.quantities}
