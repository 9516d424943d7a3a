"""One update is AdamW on the hooked model's gradients, and the metric rows mean what is said."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mech_grok.config import CellConfig
from mech_grok.model import GrokTransformer
from mech_grok.placement import Placement, all_placements
from mech_grok.task import Split
from mech_grok.training.data import examples
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import COLUMNS, GROUP_COLUMNS, Rows, Trainer

P, SEED = 7, 3


def cell(**settings: object) -> CellConfig:
    """A cell of two seeds in float64 at p = 7, changed at dotted keys written with `__`."""
    tree: dict[str, dict[str, object]] = {
        "task": {"p": P},
        "model": {"d_model": 16, "n_heads": 2},
        "optimiser": {},
        "training": {"seeds": [SEED, 1], "steps": 12, "dtype": "float64", "evaluate_every": 3},
    }
    for key, value in settings.items():
        section, _, leaf = key.partition("__")
        tree[section][leaf] = value
    return CellConfig.model_validate(tree)


def trainer_of(config: CellConfig) -> Trainer:
    return Trainer(config, ParameterStack.initial(config))


def hooked_model(trainer: Trainer, row: int = 0) -> GrokTransformer:
    """The model that holds one seed's parameters as they are now."""
    config = trainer.config
    model = GrokTransformer(config.model, P, dtype=getattr(torch, config.training.dtype))
    stack = trainer.parameters
    values = {**stack.named(), **stack.frozen}
    with torch.no_grad():
        for name, parameter in {**model.trained_parameters(), **model.frozen_parameters()}.items():
            parameter.copy_(values[name][row])
    return model


def hooked_logits(model: GrokTransformer, config: CellConfig, split: Split, row: int = 0) -> Tensor:
    task, seed = config.task.task, config.training.seeds[row]
    pairs = task.pairs()[task.split_indices(seed)[split]]
    return model(torch.from_numpy(task.tokens(pairs)))[:, -1]


def loss_of(logits: Tensor, config: CellConfig, split: Split, row: int = 0) -> Tensor:
    return F.cross_entropy(logits.double(), examples(config, split).answers[row])


