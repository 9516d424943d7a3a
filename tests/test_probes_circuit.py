import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_circuits import clock_cube, pizza_cube, stock_clock_model, stock_model, stock_pizza_model
from oracles import CLOCK_AMPLITUDES, CLOCK_P, PLACEMENTS, clock_embedding, random_model

from mech_grok.model import adopt
from mech_grok.probes import Anchors, measure
from mech_grok.probes.circuit import circularity, correct_and_runner_up, distance_irrelevance, formula_fve
from mech_grok.probes.gradient_symmetricity import gradient_cosines, sampled_triples
from mech_grok.task import Task

P = CLOCK_P
K = tuple(CLOCK_AMPLITUDES)
seeds = st.integers(0, 2**31)
some = settings(max_examples=15, deadline=None)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(p):
    return torch.arange(p)[:, None], torch.arange(p)


# Distance irrelevance


@pytest.mark.parametrize("p", [7, 9, 113])
@pytest.mark.parametrize("sign", [1, -1])
def test_distance_irrelevance_of_functions_of_distance_and_of_answer(p, sign):
    a, b = numbers(p)
    f = draw(p)
    answer, distance = f[(a + sign * b) % p], f[(a - sign * b) % p]
    assert distance_irrelevance(distance, sign) == pytest.approx(0, abs=1e-12)
    assert distance_irrelevance(answer, sign) == pytest.approx(1, rel=1e-12)
    assert distance_irrelevance(answer + distance, sign) == pytest.approx(1 / math.sqrt(2), rel=1e-12)
    assert distance_irrelevance(distance, -sign) == pytest.approx(1, rel=1e-12)


def test_distance_irrelevance_of_noise():
    values = [distance_irrelevance(draw(113, 113, seed=seed)) for seed in range(5)]
    assert values == pytest.approx([1 - 3 / (4 * 113)] * 5, abs=0.002)
    assert all(value < 1 for value in values)


@some
@given(seeds, st.integers(2, 9), st.sampled_from([1, -1]), st.floats(-5, 5), st.floats(0.1, 5))
def test_distance_irrelevance_is_the_loop_and_ignores_shift_and_scale(seed, p, sign, shift, scale):
    values = draw(p, p, seed=seed)
    groups = [
        [float(values[a, b]) for a in range(p) for b in range(p) if (b - sign * a) % p == distance]
        for distance in range(p)
    ]
    expected = np.mean([np.std(group) for group in groups]) / np.std(values.numpy())
    assert distance_irrelevance(values, sign) == pytest.approx(expected, rel=1e-10)
    assert distance_irrelevance(scale * values + shift, sign) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("values", [torch.zeros(5, 5), torch.full((5, 5), 30.0), 30 + 1e-6 * draw(5, 5)])
def test_distance_irrelevance_of_constant_logits_is_nan(values):
    assert math.isnan(distance_irrelevance(values))
    assert 0 < distance_irrelevance(values + 1e-4 * draw(5, 5, seed=1)) < 1


def test_runner_up_is_the_largest_wrong_answer():
    logits, answers = draw(20, 7), torch.randint(7, (20,), generator=torch.Generator().manual_seed(1))
    right, runner_up = correct_and_runner_up(logits, answers)
    for i, answer in enumerate(answers.tolist()):
        row = logits[i].tolist()
        assert right[i] == row.pop(answer)
        assert runner_up[i] == max(row)


# Gradient symmetricity


def test_triples_are_those_of_python_drawn_from_the_list():
    cube = list(itertools.product(range(23), repeat=3))
    expected = random.Random(42).sample(cube, 100)
    assert [tuple(triple) for triple in sampled_triples(23).tolist()] == expected
    assert sampled_triples(113).tolist()[0] != sampled_triples(23).tolist()[0]


