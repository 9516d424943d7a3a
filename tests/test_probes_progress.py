import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import stock_model, stock_pizza_model
from oracles import CLOCK_AMPLITUDES, CLOCK_P, clock_model, random_model

from mech_grok import probe
from mech_grok.model import adopt
from mech_grok.probes import measure
from mech_grok.probes import progress as module
from mech_grok.probes.logit_projections import (
    centred,
    cosine_norms,
    losses_without,
    sum_share,
    waves_of,
)
from mech_grok.probes.observation import LOGITS, SPLITS, Anchors, Needs, Observation, observe
from mech_grok.task import Task
from mech_grok.training.loss import cross_entropy

SIGNS = {"add": 1, "subtract": -1}
LOSSES = [
    "restricted_loss",
    "restricted_loss_2x2",
    "restricted_loss_3x3",
    "excluded_loss",
    "excluded_loss_3d",
]
OF_KEYS = [
    *LOSSES,
    "restricted_accuracy",
    "restricted_variance",
    "restricted_variance_2x2",
    "restricted_variance_3x3",
    "trig_ratio_pre",
    "trig_ratio_post",
    "trig_loss",
    "logit_cosine_fve",
    "logit_class_fve",
]


def observation(logits, keys, operation="add", split=None, scale=1.0, neurons=None):
    """Given logits [p^2, p or p + 1] as an observation; the model only says how many layers there are."""
    p = math.isqrt(len(logits))
    task = Task(operation, p, 0.6)
    model = random_model(p)
    model.unembed.loss_scale = scale
    seen = observe(model, task, split or task.split_indices(0), Needs(), Anchors(key_frequencies=keys))
    neurons = torch.zeros(p * p, 2) if neurons is None else neurons
    kept = {LOGITS: logits, "blocks.0.mlp.hook_pre": neurons, "blocks.0.mlp.hook_post": neurons}
    return Observation(**{**_fields(seen), "at_equals": kept})


def _fields(seen):
    names = ("model", "task", "tokens", "answers", "split", "at_all_positions", "lengths", "anchors")
    return {name: getattr(seen, name) for name in names}


def progress(logits, keys, **settings):
    """What the probe finds, by name; arrays of one value per split are in the order of SPLITS."""
    with torch.no_grad():
        return module.PROBE.compute(observation(logits, keys, **settings))


def pairs(p):
    n = torch.arange(p)
    return n.repeat_interleave(p), n.repeat(p)


def cosine(p, k, *integers):
    """cos(2 pi k (sum of integers) / p) in float64, the product reduced before it is an angle."""
    return (2 * math.pi / p * ((k * sum(integers)) % p).double()).cos()


def cube(p, amplitudes, sign=1):
    """sum_k alpha_k cos(w_k (a +- b - c)), [p^2, p]."""
    a, b = (x[:, None] for x in pairs(p))
    c = torch.arange(p)
    return sum(alpha * cosine(p, k, a, sign * b, -c) for k, alpha in amplitudes.items())


