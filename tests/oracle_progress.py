"""Progress measures by brute force and in closed form, and the probe on given logits."""

import math

import numpy as np
import torch
from oracles import CLOCK_P, random_model

from mech_grok.probes import progress as module
from mech_grok.probes.observation import LOGITS, Anchors, Needs, Observation, observe
from mech_grok.task import Task

SIGNS = {"add": 1, "subtract": -1}


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


def by_split(logits, p, operation="add", scale=1.0):
    """Cross-entropy over all, training and test pairs, written out."""
    task = Task(operation, p, 0.6)
    losses = -(scale * logits).log_softmax(-1)[torch.arange(p * p), task.answers(task.pairs())]
    split = task.split_indices(0)
    return [float(losses.mean()), *(float(losses[split[name]].mean()) for name in ("train", "test"))]


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