@pytest.mark.parametrize("p", [2, 3, 4])
def test_a_small_modulus_gives_every_triple_once(p):
    assert sorted(sampled_triples(p).tolist()) == [list(x) for x in itertools.product(range(p), repeat=3)]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_gradient_cosines_are_those_of_numerical_derivatives(placement):
    """One triple at a time, and the embeddings of a and b moved one coordinate at a time."""
    model = random_model(5, placement=placement, activation="gelu", n_layers=2, final_norm="on")
    triples = torch.tensor([[0, 1, 2], [3, 3, 4], [4, 0, 0]])  # the second has a = b
    cosines = gradient_cosines(model, triples)
    step = 1e-5
    moves = torch.zeros(2, 16, 3, 16, dtype=torch.float64)
    for position, d in itertools.product(range(2), range(16)):
        moves[position, d, position, d] = step
    moves = moves.flatten(0, 1)

    @torch.no_grad()
    def logits(tokens, c, by):
        hook = ("hook_embed", lambda activation, hook: activation + by)
        return model.run_with_hooks(tokens, fwd_hooks=[hook])[:, -1, c]

    for cosine, (a, b, c) in zip(cosines, triples.tolist(), strict=True):
        tokens = torch.tensor([[a, b, 5]]).expand(32, -1)
        at_a, at_b = (logits(tokens, c, moves) - logits(tokens, c, -moves)).chunk(2)
        expected = torch.nn.functional.cosine_similarity(at_a, at_b, dim=0)
        assert float(cosine) == pytest.approx(float(expected), abs=1e-6)


def test_where_a_equals_b_each_position_has_its_own_gradient():
    cosines = gradient_cosines(random_model(5), torch.tensor([[i, i, 0] for i in range(5)]))
    assert cosines.abs().max() < 0.999


