"""What changes no progress measure, and what large numbers do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_progress import by_split, cube, directions, observation, progress, project, random_logits

from mech_grok.probes.logit_projections import losses_without
from mech_grok.task import Task
from mech_grok.training.loss import cross_entropy

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