def random_logits(p, seed=0, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(p * p, p, generator=generator, dtype=torch.float64)


def clock_loss(amplitudes, p=CLOCK_P):
    """Loss of sum_k alpha_k cos(w_k d) where the right answer has d = 0, over p classes."""
    d = np.arange(p)
    logits = sum(alpha * np.cos(2 * np.pi * (k * d % p) / p) for k, alpha in amplitudes.items())
    return math.log1p(math.fsum(np.exp(logits[1:] - logits[0])))


# Closed forms


@pytest.fixture(scope="module")
def of_clock():
    return progress(cube(CLOCK_P, CLOCK_AMPLITUDES), tuple(CLOCK_AMPLITUDES))


class TestClock:
    """Logits sum_k alpha_k cos(w_k (a + b - c)): the losses are sums over the classes of one pair."""

    def test_the_key_frequencies_are_all_there_is(self, of_clock):
        loss = clock_loss(CLOCK_AMPLITUDES)
        assert loss == pytest.approx(2.9552415e-5, rel=1e-7)
        assert of_clock["loss_over_answers"].tolist() == pytest.approx([loss] * 3, rel=1e-12)
        for name in ("restricted_loss", "restricted_loss_2x2", "restricted_loss_3x3"):
            assert of_clock[name].tolist() == pytest.approx([loss] * 3, rel=1e-12), name
        assert float(of_clock["trig_loss"]) == pytest.approx(loss, rel=1e-12)
        assert of_clock["restricted_accuracy"].tolist() == [1, 1, 1]

    @pytest.mark.parametrize("name", ["excluded_loss", "excluded_loss_3d"])
    def test_nothing_is_left_without_them(self, of_clock, name):
        assert of_clock[name].tolist() == pytest.approx([math.log(113)] * 3, rel=1e-12)

    def test_without_one_frequency(self, of_clock):
        excluded = of_clock["excluded_loss_per_frequency"]
        published = {14: 1.84993e-3, 35: 3.15389e-3, 41: 1.048222e-2, 42: 1.21466e-3, 52: 2.092138e-2}
        for k in range(1, 57):
            expected = clock_loss({j: alpha for j, alpha in CLOCK_AMPLITUDES.items() if j != k})
            assert excluded[:, k].tolist() == pytest.approx([expected] * 3, rel=1e-12), k
            assert expected == pytest.approx(published.get(k, 2.9552415e-5), rel=5e-6), k
        assert excluded[:, 0].isnan().all()

    def test_coefficients(self, of_clock):
        amplitude = of_clock["logit_cosine_amplitude"]
        expected = torch.zeros(57, dtype=torch.float64)
        expected[list(CLOCK_AMPLITUDES)] = torch.tensor(list(CLOCK_AMPLITUDES.values())).double()
        for of_split in amplitude:
            assert of_split[1:].tolist() == pytest.approx(expected[1:].tolist(), abs=1e-12)
        assert amplitude[:, 0].isnan().all()
        norms = cosine_norms(waves_of(113))[1:]
        assert norms.tolist() == pytest.approx([849.38] * 56, rel=1e-5)
        assert norms.tolist() == pytest.approx([math.sqrt(113**3 / 2)] * 56, rel=1e-12)
        shares = expected.square() / expected.square().sum()
        similarity = of_clock["logit_cosine_similarity"]
        for of_split in similarity:
            assert of_split[1:].square().tolist() == pytest.approx(shares[1:].tolist(), abs=1e-12)

    @pytest.mark.parametrize("name", ["restricted_variance", "logit_cosine_fve", "logit_class_fve"])
    def test_all_is_explained(self, of_clock, name):
        assert float(of_clock[name]) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(("alpha", "loss"), [(1.0, 3.9633021772), (7.0, None)])
def test_one_frequency(alpha, loss):
    found = progress(cube(113, {5: alpha}), (5,))
    expected = math.log(113 * float(torch.special.i0(torch.tensor(alpha).double()))) - alpha
    assert expected == pytest.approx(loss or expected, rel=1e-10)
    assert float(found["trig_loss"]) == pytest.approx(expected, rel=1e-10)
    assert found["restricted_loss"].tolist() == pytest.approx([expected] * 3, rel=1e-10)
    assert float(found["excluded_loss_per_frequency"][1, 5]) == pytest.approx(math.log(113), rel=1e-12)
    assert float(found["excluded_loss_per_frequency"][1, 6]) == pytest.approx(expected, rel=1e-10)


def test_three_readings_of_restricted():
    p, k, j = 13, 2, 5
    a, b = (x[:, None] for x in pairs(p))
    c = torch.arange(p)
    sums, difference = 3 * cosine(p, k, a, b, -c), 2 * cosine(p, k, a, -b, -c)
    alone, crossed = cosine(p, k, a, -c), 0.5 * cosine(p, 1, k * a, j * b, -k * c)
    found = progress(sums + difference + alone + crossed, (k,))
    # All four have the same norm and are orthogonal: their shares are those of the squared amplitudes.
    total = 9 + 4 + 1 + 0.25
    for suffix, kept, share in (
        ("", sums, 9),
        ("_2x2", sums + difference, 13),
        ("_3x3", sums + difference + alone, 14),
    ):
        assert float(found[f"restricted_variance{suffix}"]) == pytest.approx(share / total, rel=1e-12)
        expected = by_split(kept, p)
        assert found[f"restricted_loss{suffix}"].tolist() == pytest.approx(expected, rel=1e-12)
    assert found["excluded_loss"].tolist() == pytest.approx(by_split(difference + alone + crossed, p))
    assert float(found["logit_cosine_fve"]) == pytest.approx(9 / total, rel=1e-12)
    assert float(found["logit_class_fve"]) == pytest.approx(1, rel=1e-12)
    elsewhere = progress(sums + difference + alone + crossed, (j,))
    assert float(elsewhere["restricted_variance_3x3"]) == pytest.approx(0, abs=1e-20)


def by_split(logits, p, operation="add", scale=1.0):
    """Cross-entropy over all, training and test pairs, written out."""
    task = Task(operation, p, 0.6)
    losses = -(scale * logits).log_softmax(-1)[torch.arange(p * p), task.answers(task.pairs())]
    split = task.split_indices(0)
    return [float(losses.mean()), *(float(losses[split[name]].mean()) for name in ("train", "test"))]


def test_cosines_only_differ_from_what_depends_on_class_in_another_way():
    p, k = 11, 3
    a, b = (x[:, None] for x in pairs(p))
    c = torch.arange(p)
    other = 2 * cosine(p, k, a, b, c)  # a function of a + b, but not of a + b - c
    found = progress(cube(p, {k: 4.0}) + other, (k,))
    assert found["excluded_loss"].tolist() == pytest.approx([math.log(p)] * 3, rel=1e-12)
    assert found["excluded_loss_3d"].tolist() == pytest.approx(by_split(other, p), rel=1e-12)
    assert float(found["trig_loss"]) == pytest.approx(clock_loss({k: 4.0}, p), rel=1e-12)
    assert float(found["restricted_variance"]) == pytest.approx(1, rel=1e-12)
    assert float(found["logit_cosine_fve"]) == pytest.approx(16 / 20, rel=1e-12)


def test_excluded_loss_may_be_far_above_guessing():
    p, k = 13, 1
    a, b = (x[:, None] for x in pairs(p))
    rest = 60 * cosine(p, k, a, -b, -torch.arange(p))
    found = progress(cube(p, {k: 100.0}) + rest, (k,))
    assert found["excluded_loss"].tolist() == pytest.approx(by_split(rest, p), rel=1e-12)
    assert min(found["excluded_loss"].tolist()) > 10 * math.log(p)


# Brute force: explicit directions in the space of pairs, one class and one pair at a time


def phase_waves(p, k, n):
    """cos and sin of 2 pi k n / p as unit vectors, without those that vanish."""
    angle = 2 * np.pi * (k * n % p) / p
    return [v / np.linalg.norm(v) for v in (np.cos(angle), np.sin(angle)) if np.linalg.norm(v) > 1e-6]


def directions(p, keys, which, sign):
    """Orthonormal directions in the space of pairs."""
    a, b = (x.numpy() for x in pairs(p))
    found = []
    for k in keys:
        if which == "sums":
            found += phase_waves(p, k, a + sign * b)
            continue
        of_a, of_b = phase_waves(p, k, a), phase_waves(p, k, b)
        found += [x * y for x in of_a for y in of_b]
        found += [*of_a, *of_b] if which == "3x3" else []
    return [v / np.linalg.norm(v) for v in found]


def project(logits, onto):
    out = np.zeros_like(logits)
    for v in onto:
        for c in range(logits.shape[1]):
            out[:, c] += v * (v @ logits[:, c])
    return out


def mean_loss(logits, answers, index):
    losses = [math.log(sum(math.exp(x - logits[i][answers[i]]) for x in logits[i])) for i in index]
    return sum(losses) / len(losses)


def brute_force(logits, keys, sign, split, scale):
    """Every quantity, from explicit projectors and a least-squares fit."""
    p = logits.shape[1]
    a, b = (x.numpy() for x in pairs(p))
    answers = (a + sign * b) % p
    mean = logits.mean(0)
    flat = logits - logits.mean(1, keepdims=True)
    cubes = [np.cos(2 * np.pi * (k * (answers[:, None] - np.arange(p)) % p) / p) for k in range(p // 2 + 1)]
    fit, *_ = np.linalg.lstsq(np.stack([cubes[k].ravel() for k in keys], 1), flat.ravel(), rcond=None)
    trig = sum(alpha * cubes[k] for alpha, k in zip(fit, keys, strict=True))
    sums = project(logits, directions(p, keys, "sums", sign))

    def losses(z):
        return [mean_loss(scale * z, answers, index) for index in split.values()]

    found = {
        "loss_over_answers": losses(logits),
        "excluded_loss": losses(logits - sums),
        "excluded_loss_3d": losses(logits - trig),
        "trig_loss": losses(trig)[0],
        "restricted_accuracy": [
            np.mean((sums + mean)[index].argmax(1) == answers[index]) for index in split.values()
        ],
        "logit_cosine_amplitude": [
            [math.nan]
            + [
                np.vdot(cubes[k][index], flat[index]) / np.vdot(cubes[k][index], cubes[k][index])
                for k in range(1, p // 2 + 1)
            ]
            for index in split.values()
        ],
        "logit_cosine_similarity": [
            [math.nan]
            + [
                np.vdot(cubes[k][index], flat[index])
                / np.linalg.norm(cubes[k][index])
                / np.linalg.norm(flat[index])
                for k in range(1, p // 2 + 1)
            ]
            for index in split.values()
        ],
        "logit_cosine_fve": 1 - np.linalg.norm(flat - trig) ** 2 / np.linalg.norm(flat) ** 2,
        "logit_class_fve": sum(
            np.linalg.norm(flat @ v) ** 2 for k in keys for v in phase_waves(p, k, np.arange(p))
        )
        / np.linalg.norm(flat) ** 2,
        "excluded_loss_per_frequency": [
            [math.nan]
            + [
                mean_loss(
                    scale * (logits - project(logits, directions(p, [k], "sums", sign))), answers, index
                )
                for k in range(1, p // 2 + 1)
            ]
            for index in split.values()
        ],
    }
    for suffix, which in (("", "sums"), ("_2x2", "2x2"), ("_3x3", "3x3")):
        onto = directions(p, keys, which, sign)
        found[f"restricted_loss{suffix}"] = losses(project(logits, onto) + mean)
        varying = flat - flat.mean(0)
        found[f"restricted_variance{suffix}"] = (
            np.linalg.norm(project(flat, onto)) ** 2 / np.linalg.norm(varying) ** 2
        )
    return found


@pytest.mark.parametrize("operation", SIGNS)
@pytest.mark.parametrize(
    ("p", "keys"),
    [
        (2, (1,)),
        (3, (1,)),
        (4, (2,)),
        (4, (1, 2)),
        (5, (2,)),
        (6, (1, 3)),
        (7, (1, 2, 3)),
        (8, (2, 4)),
        (9, (3,)),
    ],
)
def test_brute_force(p, keys, operation):
    logits = random_logits(p, seed=p)
    task = Task(operation, p, 0.6)
    split = {"all": np.arange(p * p), **task.split_indices(0)}
    found = progress(logits, keys, operation=operation, scale=1.7)
    expected = brute_force(logits.numpy(), keys, SIGNS[operation], split, 1.7)
    assert expected.keys() == found.keys() - {"trig_ratio_pre", "trig_ratio_post"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("operation", SIGNS)
@pytest.mark.parametrize(("p", "keys"), [(5, (1,)), (6, (2, 3))])
def test_brute_force_trig_ratio(p, keys, operation):
    neurons = torch.randn(p * p, 3, generator=torch.Generator().manual_seed(1)) + 5
    neurons[:, 1] = 2.0  # dead
    found = progress(random_logits(p), keys, operation=operation, neurons=neurons)
    x = neurons.double().numpy()
    kept = project(x, directions(p, keys, "sums", SIGNS[operation]))
    expected = np.linalg.norm(kept) / np.linalg.norm(x - x.mean(0))
    assert found["trig_ratio_pre"].tolist() == pytest.approx([expected], rel=1e-9)
    assert found["trig_ratio_post"].tolist() == pytest.approx([expected], rel=1e-9)


def test_trig_ratio_of_logits_is_the_root_of_their_share():
    p, keys = 7, (1, 3)
    logits = random_logits(p)
    flat = logits - logits.mean(1, keepdim=True)
    answers = observation(logits, keys).answers
    share = sum_share(flat, answers, waves_of(p)[list(keys)])
    assert float(progress(logits, keys)["restricted_variance"]) == pytest.approx(float(share), rel=1e-12)


@pytest.mark.parametrize("p", [2, 3, 6, 7, 113])
def test_waves_are_orthonormal(p):
    waves = waves_of(p).flatten(0, 1)
    gram = waves @ waves.T
    present = torch.ones(len(waves))
    present[1] = 0
    present[-1] = p % 2
    torch.testing.assert_close(gram, torch.diag(present.double()), atol=1e-13, rtol=0)


# Invariances


@settings(deadline=None, max_examples=12)
@given(st.integers(2, 8), st.integers(0, 2**31), st.floats(-100, 100))
def test_what_is_the_same_for_all_classes_of_a_pair_changes_nothing(p, seed, size):
    logits = random_logits(p, seed)
    shift = size * random_logits(p, seed + 1)[:, :1]
    keys = (1,) if p < 6 else (1, 3)
    before, after = progress(logits, keys), progress(logits + shift, keys)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-8, atol=1e-10, err_msg=name)


@settings(deadline=None, max_examples=12)
@given(st.integers(2, 7), st.integers(0, 2**31), st.floats(-50, 50))
def test_a_bias_of_each_class_is_kept_by_restriction_and_by_exclusion(p, seed, size):
    """Both add the mean logits to something that does not depend on them."""
    logits, bias = random_logits(p, seed), size * random_logits(p, seed + 1)[0]
    found, seen = progress(logits + bias, (1,)), observation(logits, (1,))
    sums = sum_tables_by_hand(logits, seen.answers)
    mean = logits.mean(0)
    expected = {"restricted_loss": sums + mean + bias, "excluded_loss": logits - sums + bias}
    for name, expected_logits in expected.items():
        assert found[name].tolist() == pytest.approx(by_split(expected_logits, p), rel=1e-7, abs=1e-9)
    plain = progress(logits, (1,))
    for name in ("restricted_variance", "trig_loss"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-7, atol=1e-9, err_msg=name)
    # Over all pairs only: in a split, answers are not equally frequent.
    amplitudes = (x["logit_cosine_amplitude"][0] for x in (found, plain))
    np.testing.assert_allclose(*amplitudes, rtol=1e-7, atol=1e-9)


def sum_tables_by_hand(logits, answers):
    """The logits on frequency 1, by averaging over the pairs of an answer."""
    p = logits.shape[1]
    onto = directions(p, [1], "sums", 1)
    return torch.from_numpy(project(logits.numpy().copy(), onto))


@settings(deadline=None, max_examples=8)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_in_a_split_does_not_matter(random):
    logits = random_logits(7)
    split = Task("add", 7, 0.6).split_indices(0)
    shuffled = {name: np.array(random.sample(list(index), len(index))) for name, index in split.items()}
    before, after = progress(logits, (2,), split=split), progress(logits, (2,), split=shuffled)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12, err_msg=name)


@settings(deadline=None, max_examples=8)
@given(st.integers(3, 8), st.integers(0, 2**31))
def test_exchange_of_a_and_b_and_translation_of_a_change_no_mean_over_all_pairs(p, seed):
    logits = random_logits(p, seed)
    exchanged = logits.view(p, p, p).transpose(0, 1).reshape(p * p, p)
    translated = logits.view(p, p, p).roll((1, 1), (0, 2)).reshape(p * p, p)
    before = progress(logits, (1,))
    for other in (exchanged, translated):
        after = progress(other, (1,))
        for name in before:
            at = slice(0, 1) if before[name].shape[:1] == (3,) else slice(None)
            values = (np.atleast_1d(found[name])[at] for found in (after, before))
            np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12, err_msg=name)


@settings(deadline=None, max_examples=12)
@given(st.integers(2, 7), st.integers(0, 2**31))
def test_shares_grow_with_what_is_projected_on(p, seed):
    found = progress(random_logits(p, seed), (1,))
    shares = [float(found[f"restricted_variance{suffix}"]) for suffix in ("", "_2x2", "_3x3")]
    assert -1e-12 <= shares[0] <= shares[1] + 1e-12 <= shares[2] + 2e-12 <= 1 + 3e-12
    assert float(found["logit_cosine_fve"]) <= float(found["logit_class_fve"]) + 1e-12


def test_rotating_the_class_axis_matters():
    """Classes are numbers: no measure is one of an unlabelled partition."""
    logits = cube(7, {1: 5.0})
    turned = progress(logits.roll(1, 1), (1,))
    assert turned["restricted_accuracy"].tolist() == [0, 0, 0]
    assert float(turned["restricted_variance"]) == pytest.approx(1)
    assert float(turned["logit_cosine_fve"]) < 0.9


# Large numbers


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([1e-3, 1.0, 30.0, 140.0, 320.0, 1e4]), st.integers(0, 2**31))
def test_losses_without_a_table_are_those_of_the_difference(size, seed):
    p = 5
    logits, tables = random_logits(p, seed, size), random_logits(p, seed + 1, size).view(p, p, p)[:4]
    answers = observation(logits, ()).answers
    found = losses_without(logits, tables, answers)
    for j, table in enumerate(tables):
        expected = cross_entropy(logits - table[answers], answers)
        np.testing.assert_allclose(found[:, j], expected, rtol=1e-10, atol=1e-13)


def test_losses_are_not_lost_beside_one():
    """The sum of all wrong classes is below the rounding of 1."""
    p = 5
    logits = 50.0 * torch.eye(p, dtype=torch.float64)[observation(random_logits(p), ()).answers]
    losses = losses_without(logits, torch.zeros(1, p, p).double(), observation(logits, ()).answers)
    assert losses.flatten().tolist() == pytest.approx([4 * math.exp(-50)] * 25, rel=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_no_crash(value):
    logits = random_logits(5)
    logits[3, 2] = value
    found = progress(logits, (1,))
    assert found.pop("restricted_accuracy").tolist() == [0, 0, 0]
    assert all(values.isnan().any() for values in found.values())


# Where there is nothing to measure


def test_without_key_frequencies():
    logits = random_logits(7)
    none, one = progress(logits, ()), progress(logits, (1,))
    assert all(none[name].isnan().all() for name in OF_KEYS)
    rest = [
        "loss_over_answers",
        "excluded_loss_per_frequency",
        "logit_cosine_amplitude",
        "logit_cosine_similarity",
    ]
    assert sorted([*OF_KEYS, *rest]) == sorted(none)
    for name in rest:
        np.testing.assert_array_equal(none[name], one[name])
        assert not none[name][..., 1:].isnan().any()


@pytest.mark.parametrize("operation", ["multiply", "xor", "and", "rshift"])
def test_other_operations_have_no_phase(operation):
    found = progress(random_logits(5), (1,), operation=operation)
    assert found.keys() == module.PROBE.quantities.keys()
    assert all(value.isnan().all() for value in found.values())


def test_empty_splits_and_a_split_of_one():
    logits, nothing = random_logits(5), np.empty(0, dtype=np.int64)
    found = progress(logits, (1,), split={"train": nothing, "test": np.array([7])})
    losses = cross_entropy(logits, observation(logits, ()).answers)
    assert float(found["loss_over_answers"][2]) == pytest.approx(float(losses[7]), rel=1e-12)
    for name in ("excluded_loss_per_frequency", "logit_cosine_amplitude", "logit_cosine_similarity"):
        assert found[name][:, 1:].isnan().all(1).tolist() == [False, True, False]
    for name in [*LOSSES, "restricted_accuracy", "loss_over_answers"]:
        assert found[name].isnan().tolist() == [False, True, False], name


@pytest.mark.parametrize("p", [2, 3, 5, 6])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_logits(p, value):
    found = progress(torch.full((p * p, p), value), (1,))
    for name in ["loss_over_answers", *LOSSES]:
        assert found[name].tolist() == pytest.approx([math.log(p)] * 3, rel=1e-12)
    assert float(found["trig_loss"]) == pytest.approx(math.log(p), rel=1e-12)
    undefined = {name for name, values in found.items() if values.isnan().all()}
    shares = {name for name in found if "variance" in name or "fve" in name or "trig_ratio" in name}
    assert undefined == shares | {"logit_cosine_similarity"}


def test_logits_that_do_not_depend_on_the_pair():
    p, bias = 5, torch.tensor([0.3, -1.2, 0.1, 2.0, 0.7])
    logits = bias.expand(p * p, p)
    found = progress(logits, (1,))
    assert found["restricted_loss"].tolist() == pytest.approx(by_split(logits.double(), p), rel=1e-12)
    assert all(found[name].isnan() for name in found if name.startswith("restricted_variance"))
    assert float(found["logit_cosine_fve"]) == 0


def test_centring_splits_the_logits():
    logits = random_logits(6) + 1e3
    parts = centred(logits.float())
    flat = logits.float().double()
    flat = flat - flat.mean(1, keepdim=True)
    torch.testing.assert_close(parts.varying + parts.mean, flat, atol=1e-11, rtol=0)
    torch.testing.assert_close(parts.varying.mean(0), torch.zeros(6).double(), atol=1e-11, rtol=0)
    assert float(parts.power) == pytest.approx(float(flat.square().sum()), rel=1e-9)


# On models


KEYS = (1, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_layers": 2, "activation": "swiglu"},
        {"placement": "pre", "final_norm": "on", "tied_unembed": True},
        {"readout_scale": 3.0, "scale_in_loss": True},
        {"readout_scale": 3.0},
    ],
    ids=["depth-2", "norms", "scale-in-loss", "scale-in-logits"],
)
def test_reads_the_logits_of_the_p_answers_as_the_loss_scales_them(settings):
    model, task = random_model(5, **settings), Task("add", 5, 0.6)
    split = task.split_indices(0)
    seen = measure(model, task, split, ["progress"], Anchors(key_frequencies=KEYS))["progress"]
    with torch.no_grad():
        logits = model(torch.as_tensor(task.tokens(task.pairs())))[:, -1, :5]
    expected = progress(logits, KEYS, scale=model.unembed.loss_scale)
    for name in expected.keys() - {"trig_ratio_pre", "trig_ratio_post"}:
        np.testing.assert_allclose(seen[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert seen["trig_ratio_post"].dims == ("layer",)
    assert seen["trig_ratio_post"].notnull().all()
    assert list(seen["split"].values) == list(SPLITS)
    assert list(seen["frequency"].values) == [0, 1, 2]


@pytest.mark.parametrize("d_vocab_out", [5, 6])
def test_a_stock_model_with_or_without_a_logit_for_equals(d_vocab_out):
    model, task = stock_model(d_vocab_out=d_vocab_out), Task("add", 5, 0.6)
    tokens = torch.as_tensor(task.tokens(task.pairs()))
    seen = probe(model, "progress", tokens_train=tokens[:10], tokens_test=tokens[10:], key_frequencies=KEYS)
    with torch.no_grad():
        logits = model(tokens)[:, -1, :5]
    split = {"train": np.arange(10), "test": np.arange(10, 25)}
    expected = progress(logits, KEYS, split=split)
    for name in (
        "loss_over_answers",
        "excluded_loss",
        "excluded_loss_per_frequency",
        "restricted_variance_3x3",
    ):
        np.testing.assert_allclose(seen[name], expected[name], rtol=1e-9, err_msg=name)


def test_clock_model():
    task = Task("add", CLOCK_P, 0.7)
    anchors = Anchors(key_frequencies=tuple(CLOCK_AMPLITUDES))
    seen = measure(clock_model(), task, task.split_indices(0), ["progress"], anchors)["progress"]
    assert seen["restricted_loss"].values == pytest.approx(clock_loss(CLOCK_AMPLITUDES), rel=1e-10)
    assert seen["excluded_loss"].values == pytest.approx(math.log(113), rel=1e-10)
    # Of (x + y)^2, the products 2xy have variance 1, half of it on the sum; x^2 and y^2 have 1/8 each.
    assert seen["trig_ratio_pre"].values == pytest.approx(0, abs=1e-7)
    assert seen["trig_ratio_post"].values == pytest.approx(math.sqrt(0.5 / 1.25), rel=1e-10)


def test_the_pizza_without_its_sums_is_far_worse_than_a_guess():
    task, anchors = Task("add", CLOCK_P, 0.7), Anchors(key_frequencies=tuple(CLOCK_AMPLITUDES))
    seen = measure(adopt(stock_pizza_model()), task, task.split_indices(0), ["progress"], anchors)["progress"]
    assert (seen["excluded_loss"] > 1.5 * math.log(CLOCK_P)).all()
    assert (seen["restricted_loss"] < 0.1 * seen["loss_over_answers"]).all()
    # |cos(w(a - b) / 2)| multiplies each cosine of the sum: squared mean over mean square. The rest of it
    # has harmonics of a - b, which make terms of frequency 2k, 3k and so on.
    for suffix in ("", "_2x2", "_3x3"):
        assert float(seen[f"restricted_variance{suffix}"]) == pytest.approx(8 / math.pi**2, rel=1e-4)


def test_what_is_memorised_is_not_in_a_few_frequencies():
    p, keys = 31, (2, 5, 11)
    task = Task("add", p, 0.7)
    split, answers = task.split_indices(0), torch.as_tensor(task.answers(task.pairs()))
    logits = random_logits(p, size=1.0)
    logits[split["train"], answers[split["train"]]] += 20
    found = progress(logits, keys, split=split)
    assert found["loss_over_answers"].tolist()[1] < 1e-5
    assert found["excluded_loss"].tolist()[1] < 1e-3
    assert found["restricted_loss"].tolist()[1] > 0.1


def test_an_untrained_model_guesses_with_and_without_its_frequencies():
    task = Task("add", 113, 0.7)
    size = {"d_model": 128, "d_head": 32, "n_heads": 4, "d_mlp": 512, "d_vocab": 114, "d_vocab_out": 113}
    model = adopt(stock_model(**size, dtype=torch.float32))
    anchors = Anchors(key_frequencies=tuple(CLOCK_AMPLITUDES))
    seen = measure(model, task, task.split_indices(0), ["progress"], anchors)["progress"]
    # Three models of TransformerLens' own have 4.7344 to 4.7355, restricted 4.7341 to 4.7353.
    assert float(seen["loss_over_answers"].sel(split="all")) == pytest.approx(4.735, abs=1e-3)
    assert float(seen["restricted_loss"].sel(split="all")) == pytest.approx(4.7347, abs=1e-3)
    assert seen["excluded_loss"].values == pytest.approx(seen["loss_over_answers"].values, abs=1e-4)
    untouched = np.broadcast_to(seen["loss_over_answers"].values[:, None], (3, 56))
    assert seen["excluded_loss_per_frequency"].values[:, 1:] == pytest.approx(untouched, abs=1e-4)
    assert float(abs(seen["logit_cosine_similarity"].sel(split="all")).max()) < 1e-4
    assert float(seen["restricted_variance"]) < 1e-3


def test_every_quantity_says_when_it_is_nan():
    for name, quantity in module.PROBE.quantities.items():
        assert "nor subtraction" in quantity.nan, name
        assert quantity.definition.endswith("."), name
