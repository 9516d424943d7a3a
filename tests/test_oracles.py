"""The hand-built clock and pizza are what they claim to be, by formulas that are written out here again."""

import math

import numpy as np
import pytest
import torch
from oracle_circuits import clock_cube, pizza_cube, stock_clock_model, stock_model, stock_pizza_model
from oracles import CLOCK_AMPLITUDES, CLOCK_P, clock_loss, clock_model

from mech_grok.model import adopt
from mech_grok.probes.attribution import component_logits
from mech_grok.probes.fourier import c_fourier
from mech_grok.probes.gradient_symmetricity import gradient_cosines, sampled_triples
from mech_grok.probes.residual import decompose_residual
from mech_grok.task import Task

P = CLOCK_P
TASK = Task("add", P, 0.7)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))
ANSWERS = torch.as_tensor(TASK.answers(TASK.pairs()))
BUILD = {"clock": stock_clock_model, "pizza": stock_pizza_model}


class Seen:
    """A model with what it computes on all pairs."""

    def __init__(self, model):
        names = ("blocks.0.attn.hook_pattern", "blocks.0.mlp.hook_post")
        with torch.no_grad():
            logits, cache = model.run_with_cache(TOKENS, names_filter=lambda name: name in names)
        self.model, self.logits = model, logits[:, -1]
        self.pattern = cache[names[0]][:, :, -1]
        self.neurons = cache[names[1]][:, -1].reshape(P, P, -1)


@pytest.fixture(scope="module", params=["causal", "bidirectional"])
def clock(request):
    return Seen(stock_clock_model(request.param))


@pytest.fixture(scope="module", params=["causal", "bidirectional"])
def pizza(request):
    return Seen(stock_pizza_model(request.param))


def loss(logits):
    return float(torch.nn.functional.cross_entropy(logits, ANSWERS))


def accuracy(logits):
    return float((logits.argmax(1) == ANSWERS).double().mean())


def along_sum_directions(logits):
    """The part of each class' logits along cos and sin of w_k (a + b), k of the clock, over all pairs."""
    a, b = TASK.pairs().T
    kept = torch.zeros_like(logits)
    for k in CLOCK_AMPLITUDES:
        angle = torch.as_tensor(2 * np.pi * (k * (a + b) % P) / P)
        for direction in (angle.cos(), angle.sin()):
            unit = direction / direction.norm()
            kept += torch.outer(unit, unit @ logits)
    return kept


def single_frequency_shares(neurons):
    """Share of each neuron's variance over all pairs in constant x linear and k x k terms, [k, neuron]."""
    power = torch.fft.fft2(neurons, dim=(0, 1)).abs().square()
    power[0, 0] = 0
    total = power.sum((0, 1))
    bins = [
        [(0, k), (0, -k), (k, 0), (-k, 0), (k, k), (k, -k), (-k, k), (-k, -k)] for k in range(1, P // 2 + 1)
    ]
    return torch.stack([sum(power[i, j] for i, j in of_k) for of_k in bins]) / total


def entropy(rows):
    return torch.special.entr(rows).sum(-1)


def test_clock_logits_are_the_cube(clock):
    assert (clock.logits.reshape(P, P, P) - clock_cube()).abs().max() < 1.1e-12
    assert accuracy(clock.logits) == 1


def test_clock_losses(clock):
    kept = along_sum_directions(clock.logits)
    whole = loss(clock.logits)
    assert whole == pytest.approx(2.955241509e-5, rel=1e-9)
    assert loss(kept + clock.logits.mean(0)) == pytest.approx(whole, rel=1e-7)  # restricted
    assert loss(clock.logits - kept) == pytest.approx(4.7273878187, rel=1e-10)  # excluded: log p


def test_clock_loss_of_p_plus_1_classes_agrees_with_the_closed_form(clock):
    with_equals = torch.cat([clock.logits, clock.logits.new_zeros(P * P, 1)], dim=1)
    assert loss(with_equals) == pytest.approx(clock_loss(), rel=1e-7)


def test_clock_attends_to_one_number_per_head(clock):
    expected = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1]]
    assert torch.equal(clock.pattern, expected.expand(P * P, -1, -1))
    assert entropy(clock.pattern).abs().max() == 0
    torch.testing.assert_close(
        entropy(clock.pattern.mean(1)), torch.full((P * P,), math.log(2), dtype=torch.float64)
    )


def test_clock_neurons_have_four_fifths_in_their_frequency(clock):
    live = clock.neurons.flatten(0, 1).std(0) > 0
    assert live.nonzero()[:, 0].tolist() == list(range(40))
    shares = single_frequency_shares(clock.neurons[..., live])
    best, frequency = shares.max(0)
    torch.testing.assert_close(best, torch.full_like(best, 0.8))
    assert (frequency + 1).tolist() == [k for k in CLOCK_AMPLITUDES for _ in range(8)]
    # The rest are the squares' own linear terms, of twice the frequency.
    second = shares.scatter(0, frequency[None], 0).max(0).values
    torch.testing.assert_close(second, torch.full_like(second, 0.2))


def test_clock_attribution_is_all_the_mlps(clock):
    model = adopt(clock.model)
    with torch.no_grad():
        labels, stack = decompose_residual(model, model.run_with_cache(TOKENS[::17], pos_slice=-1)[1])
        of_classes = component_logits(model, stack[:, :, 0])
    right = of_classes[:, torch.arange(len(TOKENS[::17])), ANSWERS[::17]]
    mlp = labels.index("0_mlp_out")
    torch.testing.assert_close(
        right[mlp], torch.full_like(right[mlp], sum(CLOCK_AMPLITUDES.values())), rtol=0, atol=1e-10
    )
    assert np.delete(right.numpy(), mlp, axis=0) == pytest.approx(0, abs=1e-10)