class AdamWByHand:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), one tensor at a time."""

    def __init__(self, config: CellConfig):
        self.o = config.optimiser
        self.t = 0
        self.m: dict[str, Tensor] = {}
        self.v: dict[str, Tensor] = {}

    def step(self, values: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        self.t += 1
        return {name: self._one(name, values[name], gradients[name]) for name in values}

    def _one(self, name: str, theta: Tensor, g: Tensor) -> Tensor:
        o, zero = self.o, torch.zeros_like(g)
        self.m[name] = o.beta1 * self.m.get(name, zero) + (1 - o.beta1) * g
        self.v[name] = o.beta2 * self.v.get(name, zero) + (1 - o.beta2) * g**2
        m_hat = self.m[name] / (1 - o.beta1**self.t)
        v_hat = self.v[name] / (1 - o.beta2**self.t)
        return theta - o.lr * (m_hat / (v_hat.sqrt() + o.eps) + o.weight_decay * theta)


def move_off_initialisation(stack: ParameterStack) -> None:
    """So that no gain is 1 and no bias 0."""
    noise = torch.randn(stack.flat.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stack.flat += 0.1 * noise


@pytest.mark.parametrize("placement", all_placements(), ids=str)
def test_an_update_is_adamw_on_the_hooked_models_gradients(placement: Placement) -> None:
    """Two updates, so that moments and bias corrections count; eps is large enough to be seen."""
    config = cell(
        model__placement=placement,
        training__seeds=[SEED],
        optimiser__lr=1e-2,
        optimiser__eps=1e-4,
        optimiser__weight_decay=0.5,
    )
    trainer, by_hand = trainer_of(config), AdamWByHand(config)
    move_off_initialisation(trainer.parameters)
    for update in (1, 2):
        model = hooked_model(trainer)
        values = model.trained_parameters()
        loss = loss_of(hooked_logits(model, config, "train"), config, "train")
        gradients = torch.autograd.grad(loss, list(values.values()))
        expected = by_hand.step(
            {n: v.detach() for n, v in values.items()}, dict(zip(values, gradients, strict=True))
        )
        trainer.advance(1)
        got = trainer.parameters.named()
        assert got.keys() == expected.keys()
        errors = {name: (got[name][0] - expected[name]).abs().max().item() for name in got}
        worst = max(errors, key=lambda name: errors[name])
        assert errors[worst] < 1e-12, (
            f"{placement}, update {update}: {worst} is off by {errors[worst]:.1e} from AdamW by hand "
            "on the gradients of the hooked model; the fast forward pass, the loss or the optimiser "
            "no longer trains the model that is studied"
        )


def test_rows_hold_what_they_say_before_and_after_the_update() -> None:
    config = cell(model__placement="M")
    trainer = trainer_of(config)
    train, test = examples(config, "train"), examples(config, "test")
    for step in range(1, 8):
        theta, trained = trainer.parameters.flat.clone(), trainer.evaluate(train)
        rows = {name: values[:, 0] for name, values in trainer.advance(1).items()}
        assert tuple(rows) == (*COLUMNS, *GROUP_COLUMNS)
        after, tested = trainer.parameters.flat, trainer.evaluate(test)
        assert rows["train_loss"] == pytest.approx(trained.loss.numpy(), rel=1e-12)
        assert rows["train_accuracy"] == pytest.approx(trained.accuracy.numpy())
        assert rows["weight_norm"] == pytest.approx(theta.norm(dim=1).numpy(), rel=1e-12)
        assert rows["grad_norm"] == pytest.approx(trainer.update.gradient.norm(dim=1).numpy(), rel=1e-12)
        assert rows["update_norm"] == pytest.approx((after - theta).norm(dim=1).numpy(), rel=1e-12)
        matrices = {"weight": theta, "grad": trainer.update.gradient, "update": after - theta}
        for of, matrix in matrices.items():
            assert rows[f"group_{of}_norm"] == pytest.approx(norms_by_part(trainer, matrix), rel=1e-12)
        if step in (1, 3, 6):
            assert rows["test_loss"] == pytest.approx(tested.loss.numpy(), rel=1e-12)
            assert rows["test_accuracy"] == pytest.approx(tested.accuracy.numpy())
        else:
            assert np.isnan([rows["test_loss"], rows["test_accuracy"]]).all()
    assert trainer.step == 7


def norms_by_part(trainer: Trainer, matrix: Tensor) -> np.ndarray:
    """[seed][part] from the matrix of each seed, cut up by the names and shapes of the model's parameters."""
    trained = hooked_model(trainer, 0).trained_parameters()
    attention = {f"0_W_{x}" for x in "QKVO"}
    assert {*trainer.parameters.groups} == {
        *("embed", "pos_embed", "0_norms", *attention, "0_mlp_in", "0_mlp_out", "unembed")
    }
    norms = []
    for row in matrix:
        pieces = dict(zip(trained, row.split([x.numel() for x in trained.values()]), strict=True))
        squares = dict.fromkeys(trainer.parameters.groups, 0.0)
        for name, piece in pieces.items():
            layer, _, rest = name.removeprefix("blocks.").partition(".")
            part = layer
            if layer == "0":
                part = {"a": f"0_{rest.partition('.')[2]}", "l": "0_norms", "m": f"0_mlp_{rest[6:]}"}[rest[0]]
            squares[part] += piece.square().sum().item()
        norms.append([x**0.5 for x in squares.values()])
    return np.array(norms)


def test_losses_and_accuracies_are_the_hooked_models() -> None:
    config = cell(model__placement="pre")
    trainer = trainer_of(config)
    trainer.advance(5)
    for split in ("train", "test"):
        data = examples(config, split)
        scored = trainer.evaluate(data)
        for row in (0, 1):
            logits = hooked_logits(hooked_model(trainer, row), config, split, row)
            right = (logits.argmax(-1) == data.answers[row]).double().mean()
            assert scored.loss[row] == pytest.approx(loss_of(logits, config, split, row).item(), rel=1e-10)
            assert scored.accuracy[row] == pytest.approx(right.item())