def test_zero_gradients_are_left_out_and_counted():
    """With one neuron that is live for a = 0 or b = 0 only, other pairs move no logit."""
    model = stock_model(d_vocab=8, d_vocab_out=7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E[0, 0] = 1.0
        attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
        attn.W_V[0, 0, 0] = attn.W_O[0, 0, 0] = mlp.W_in[0, 0] = mlp.W_out[0, 1] = 1.0
        model.unembed.W_U[1] = 1.0
    seen = measure_circuit(adopt(model), 7, frequencies=(1,))
    with_zero = [0 in (a, b) for a, b, _ in sampled_triples(7).tolist()]
    assert 0 < sum(with_zero) < 100
    assert seen["gradient_symmetricity_count"] == sum(with_zero)
    assert seen["gradient_symmetricity"] == pytest.approx(1)


def test_gradients_leave_the_model_as_it_was():
    model = random_model(5, placement="pre", dtype=torch.float32)
    model.embed.W_E.requires_grad_(False)
    model.unembed.W_U.grad = torch.ones_like(model.unembed.W_U)
    before = {name: (x.clone(), x.requires_grad) for name, x in model.named_parameters()}
    with torch.no_grad():
        cosines = gradient_cosines(model, sampled_triples(5))
    assert not cosines.requires_grad
    assert cosines.dtype == torch.float64
    for name, x in model.named_parameters():
        assert torch.equal(x, before[name][0])
        assert x.requires_grad == before[name][1]
        assert (x.grad is None) == (name != "unembed.W_U")
    assert model.unembed.W_U.grad.eq(1).all()
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


# Circularity


@pytest.mark.parametrize("amplitudes", [(2, 1), (8, 7, 6, 5, 4)])
@pytest.mark.parametrize("rotated", [False, True])
def test_circles_of_distinct_amplitudes_are_circular(amplitudes, rotated):
    embedding = clock_embedding(frequencies=tuple(CLOCK_AMPLITUDES)[: len(amplitudes)])[:P]
    for i, amplitude in enumerate(amplitudes):
        embedding[:, 2 * i : 2 * i + 2] *= amplitude
    if rotated:
        embedding = embedding @ torch.linalg.qr(draw(128, 128)).Q + draw(128)
    assert circularity(embedding) == pytest.approx(1, abs=1e-12)
    assert circularity(embedding.float()) == pytest.approx(1, abs=1e-5)


def test_equal_amplitudes_hide_perfect_circles():
    assert 0.25 < circularity(clock_embedding()[:P]) < 0.75


def test_circularity_of_noise():
    values = [circularity(draw(P, 128, seed=seed)) for seed in range(5)]
    assert np.mean(values) == pytest.approx(0.091, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circularity_needs_four_components(dtype):
    assert math.isnan(circularity(clock_embedding(frequencies=(3,))[:P].to(dtype)))
    assert math.isnan(circularity(torch.zeros(P, 8, dtype=dtype)))
    assert math.isnan(circularity(draw(4, 8).to(dtype)))
    assert math.isnan(circularity(draw(9, 3).to(dtype)))
    assert 0 < circularity(draw(5, 8).to(dtype)) <= 1


@some
@given(seeds, st.integers(5, 12), st.floats(0.1, 10))
def test_circularity_is_the_loop_and_ignores_rotation_shift_and_scale(seed, p, scale):
    embedding = draw(p, 8, seed=seed)
    centred = embedding.numpy() - embedding.numpy().mean(0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    shares = []
    for axis in axes.T[np.argsort(-variances)][:4]:
        v = centred @ axis
        power = [abs(sum(v[j] * np.exp(2j * np.pi * j * k / p) for j in range(p))) ** 2 for k in range(p)]
        of_frequency = [power[k] + (power[p - k] if 2 * k != p else 0) for k in range(1, p // 2 + 1)]
        shares.append(max(of_frequency) / (p * sum(v**2)))
    assert circularity(embedding) == pytest.approx(np.mean(shares), rel=1e-6)
    rotation = torch.linalg.qr(draw(8, 8, seed=seed + 1)).Q
    assert circularity(scale * embedding @ rotation + draw(8)) == pytest.approx(np.mean(shares), rel=1e-6)


def test_the_alternating_component_of_even_p_is_circular_and_not_twice_so():
    sign = torch.tensor([1.0, -1.0]).repeat(4).double()
    angle = 2 * math.pi * torch.arange(8).double() / 8
    embedding = torch.stack([5 * sign, 3 * angle.cos(), 3 * angle.sin(), (2 * angle).cos()], 1)
    assert circularity(embedding) == pytest.approx(1, rel=1e-12)


# Clock and pizza formulas


@pytest.mark.parametrize("p", [6, 7, 9])
@pytest.mark.parametrize("sign", [1, -1])
def test_fve_is_that_of_dense_least_squares(p, sign):
    frequencies = tuple(range(1, p // 2 + 1))
    amplitudes = {k: 1.0 + k for k in frequencies}
    logits = 3 * clock_cube(p, amplitudes, sign) + 2 * pizza_cube(p, amplitudes, sign) + draw(p, p, p)
    centred = (logits - logits.mean(-1, keepdim=True)).flatten().numpy()
    for cube, fve in zip((clock_cube, pizza_cube), formula_fve(logits, frequencies, sign), strict=True):
        terms = np.stack([cube(p, {k: 1.0}, sign).flatten().numpy() for k in frequencies], 1)
        fitted = terms @ np.linalg.lstsq(terms, centred, rcond=None)[0]
        assert fve == pytest.approx(1 - ((centred - fitted) ** 2).sum() / (centred**2).sum(), rel=1e-10)
        assert 0 < fve < 1


@pytest.mark.parametrize("p", [2, 3, 6, 7, 113])
@pytest.mark.parametrize("sign", [1, -1])
def test_each_formula_explains_itself(p, sign):
    frequencies = K if p == 113 else tuple(range(1, p // 2 + 1))
    amplitudes = {k: 1.0 + k for k in frequencies}
    assert formula_fve(clock_cube(p, amplitudes, sign), frequencies, sign).clock == pytest.approx(1)
    assert formula_fve(pizza_cube(p, amplitudes, sign), frequencies, sign).pizza == pytest.approx(1)


@pytest.mark.parametrize("p", [7, 113])
def test_each_formula_explains_eight_over_pi_squared_of_the_other(p):
    expected = 2 / (p * math.sin(math.pi / (2 * p))) ** 2
    assert formula_fve(clock_cube(p, {1: 1.0, 3: 2.0}), (1, 3)).pizza == pytest.approx(expected, rel=1e-12)
    assert formula_fve(pizza_cube(p, {1: 1.0, 3: 2.0}), (1, 3)).clock == pytest.approx(expected, rel=1e-12)


def test_only_the_given_frequencies_explain():
    logits = clock_cube(7, {1: 3.0, 2: 4.0})
    assert formula_fve(logits, (1,)).clock == pytest.approx(9 / 25)
    assert formula_fve(logits, (2, 3)).clock == pytest.approx(16 / 25)
    assert formula_fve(logits, (3,)).clock == pytest.approx(0, abs=1e-12)
    assert formula_fve(logits, (1, 2), sign=-1).clock == pytest.approx(0, abs=1e-12)


@some
@given(seeds, st.floats(0.1, 10))
def test_fve_ignores_a_shift_per_pair_and_scale(seed, scale):
    logits = draw(5, 5, 5, seed=seed)
    moved = scale * logits + 10 * draw(5, 5, 1, seed=seed + 1)
    assert formula_fve(moved, (1, 2)) == pytest.approx(formula_fve(logits, (1, 2)), rel=1e-8)


def test_a_bias_of_a_class_is_variance_that_no_formula_explains():
    logits, bias = clock_cube(7, {1: 2.0}), draw(7)
    expected = 2 / (2 + float(bias.var(correction=0)))  # variance of 2 cos is 2
    assert formula_fve(logits + bias, (1,)).clock == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("logits", "frequencies"),
    [(draw(5, 5, 5), ()), (torch.zeros(5, 5, 5), (1,)), (draw(5, 5, 1).expand(-1, -1, 5), (1,))],
)
def test_nothing_to_explain_is_nan(logits, frequencies):
    assert all(math.isnan(x) for x in formula_fve(logits, frequencies))


# The probe


def measure_circuit(model, p, operation="add", frequencies=None):
    task = Task(operation, p, 0.7)
    anchors = Anchors(key_frequencies=frequencies)
    return measure(model, task, task.split_indices(0), ["circuit"], anchors)["circuit"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clock_and_pizza_are_told_apart(dtype):
    clock = measure_circuit(adopt(stock_clock_model().to(dtype)), P, frequencies=K)
    pizza = measure_circuit(adopt(stock_pizza_model("bidirectional").to(dtype)), P, frequencies=K)
    closed_form = 2 / (P * math.sin(math.pi / (2 * P))) ** 2
    assert np.isnan(clock["distance_irrelevance"])
    assert np.isnan(clock["distance_irrelevance_runner_up"])
    assert abs(clock["gradient_symmetricity"]) < 0.15
    assert clock["clock_fve"] == pytest.approx(1, rel=1e-6)
    assert clock["pizza_fve"] == pytest.approx(closed_form, rel=1e-6)
    assert pizza["distance_irrelevance"] < 1e-3
    assert pizza["distance_irrelevance_runner_up"] < 1e-3
    assert pizza["gradient_symmetricity"] == pytest.approx(1, rel=1e-6)
    assert pizza["clock_fve"] == pytest.approx(closed_form, rel=1e-5)
    assert pizza["pizza_fve"] == pytest.approx(1, rel=1e-6)
    assert clock["gradient_symmetricity_count"] == pizza["gradient_symmetricity_count"] == 100


def test_runner_up_and_formulas_are_over_the_p_answers():
    """A logit of `=` that is always the largest changes nothing."""
    model = random_model(7)
    before = measure_circuit(model, 7, frequencies=(1, 3))
    model.unembed.b_U.data[7] = 1e3
    after = measure_circuit(model, 7, frequencies=(1, 3))
    for name in before:
        assert float(after[name]) == pytest.approx(float(before[name]), rel=1e-9)


def test_subtraction_has_the_roles_of_the_distance_and_the_answer_changed():
    """A model whose b is stored as -b answers a - b with what it answered to a + b."""
    model = adopt(stock_pizza_model())
    embed = model.embed.forward

    def mirrored(tokens):
        a, b, equals = tokens.T
        return embed(torch.stack([a, -b % P, equals], 1))

    model.embed.forward = mirrored
    seen = measure_circuit(model, P, "subtract", frequencies=K)
    assert seen["distance_irrelevance"] < 1e-3
    assert seen["pizza_fve"] == pytest.approx(1, rel=1e-6)
    as_addition = measure_circuit(model, P, "add", frequencies=K)
    assert as_addition["pizza_fve"] < 0.1


@pytest.mark.parametrize("operation", ["multiply", "xor", "and", "rshift"])
def test_formulas_are_nan_for_other_operations(operation):
    seen = measure_circuit(random_model(7), 7, operation, frequencies=(1,))
    gone = [name for name in seen if np.isnan(seen[name])]
    assert gone == ["distance_irrelevance", "distance_irrelevance_runner_up", "clock_fve", "pizza_fve"]


def test_dead_network_has_no_gradient():
    model = random_model(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    seen = measure_circuit(model, 5, frequencies=(1,))
    assert seen["gradient_symmetricity_count"] == 0
    assert all(np.isnan(seen[name]) for name in seen if name != "gradient_symmetricity_count")
