"""Progress measures against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from oracle_progress import (
    SIGNS,
    brute_force,
    by_split,
    clock_loss,
    cosine,
    cube,
    directions,
    observation,
    pairs,
    progress,
    project,
    random_logits,
)
from oracles import CLOCK_AMPLITUDES, CLOCK_P

from mech_grok.probes.logit_projections import cosine_norms, sum_share, waves_of
from mech_grok.task import Task

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
