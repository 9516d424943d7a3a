"""One update, in pieces: the same whatever the pieces, and norms as exact as float32 lets them be."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mech_grok.config import CellConfig
from mech_grok.model.parameter_groups import parameter_group
from mech_grok.parallel import Crew
from mech_grok.surgery.transplant import empty_state
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.update import Update

CONFIG = CellConfig.model_validate(
    {
        "task": {"p": 23},
        "model": {"d_model": 32, "n_heads": 2, "qk_norm": True, "placement": "qk+mlp"},
        "optimiser": {"lr": 1e-2, "eps": 1e-4, "weight_decay": 0.5},
        "training": {"seeds": [3, 1, 5]},
    }
)


@pytest.fixture(params=[1, 2, 3])
def crew(request: pytest.FixtureRequest) -> Crew:
    return Crew(request.param)


def begun(crew: Crew) -> tuple[ParameterStack, Update]:
    stack = ParameterStack.initial(CONFIG)
    return stack, Update(stack, CONFIG.optimiser, crew)


def gradients() -> Iterator[Tensor]:
    """As wide apart as those of parts that have generalised and parts that have not."""
    stack, generator = ParameterStack.initial(CONFIG), torch.Generator().manual_seed(0)
    scale = torch.logspace(-6, 0, stack.flat.shape[1])
    while True:
        yield torch.randn(stack.flat.shape, generator=generator) * scale


def by_torch(steps: int) -> Tensor:
    """The weights after updates by torch's optimiser on the whole matrix."""
    stack, o = ParameterStack.initial(CONFIG), CONFIG.optimiser
    weights = torch.nn.Parameter(stack.flat)
    adamw = torch.optim.AdamW([weights], o.lr, (o.beta1, o.beta2), o.eps, o.weight_decay, fused=True)
    for weights.grad, _ in zip(gradients(), range(steps), strict=False):
        adamw.step()
    return weights.detach()


def test_pieces_update_as_torchs_optimiser_does_the_whole(crew: Crew) -> None:
    stack, update = begun(crew)
    for gradient, _ in zip(gradients(), range(3), strict=False):
        update.gradient.copy_(gradient)
        update.step()
    torch.testing.assert_close(stack.flat, by_torch(3), rtol=1e-6, atol=1e-8)


def test_norms_are_those_of_every_parameter_by_part(crew: Crew) -> None:
    stack, update = begun(crew)
    for gradient, _ in zip(gradients(), range(2), strict=False):
        before = stack.flat.clone()
        update.gradient.copy_(gradient)
        found = update.step()
    for matrix, norms in zip((gradient, before, before - stack.flat), found, strict=True):
        torch.testing.assert_close(norms, exact_norms(stack, matrix), rtol=1e-7, atol=0)


def exact_norms(stack: ParameterStack, matrix: Tensor) -> Tensor:
    """[seed, part], parameter by parameter in float64."""
    sizes = {name: value[0].numel() for name, value in stack.named().items()}
    squares = dict.fromkeys(stack.groups, torch.zeros(len(matrix), dtype=torch.float64))
    for name, piece in zip(sizes, matrix.double().split(list(sizes.values()), dim=1), strict=True):
        squares[parameter_group(name)] = squares[parameter_group(name)] + piece.square().sum(1)
    return torch.stack(list(squares.values()), dim=1).sqrt()


def test_state_continues_bit_for_bit_with_as_many_pieces(crew: Crew) -> None:
    source = gradients()
    stack, update = begun(crew)
    assert update.state() == {}
    update.load_state({})
    for _ in range(2):
        update.gradient.copy_(next(source))
        update.step()
    other_stack, other = begun(crew)
    other_stack.flat.copy_(stack.flat)
    other.load_state({name: x.clone() for name, x in update.state().items()})
    last = next(source)
    for each in (update, other):
        each.gradient.copy_(last)
    assert torch.equal(update.step(), other.step())
    assert torch.equal(stack.flat, other_stack.flat)
    assert other.state()["step"] == 3
    assert torch.equal(update.state()["exp_avg_sq"], other.state()["exp_avg_sq"])


def test_a_state_that_begins_anew_is_a_state(crew: Crew) -> None:
    """As a fork's is whose optimiser is reset: its first checkpoint has one, to begin from again."""
    stack, update = begun(crew)
    update.load_state(empty_state(stack))
    state = update.state()
    assert state["step"] == 0
    assert not state["exp_avg"].any()
    assert state["exp_avg"].shape == stack.flat.shape


def test_a_seed_is_updated_as_alone(crew: Crew) -> None:
    """One that diverges leaves the others as they are."""
    stack, update = begun(crew)
    gradient = next(gradients())
    update.gradient.copy_(gradient)
    update.gradient[1] = torch.nan
    norms = update.step()
    healthy, other = begun(crew)
    other.gradient.copy_(gradient)
    expected = other.step()
    assert stack.flat[1].isnan().all()
    assert norms[0, 1].isnan().all()
    for row in (0, 2):
        assert torch.equal(stack.flat[row], healthy.flat[row])
        assert torch.equal(norms[:, row], expected[:, row])