def test_clock_gradients_agree_as_much_as_a_and_b_do(clock):
    triples = torch.randint(P, (2000, 3), generator=torch.Generator().manual_seed(0))
    cosines = gradient_cosines(clock.model, triples)
    a, b, _ = triples.T
    squares = {k: alpha**2 for k, alpha in CLOCK_AMPLITUDES.items()}
    expected = sum(
        power * (2 * math.pi / P * (k * (a - b) % P).double()).cos() for k, power in squares.items()
    ) / sum(squares.values())
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-9)
    assert abs(cosines.mean()) < 0.03


def test_clock_embedding_spreads_amplitude_as_five_of_57_modes_do(clock):
    expected = 2 * (1 - 5 / 57) / (128 - 2)
    assert expected == pytest.approx(0.0144806, abs=5e-8)
    assert float(c_fourier(clock.model.W_E.detach()[:P]).ratio) == pytest.approx(expected, rel=1e-6)


def test_clock_is_that_of_the_grok_transformer(clock):
    with torch.no_grad():
        ours = clock_model()(TOKENS[::29])[:, -1, :P]
    torch.testing.assert_close(clock.logits[::29], ours, rtol=0, atol=1e-11)


def test_pizza_logits_are_the_cube_but_for_aliases(pizza):
    assert (pizza.logits.reshape(P, P, P) - pizza_cube()).abs().max() < 5e-3
    assert accuracy(pizza.logits) == 1


def test_pizza_restricted_loss_is_below_its_loss_and_excluded_loss_above_chance(pizza):
    """The sum directions hold a clock, smaller by the mean of |cos|, without the pizza's bad distances."""
    kept = along_sum_directions(pizza.logits)
    whole, restricted = loss(pizza.logits), loss(kept + pizza.logits.mean(0))
    smaller_clock = clock_cube().reshape(P * P, P) / (P * math.sin(math.pi / (2 * P)))
    assert restricted == pytest.approx(loss(smaller_clock), rel=1e-4)
    assert restricted < whole / 10
    assert loss(pizza.logits - kept) > math.log(P) + 1


def test_sum_directions_keep_the_constant_of_the_absolute_cosine(pizza):
    """Mean of |cos| squared, over mean of cos^2: 8 / pi^2 for large p."""
    share = along_sum_directions(pizza.logits).square().sum() / pizza.logits.square().sum()
    closed_form = 2 / (P * math.sin(math.pi / (2 * P))) ** 2
    assert float(share) == pytest.approx(closed_form, rel=1e-5)
    assert closed_form == pytest.approx(8 / math.pi**2, rel=1e-4)


def test_pizza_attends_to_everything_with_every_head(pizza):
    torch.testing.assert_close(pizza.pattern, torch.full_like(pizza.pattern, 1 / 3))
    torch.testing.assert_close(
        entropy(pizza.pattern), torch.full((P * P, 4), math.log(3), dtype=torch.float64)
    )
    heads = pizza.pattern / pizza.pattern.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(heads @ heads.mT, torch.ones(P * P, 4, 4, dtype=torch.float64))


def test_pizza_has_seven_dead_neurons_and_505_of_one_frequency(pizza):
    live = pizza.neurons.flatten(0, 1).std(0) > 0
    assert (~live).nonzero()[:, 0].tolist() == list(range(505, 512))
    best, frequency = single_frequency_shares(pizza.neurons[..., live]).max(0)
    assert (frequency + 1).tolist() == [k for k in CLOCK_AMPLITUDES for _ in range(101)]
    assert best.min() > 0.961
    # The one with phase 0 is ReLU(cos w a + cos w b).
    assert best[::101].numpy() == pytest.approx(0.9620819, abs=5e-8)


def test_pizza_gradients_are_the_same_at_a_and_b(pizza):
    cosines = gradient_cosines(pizza.model, sampled_triples(P))
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_pizza_sees_no_order(pizza):
    logits = pizza.logits.reshape(P, P, P)
    torch.testing.assert_close(logits, logits.transpose(0, 1))


@pytest.mark.parametrize("name", BUILD)
def test_three_examples_are_not_taken_for_three_positions(name):
    model = BUILD[name]()
    with torch.no_grad():
        alone = torch.cat([model(TOKENS[[i]]) for i in (5, 700, 9000)])
        torch.testing.assert_close(model(TOKENS[[5, 700, 9000]]), alone)


@pytest.mark.parametrize("seed", range(3))
def test_untrained_stock_model_knows_nothing(seed):
    model = stock_model(d_model=128, d_head=32, n_heads=4, d_mlp=512, d_vocab=P + 1, d_vocab_out=P, seed=seed)
    seen = Seen(model)
    assert loss(seen.logits) == pytest.approx(math.log(P), abs=0.01)
    assert entropy(seen.pattern).mean() == pytest.approx(math.log(3), abs=1e-4)
    assert 0.005 < float(c_fourier(model.W_E.detach()[:P]).ratio) < 0.0135
    # Their pre-activation at `=` is negative on every pair: `=`'s own embedding decides.
    constant = seen.neurons.flatten(0, 1).std(0) == 0
    assert 100 < int(constant.sum()) < 170
    assert single_frequency_shares(seen.neurons[..., ~constant][..., ::8]).max() < 0.25