def test_the_first_update_is_a_sign_and_the_decay() -> None:
    """Adam's first step is g / (|g| + eps), so lr * |sign(g) + wd * theta|_2 where |g| is far above eps."""
    config = cell(optimiser__eps=1e-14, optimiser__weight_decay=0.7)
    trainer = trainer_of(config)
    theta = trainer.parameters.flat.clone()
    rows = trainer.advance(1)
    step = trainer.update.gradient.sign() + 0.7 * theta
    expected = config.optimiser.lr * step.norm(dim=1)
    assert rows["update_norm"][:, 0] == pytest.approx(expected.numpy(), rel=1e-6)


def alone(config: CellConfig, row: int, steps: int) -> tuple[Tensor, Rows]:
    seeds = [config.training.seeds[row]]
    one = config.model_copy(update={"training": config.training.model_copy(update={"seeds": tuple(seeds)})})
    trainer = trainer_of(one)
    rows = trainer.advance(steps)
    return trainer.parameters.flat, rows


def same_bits(rows: Rows, row: int, expected: Rows) -> bool:
    return all(np.array_equal(rows[n][row], expected[n][0], equal_nan=True) for n in COLUMNS)


@pytest.mark.parametrize("placement", ["M", "A^qk"])
def test_stacked_seeds_are_each_seed_alone_bit_for_bit(placement: str) -> None:
    config = cell(model__placement=placement, training__dtype="float32")
    trainer = trainer_of(config)
    rows = trainer.advance(6)
    for row in (0, 1):
        flat, expected = alone(config, row, 6)
        assert torch.equal(trainer.parameters.flat[row], flat[0])
        assert same_bits(rows, row, expected)


def test_a_seed_that_diverges_leaves_the_other_bit_for_bit() -> None:
    config = cell(model__placement="M", training__dtype="float32")
    trainer = trainer_of(config)
    trainer.parameters.flat[0, 11] = torch.nan
    rows = trainer.advance(6)
    assert np.isnan(rows["train_loss"][0]).all()
    assert (rows["train_accuracy"][0] == 0).all()
    flat, expected = alone(config, 1, 6)
    assert torch.equal(trainer.parameters.flat[1], flat[0])
    assert same_bits(rows, 1, expected)


def test_advance_stops_after_the_update_at_which_it_is_asked_to() -> None:
    trainer = trainer_of(cell())
    rows = trainer.advance(5, stop=lambda: trainer.step == 2)
    assert trainer.step == 2
    assert rows["train_loss"].shape == (2, 2)


def test_subtracting_the_initial_prediction_starts_from_uniform_logits() -> None:
    config = cell(training__subtract_initial_prediction=True, training__seeds=[SEED])
    trainer = trainer_of(config)
    initial = hooked_model(trainer)
    rows = trainer.advance(3)
    assert rows["train_loss"][0, 0] == pytest.approx(math.log(P + 1), rel=1e-14)
    now = hooked_model(trainer)
    difference = hooked_logits(now, config, "test") - hooked_logits(initial, config, "test")
    assert rows["test_loss"][0, 2] == pytest.approx(loss_of(difference, config, "test").item(), rel=1e-12)


def test_scaling_in_the_loss_leaves_the_logits_unscaled_and_training_as_it_was() -> None:
    in_logits = trainer_of(cell(model__readout_scale=0.3))
    in_loss = trainer_of(cell(model__readout_scale=0.3, model__scale_in_loss=True))
    expected, got = in_logits.advance(6), in_loss.advance(6)
    for name in COLUMNS:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-9)
    scaled, raw = (
        hooked_logits(hooked_model(trainer), trainer.config, "test") for trainer in (in_logits, in_loss)
    )
    torch.testing.assert_close(scaled, 0.3 * raw, rtol=1e-7, atol=1e-9)
