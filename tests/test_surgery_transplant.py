"""One placement's weights in a model of another, and the gains at which lengths stay the same."""

from pathlib import Path

import pytest
import torch
from forks import BASE, cell, child_of, train, train_parents
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.model import GrokTransformer
from mech_grok.placement import Placement, all_placements
from mech_grok.run import Run
from mech_grok.surgery.match_scale import match_scale
from mech_grok.surgery.parent import check_surgery
from mech_grok.surgery.transplant import transplant
from mech_grok.training.parameters import ParameterStack

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs to begin from."""
    return train_parents(tmp_path_factory.mktemp("runs"), "exact-off", "exact-v")


AFFINE_LEAVES = ("w", "b")


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(all_placements()),
    st.sampled_from(all_placements()),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["ln", "rms"]),
)
def test_kept_new_and_dropped(before: Placement, after: Placement, shared: bool, frozen: bool, norm: str):
    """Kept: bit for bit. New: only norms, at gain 1 and bias 0. Dropped: what only the parent has."""
    model = {**BASE["model"], "shared_affine": shared, "freeze_norm_affine": frozen, "norm": norm}
    model |= {"init_scale": 0.5, "n_layers": 2}
    parent, child = (
        cell(model={**model, "placement": placement}, training__seeds=[3, 1]) for placement in (before, after)
    )
    stack = ParameterStack.initial(parent)
    weights = {name: torch.randn_like(x) for name, x in {**stack.named(), **stack.frozen}.items()}
    moved = transplant(weights, parent.model, child)
    own = {**moved.parameters.named(), **moved.parameters.frozen}
    assert set(own) == {*moved.kept, *moved.new}
    assert set(weights) == {*moved.kept, *moved.dropped}
    assert all(torch.equal(own[name], weights[name]) for name in moved.kept)
    for name in moved.new:
        assert name.rpartition(".")[2] in AFFINE_LEAVES
        assert (own[name] == (1 if name.endswith(".w") else 0)).all()
    if before == after:
        assert (moved.new, moved.dropped) == ((), ())
    if "post" in (before.arrangement, after.arrangement) and before != after:
        assert not any(".ln" in name for name in moved.kept)  # ln1 and ln2 are on the stream there
    elif before.arrangement == after.arrangement == "pre" and shared:
        both = before.pathways & after.pathways
        assert ("blocks.1.ln2.w" in moved.kept) == ("mlp" in both)
        assert ("blocks.1.ln1.w" in moved.kept) == bool(
            before.pathways - {"mlp"} and after.pathways - {"mlp"}
        )


@pytest.mark.parametrize(("before", "after", "value"), [(None, 2.0, 2.0), (3.0, None, None), (3.0, 3.0, 5.0)])
def test_attention_factors(before: float | None, after: float | None, value: float | None) -> None:
    """New as the config has it; kept as the parent's checkpoint has it, which is what was solved last."""
    parent, child = cell(model__attention_factor=before), cell(model__attention_factor=after)
    stack = ParameterStack.initial(parent)
    stack.frozen = {name: torch.full_like(x, 5.0) for name, x in stack.frozen.items()}
    moved = transplant({**stack.named(), **stack.frozen}, parent.model, child)
    assert [float(x.unique()) for x in moved.parameters.frozen.values()] == ([] if value is None else [value])
    check_surgery(
        child.model_copy(update={"surgery": None}), parent, Path("parent")
    )  # allowed where one has none, or both the same


# Matched scales


def lengths(model: GrokTransformer, tokens: torch.Tensor, layer: int, reader: str, everywhere: bool) -> float:
    """Mean L2 norm of what a reader reads, from a cache of the hooked model."""
    _, cache = model.run_with_cache(tokens)
    name = {"resid_mid": "hook_resid_mid", "mlp_out": "hook_mlp_out"}.get(reader, f"norm_{reader}.hook_out")
    x = cache[f"blocks.{layer}.{name}"]
    return float((x if everywhere else x[:, -1:]).norm(dim=-1).mean())


@torch.no_grad()
def matched(parent: Run, placement: str, **changes: object) -> tuple[dict[int, GrokTransformer], dict]:
    """The child's first models under match_scale, and the gains chosen."""
    config = child_of(parent, placement, parent.steps[-1] - 10, surgery__match_scale=True, **changes)
    step = config.first_step
    moved = transplant(parent.weights(step), parent.config.model, config)
    gains = match_scale(parent, step, config, moved)
    own = {**moved.parameters.named(), **moved.parameters.frozen}
    models = {}
    for row, seed in enumerate(config.training.seeds):
        models[seed] = GrokTransformer(config.model, config.task.p, dtype=torch.float64)
        parameters = dict(models[seed].named_parameters())
        for name, value in own.items():
            parameters[name].copy_(value[row])
    return models, gains


def test_a_gain_is_the_mean_length_over_the_root_of_the_width(home: Path) -> None:
    """A standardised vector has length sqrt(d_model), so the gain of M's norm has a closed form."""
    parent = Run(home / "exact-off")
    models, gains = matched(parent, "M")
    for seed, model in models.items():
        tokens = parent.tokens("train", seed)
        length = lengths(parent.model(seed, 30), tokens, 0, "resid_mid", everywhere=False)
        assert gains[seed] == {"blocks.0.ln2.w": pytest.approx(length / 4, rel=1e-9)}
        assert (model.blocks[0].ln2.w == gains[seed]["blocks.0.ln2.w"]).all()
        assert (model.blocks[0].ln2.b == 0).all()
        assert lengths(model, tokens, 0, "mlp", False) == pytest.approx(length, rel=1e-9)
    assert gains[3] != gains[1]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two layers, no norms."""
    config = cell(model__n_layers=2, training__steps=20, training__optimiser_state_every=10)
    return train(tmp_path_factory.mktemp("deep") / "off", config)


@pytest.mark.parametrize(
    ("placement", "groups"),
    [
        ("M+A*", [("q", "k", "v"), ("mlp",)]),
        ("post", [("resid_mid",)]),
        pytest.param("A^qk", [("q", "k")], marks=slow),
        pytest.param("peri", [("q", "k", "v"), ("mlp",), ("mlp_out",)], marks=slow),
    ],
)
def test_new_norms_write_vectors_as_long_as_were_read_there(deep: Run, placement: str, groups: list) -> None:
    """Sums over the pathways of one gain; in the last layer only k and v are read at all positions."""
    models, gains = matched(deep, placement)
    for seed, model in models.items():
        tokens, before = deep.tokens("train", seed), deep.model(seed, 10)
        for layer in (0, 1):
            for group in groups:
                measured = [
                    sum(lengths(m, tokens, layer, x, layer == 0 or x in ("k", "v")) for x in group)
                    for m in (before, model)
                ]
                assert measured[1] == pytest.approx(measured[0], rel=1e-9), (layer, group)
        assert all(gain > 0 and abs(gain - 1) > 1e-3 for gain in gains[seed].values())


def test_a_norm_that_joins_another_keeps_its_gain(home: Path) -> None:
    parent = Run(home / "exact-v")
    models, gains = matched(parent, "M+A*")
    assert gains[3].keys() == {"blocks.0.ln2.w"}
    assert torch.equal(models[3].blocks[0].ln1.w, parent.weights(30)["blocks.0.ln1.w"][0])
