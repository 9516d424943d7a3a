"""The cells of the figures: names, settings, order, and each once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.config import CellConfig, ModelConfig, OptimiserConfig, TrainingConfig
from mech_grok.errors import UserError
from mech_grok.paper.cells import LATTICE, PLACEMENTS
from mech_grok.paper.figures import FIGURES, find_figure
from mech_grok.paper.study import SEED_GROUPS, figure_cells, paper_runs, paper_study
from mech_grok.placement import Placement
from mech_grok.probe_names import PROBE_NAMES
from mech_grok.study_config import Stage, Work

NAMES = [figure.name for figure in FIGURES]
ALL = paper_study().all_cells()


def training(*seeds: int) -> TrainingConfig:
    return TrainingConfig(seeds=seeds, checkpoint_every=200)


def test_the_cell_of_a_placement() -> None:
    model = ModelConfig(activation="gelu", placement=Placement.of("mlp"))
    assert ALL["mlp-pre_seeds=456-789"] == CellConfig(model=model, training=training(456, 789))


def test_the_cell_of_a_learning_rate_keeps_its_product_with_weight_decay() -> None:
    cell = ALL["off_lr=0.003_weight_decay=0.3333_seeds=111-222-333"]
    optimiser = OptimiserConfig(lr=3e-3, weight_decay=1e-3 / 3e-3)
    model = ModelConfig(activation="gelu")
    assert cell == CellConfig(model=model, optimiser=optimiser, training=training(111, 222, 333))


def test_the_cell_of_a_readout_scale_keeps_weight_decay() -> None:
    cell = ALL["off_readout_scale=0.75_lr=0.001778_seeds=456-789"]
    optimiser = OptimiserConfig(lr=1e-3 / 0.75**2)
    assert cell == CellConfig(
        model=ModelConfig(activation="gelu", readout_scale=0.75),
        optimiser=optimiser,
        training=training(456, 789),
    )


def test_cells_without_epsilon_have_no_dead_neurons_and_subtract_in_one_of_two() -> None:
    cells = [cell for cell in ALL.values() if cell.optimiser.eps == 0]
    assert {(cell.model.activation, cell.model.init) for cell in cells} == {("gelu", "kaiming")}
    assert sum(cell.training.subtract_initial_prediction for cell in cells) == len(cells) / 2 == 18
    assert {cell.model.readout_scale for cell in cells} == {0.5, 0.75, 1.0, 1.25, 1.5}


@pytest.mark.parametrize(
    ("figure", "count"),
    [("fig2", 4), ("fig3", 7), ("fig4", 9), ("fig5", 27), ("fig7", 4), ("fig8", 4), ("fig9", 6), ("ntk", 9)],
)
def test_how_many_cells_a_figure_has(figure: str, count: int) -> None:
    assert len(figure_cells([figure])) == count


def test_the_sweeps_of_the_paper() -> None:
    def values(figure: str, section: str, key: str) -> set[float]:
        cells = paper_study([figure]).all_cells().values()
        return {getattr(getattr(cell, section), key) for cell in cells}

    assert values("fig9", "optimiser", "weight_decay") == {0.1, 0.2, 0.5, 0.75, 1.0, 1.5}
    assert values("fig4", "optimiser", "lr") == {1e-3, 3e-3, 5e-3, 1e-2}
    assert values("fig8", "model", "n_layers") == {3}
    assert values("fig8", "model", "d_model") == {64}
    rms = {
        cell.model.placement.specifier: cell.model.norm for cell in paper_study(["fig7"]).all_cells().values()
    }
    assert rms == {"mlp-pre": "rms", "pre": "rms", "attn-pre": "rms", "off": "ln"}  # off has no norm


def test_the_lattice_is_all_sixteen_subsets_without_and_with_qk_norm() -> None:
    cells = figure_cells(["lattice"])
    assert len({cell.placement for cell in cells}) == len(LATTICE) == 16
    assert len(cells) == 32
    assert sum(("model.qk_norm", True) in cell.settings for cell in cells) == 16


def test_the_order_of_training() -> None:
    names = list(paper_study(["fig2", "fig3"]).all_cells())
    order = ["mlp-pre", "pre-v", "attn-pre-v", "pre", "attn-pre", "off", "attn-pre-qk"]
    assert names == [f"{p}_seeds={s}" for s in ("456-789", "111-222-333") for p in order]
    assert [p.label for p in PLACEMENTS] == ["M", "M+A^v", "A^v", "M+A*", "A*", "No LN", "A^qk"]


def test_two_names_are_never_one_setting() -> None:
    assert len({cell.model_dump_json() for cell in ALL.values()}) == len(ALL) == 146


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    st.permutations([456, 789, 111]),
    st.integers(1, 2),
)
def test_each_cell_once_and_one_group_of_seeds_after_the_other(figures, seeds, first) -> None:
    groups = (tuple(seeds[:first]), tuple(seeds[first:]))
    study = paper_study(figures, groups)
    cells = figure_cells(figures)
    wanted = {cell.name for name in figures for cell in find_figure(name).cells}
    assert sorted(wanted) == sorted(cell.name for cell in cells)
    assert list(study.cells) == [cell.run_name(group) for group in groups for cell in cells]
    built = study.all_cells()
    assert all(built[cell.run_name(g)].training.seeds == g for g in groups for cell in cells)


@given(st.permutations(NAMES))
def test_the_papers_placements_keep_their_order_whatever_is_asked_for_first(figures) -> None:
    base = [cell.placement for cell in figure_cells(figures) if not cell.settings]
    assert [p for p in base if p in PLACEMENTS] == list(PLACEMENTS)


def test_labels() -> None:
    labels = {cell.name: cell.label for cell in figure_cells()}
    assert labels["off_lr=0.003_weight_decay=0.3333"] == "No LN, lr 0.003, weight decay 0.3333"
    assert labels["q+mlp_qk_norm=True"] == "q+mlp, qk norm"


def test_a_figure_pays_for_its_own_probes() -> None:
    assert find_figure("fig3").probes == ("shortcut", "attention")
    assert find_figure("ntk").probes == ("kernel",)
    assert find_figure("fig4").probes == ()
    assert {probe for figure in FIGURES for probe in figure.probes} <= set(PROBE_NAMES)


def test_a_cell_pays_for_the_figures_that_show_it() -> None:
    study = paper_study(["fig2", "fig4", "ntk"])
    both: tuple[Stage, ...] = ("train", "probe")
    for seeds in ("456-789", "111-222-333"):
        assert study.work_of(f"mlp-pre_seeds={seeds}") == Work(stages=both, probes=("fourier",))
        assert study.work_of(f"off_seeds={seeds}") == Work(stages=both, probes=("fourier", "kernel"))
        none = study.work_of(f"off_lr=0.003_weight_decay=0.3333_seeds={seeds}")
        assert none == Work(stages=("train",))


def test_a_run_is_to_have_the_curves_of_the_figures_that_show_it() -> None:
    """Each once, of those asked for, and of no others."""
    runs = {run.name: run for run in paper_runs(["fig2", "fig3"])}
    assert runs["mlp-pre_seeds=456-789"].curves == (
        *("train_loss", "test_loss", "test_accuracy", "c_fourier", "sr_train", "attention_entropy"),
    )
    assert "c_fourier" not in runs["attn-pre-qk_seeds=456-789"].curves
    assert runs["mlp-pre_seeds=456-789"].probes == ("fourier", "shortcut", "attention")
    everything = {run.cell: {*run.curves} for run in paper_runs()}
    for figure in FIGURES:
        assert all({*figure.curves} <= everything[cell] for cell in figure.cells)


def test_with_the_activation_of_the_authors_code() -> None:
    study = paper_study(["fig2"], activation="relu")
    assert study.study == "paper-relu"
    assert {cell.model.activation for cell in study.all_cells().values()} == {"relu"}
    assert list(study.cells) == list(paper_study(["fig2"]).cells)


def test_the_seeds_are_the_published_ones() -> None:
    assert tuple(seed for group in SEED_GROUPS for seed in group) == TrainingConfig().seeds


def test_an_unknown_figure() -> None:
    with pytest.raises(UserError, match="unknown figure 'fig10'; did you mean 'fig"):
        paper_study(["fig10"])
