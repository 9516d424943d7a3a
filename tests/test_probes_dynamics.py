import numpy as np
import pytest
import torch
from oracles import PLACEMENTS, random_model
from recordings import load

from mech_grok.model import import_reference
from mech_grok.model.parameter_groups import parameter_group
from mech_grok.probes import Anchor, Anchors, measure
from mech_grok.probes.dynamics import train_gradient, trained_parameters
from mech_grok.probes.observation import Needs, observe
from mech_grok.task import Task
from mech_grok.training.loss import cross_entropy

P = 5
TASK = Task("add", P, 0.6)
SPLIT = TASK.split_indices(0)
TOKENS = torch.as_tensor(TASK.tokens(TASK.pairs()))
ANSWERS = torch.as_tensor(TASK.answers(TASK.pairs()))

VARIANTS = [{}, {"n_layers": 2, "norm": "rms", "activation": "swiglu", "final_norm": "on"}, {"qk_norm": True}]


def dynamics(model, split=SPLIT, initial=None):
    def seen():
        return observe(initial, TASK, split, Needs())

    anchors = Anchors(None if initial is None else Anchor(seen))
    return measure(model, TASK, split, ["dynamics"], anchors)["dynamics"]


def gradient_of_all_positions(model, index):
    """By a plain backward pass, into `.grad`."""
    model.zero_grad()
    cross_entropy(model(TOKENS[index])[:, -1], ANSWERS[index], model.unembed.loss_scale).mean().backward()
    gradient = {name: x.grad.clone() for name, x in trained_parameters(model).items()}
    model.zero_grad(set_to_none=True)
    return gradient


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("settings", VARIANTS, ids=["plain", "deep", "qk-norm"])
def test_gradient_is_that_of_the_whole_model(placement, settings):
    model = random_model(P, placement=placement, **settings)
    train = torch.as_tensor(SPLIT["train"])
    expected = gradient_of_all_positions(model, train)
    actual = train_gradient(model, TOKENS[train], ANSWERS[train])
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-12, rtol=1e-9, msg=name)
    assert all(x.grad is None for x in model.parameters())


def test_norms_by_part_are_those_of_the_tensors_and_sum_in_squares_to_the_whole():
    model, initial = (random_model(P, placement="pre", n_layers=2, seed=seed) for seed in (1, 2))
    seen = dynamics(model, initial=initial)
    weights, before = trained_parameters(model), trained_parameters(initial)
    gradient = gradient_of_all_positions(model, torch.as_tensor(SPLIT["train"]))
    expected = {
        "weight": weights,
        "gradient": gradient,
        "moved": {n: x - before[n] for n, x in weights.items()},
    }
    for of, named in expected.items():
        for group in seen["group"].values:
            values = [x.detach().numpy().ravel() for n, x in named.items() if parameter_group(n) == group]
            norm = np.linalg.norm(np.concatenate(values))
            assert float(seen[f"{of}_norm_by_group"].sel(group=group)) == pytest.approx(norm, rel=1e-10)
        squares = float((seen[f"{of}_norm_by_group"] ** 2).sum())
        assert float(seen[f"{of}_norm"]) ** 2 == pytest.approx(squares, rel=1e-12)


def test_every_parameter_is_in_one_part():
    model = random_model(P, placement="peri", n_layers=2, final_norm="on", shared_affine=False)
    parts = {"W_Q", "W_K", "W_V", "W_O", "mlp_in", "mlp_out", "norms"}
    expected = {"embed", "pos_embed", "unembed", "final_norm", *(f"{i}_{x}" for i in (0, 1) for x in parts)}
    assert set(dynamics(model)["group"].values) == expected


@pytest.mark.parametrize("name", ["p23_off", "p23_pre", "p23_attn-pre-qk"])
@pytest.mark.parametrize("step", [0, 100, 200])
def test_norms_are_those_that_the_reference_logged(name, step):
    """Row t + 1 of the log is measured on the parameters of checkpoint t."""
    record = load(name)
    model = import_reference(record.weights(step), record.meta["model"])
    task = Task("add", record.meta["P"], 0.7)
    seen = measure(model, task, task.split_indices(record.meta["data_seed"]), ["dynamics"])["dynamics"]
    logged = record.log["weight_norm"][step] ** 2 - record.unread_gains
    assert float(seen["weight_norm"]) ** 2 == pytest.approx(logged, rel=1e-5)
    assert float(seen["gradient_norm"]) == pytest.approx(record.log["grad_norm"][step], rel=1e-4)


def test_a_model_is_nowhere_from_itself_and_its_start_may_be_unknown():
    model = random_model(P)
    assert float(dynamics(model, initial=model)["moved_norm"]) == 0
    unknown = dynamics(model)
    assert np.isnan(unknown["moved_norm"])
    assert np.isnan(unknown["moved_norm_by_group"]).all()


def test_without_training_pairs_there_is_no_gradient():
    seen = dynamics(random_model(P), {"train": np.arange(0), "test": np.arange(P * P)})
    assert np.isnan(seen["gradient_norm"])
    assert np.isnan(seen["scaling_cosine"])
    assert np.isfinite(seen["weight_norm"])


def test_scaling_cosine_is_that_of_descent_and_weights():
    model = random_model(P)
    seen = dynamics(model)
    gradient = gradient_of_all_positions(model, torch.as_tensor(SPLIT["train"]))
    theta = torch.cat([x.detach().flatten() for x in trained_parameters(model).values()])
    g = torch.cat([x.flatten() for x in gradient.values()])
    assert float(seen["scaling_cosine"]) == pytest.approx(
        (-(theta @ g) / theta.norm() / g.norm()).item(), rel=1e-9
    )
