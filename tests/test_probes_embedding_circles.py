"""The embedding's circles: exact clocks, noise, what must not change them, and a second way to the plane."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CLOCK_AMPLITUDES, clock_embedding, clock_model, random_model

from mech_grok.probes import Anchors, measure
from mech_grok.probes.embedding_circles import CIRCLES, embedding_circle
from mech_grok.task import Task

P = 113
seeds = st.integers(0, 2**31)
some = settings(deadline=None, max_examples=20)


def gaussian(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clock_face(p, k):
    angle = 2 * np.pi * k * np.arange(p) / p
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def noisy_clock(seed, p=23, d_model=9):
    return 0.2 * gaussian(p, d_model, seed) + clock_embedding(p, (3, 5), d_model)[:p]


@pytest.mark.parametrize("k", CLOCK_AMPLITUDES)
def test_a_clock_is_a_circle_of_its_radius(k):
    circle = embedding_circle(2.5 * clock_embedding()[:P], k)
    np.testing.assert_allclose(circle.coordinates.numpy(), 2.5 * clock_face(P, k), atol=1e-12)
    assert circle.share.item() == pytest.approx(1, rel=1e-12)


def test_unequal_cosine_and_sine_are_an_ellipse():
    embedding = clock_embedding(11, (2,), 4)[:11] * torch.tensor([3.0, 1.0, 0.0, 0.0])
    circle = embedding_circle(embedding, 2)
    np.testing.assert_allclose(circle.coordinates.numpy(), clock_face(11, 2) * [3, 1], atol=1e-12)
    assert circle.share.item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_circle(seed):
    circle = embedding_circle(gaussian(P, 128, seed), 7)
    radius = circle.coordinates.norm(dim=1)
    assert radius.std() > 0.3 * radius.mean()
    assert 0.4 < circle.share < 0.7


@some
@given(seeds)
def test_the_plane_by_another_way(seed):
    embedding = noisy_clock(seed).numpy()
    waves = clock_face(23, 3).T / math.sqrt(23 / 2)
    values, vectors = np.linalg.eigh((waves @ embedding) @ (waves @ embedding).T)
    axes = vectors @ np.diag(values**-0.5) @ vectors.T @ (waves @ embedding)  # (D D^T)^(-1/2) D
    expected = (embedding - embedding.mean(0)) @ axes.T
    circle = embedding_circle(torch.as_tensor(embedding), 3)
    np.testing.assert_allclose(circle.coordinates.numpy(), expected, atol=1e-9)
    fitted = waves.T @ (waves @ expected)
    assert circle.share.item() == pytest.approx((fitted**2).sum() / (expected**2).sum())


@some
@given(seeds, st.floats(0.01, 100))
def test_rotation_translation_and_size_of_the_space_change_nothing_else(seed, size):
    embedding = noisy_clock(seed)
    rotation = torch.linalg.qr(gaussian(9, 9, seed)).Q
    moved = size * (embedding @ rotation + gaussian(1, 9, seed + 1))
    before, after = embedding_circle(embedding, 5), embedding_circle(moved, 5)
    torch.testing.assert_close(after.coordinates, size * before.coordinates)
    torch.testing.assert_close(after.share, before.share)


@some
@given(seeds, st.integers(1, 22))
def test_counting_from_another_number_turns_the_picture(seed, first):
    embedding = noisy_clock(seed)
    before, after = (embedding_circle(x, 3).coordinates for x in (embedding, embedding.roll(-first, 0)))
    angle = torch.tensor(2 * math.pi * 3 * first / 23, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    torch.testing.assert_close(after, before.roll(-first, 0) @ turn)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_a_line_is_no_plane(size):
    only_cosine = size * clock_embedding(11, (2,), 4)[:11] * torch.tensor([1.0, 0.0, 0.0, 0.0])
    circle = embedding_circle(only_cosine, 2)
    assert circle.coordinates.isnan().all()
    assert circle.share.isnan()


def measured(model, p, anchors=None):
    task = Task("add", p, 0.7)
    return measure(model, task, task.split_indices(0), ["embedding_circles"], anchors)["embedding_circles"]


def test_the_clock_model_has_its_strongest_frequencies():
    model = clock_model()
    with torch.no_grad():
        model.embed.W_E[:, 4:6] *= 3  # frequency 41
        model.embed.W_E[:, 2:4] *= 2  # frequency 35
    found = measured(model, P, Anchors(key_frequencies=(35, 41)))
    assert found["embedding_circle_frequency"].values[:2].tolist() == [41, 35]
    np.testing.assert_allclose(found["embedding_circle"].values[0].T, 3 * clock_face(P, 41), atol=1e-6)
    assert found["embedding_circle_share"].values[:2] == pytest.approx(1)
    assert found.sel(circle=slice(2, None)).isnull().all().to_array().all()


def test_the_clock_model_s_own_key_frequencies_are_found_and_cut_off():
    found = measured(clock_model(), P)
    frequencies = found["embedding_circle_frequency"].values
    assert len(frequencies) == CIRCLES < len(CLOCK_AMPLITUDES)
    assert set(frequencies) < set(CLOCK_AMPLITUDES)
    assert found["embedding_circle_share"].values == pytest.approx(1)


def test_half_of_an_even_p_has_no_circle():
    found = measured(random_model(6), 6, Anchors(key_frequencies=(2, 3)))
    assert found["embedding_circle_frequency"].values[0] == 2
    assert np.isnan(found["embedding_circle_frequency"].values[1:]).all()
