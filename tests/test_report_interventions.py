"""The report of interventions without training: the ablation grid, interactions, scale, attention factors."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from embedded_page import embedded
from fake_runs import FACTORS, INTERVENTIONS, SETS, FakeRun, fake_run
from hypothesis import given
from hypothesis import strategies as st

from mech_grok.report import ablation_figures, ablation_sections, ablation_tables, curves, study_report
from mech_grok.report.ablation_arrays import (
    MOST_OF_A_PAGE,
    MOST_SEED_CHECKPOINTS,
    QUANTITIES,
    SCORES,
    compute_grid,
    compute_scales,
    usual_intervention,
)
from mech_grok.report.checkpoints import largest, time_span
from mech_grok.report.section import Section

JOINT = ("q+k", "q+k+v", "q+k+v+mlp")


@pytest.fixture(scope="module")
def runs() -> list[FakeRun]:
    return [fake_run("mlp-pre", "mlp", late=600), fake_run("off", "", late=900)]


@pytest.fixture(scope="module")
def section(runs: list[FakeRun]) -> Section:
    section = ablation_sections.ablations(runs)
    assert section
    return section


def grid_of(run: FakeRun) -> xr.Dataset:
    assert run.ablations is not None
    return run.ablations


def older(run: FakeRun) -> FakeRun:
    """The run with the ablation grid of an earlier version: two interventions, loss and accuracy only."""
    names = ["loss", "accuracy", "loss_change", "accuracy_change"]
    return dataclasses.replace(run, ablations=grid_of(run)[names].sel(intervention=["bypass", "insert"]))


# ---- the numbers ----------------------------------------------------------------------------------------


def test_the_grid_holds_every_quantity_on_its_split(runs: list[FakeRun]) -> None:
    quantities, arrays = compute_grid(runs, "change")
    assert quantities == QUANTITIES
    assert [a.cell.name for a in arrays] == ["mlp-pre", "off"]
    for array, run in zip(arrays, runs, strict=True):
        assert array.coords == (tuple(q.name for q in QUANTITIES), tuple(INTERVENTIONS), tuple(SETS))
        for i, q in enumerate(QUANTITIES):
            expected = grid_of(run)[f"{q.variable}_change"].sel(split=q.split)
            np.testing.assert_array_equal(array.values[:, :, i], expected.values)


def test_interactions_are_those_of_sets_of_several_pathways(runs: list[FakeRun]) -> None:
    _, arrays = compute_grid(runs, "interaction")
    assert {a.coords[2] for a in arrays} == {JOINT}
    change = grid_of(runs[0])["loss_change"].sel(split="test", intervention="zero")
    parts = sum(change.sel(pathways=part) for part in "qk")
    zero = arrays[0].values[:, :, 0, INTERVENTIONS.index("zero"), 0]
    np.testing.assert_allclose(zero, change.sel(pathways="q+k") - parts, rtol=1e-4, atol=1e-6)


def test_quantities_without_a_value_are_left_out(runs: list[FakeRun]) -> None:
    bare = [dataclasses.replace(run, ablations=grid_of(run).copy(deep=True)) for run in runs]
    for run in bare:
        grid_of(run)["restricted_loss_change"][:] = np.nan
    quantities, arrays = compute_grid(bare, "change")
    assert "restricted loss" not in [q.name for q in quantities]
    assert {a.values.shape[2] for a in arrays} == {len(QUANTITIES) - 1}


def test_an_older_grid_is_drawn_as_far_as_it_goes(runs: list[FakeRun]) -> None:
    quantities, arrays = compute_grid([older(run) for run in runs], "change")
    assert [q.name for q in quantities] == ["test loss", "train loss", "test accuracy"]
    assert {a.coords[1] for a in arrays} == {("bypass", "insert")}
    assert compute_grid([older(run) for run in runs], "interaction") == ((), ())
    section = ablation_sections.ablations([older(run) for run in runs])
    assert section
    assert [f.slug for f in section.figures] == ["change", "change-history"]
    assert ablation_sections.scale_reliance([older(run) for run in runs]) is None


def test_older_and_newer_grids_share_a_page(runs: list[FakeRun]) -> None:
    _, (new, old) = compute_grid([runs[0], older(runs[1])], "change")
    assert new.coords == old.coords
    assert np.isnan(old.values[:, :, :, 2:]).all()
    assert np.isnan(old.values[:, :, 3:]).all()


def test_scales_are_those_of_the_pathways_and_of_the_scores(runs: list[FakeRun]) -> None:
    array = compute_scales(runs)[0]
    assert array.coords == ((*SETS, SCORES), ("train", "test"), tuple(FACTORS))
    scale = grid_of(runs[0])["scale_loss_change"].sel(pathways="v", split="test")
    np.testing.assert_array_equal(array.values[:, :, SETS.index("v"), 1], scale.values)
    temperature = grid_of(runs[0])["temperature_loss_change"].sel(split="train")
    np.testing.assert_array_equal(array.values[:, :, -1, 0], temperature.values)


def test_each_cell_has_its_usual_intervention(runs: list[FakeRun]) -> None:
    _, arrays = compute_grid(runs, "change")
    assert [usual_intervention(a) for a in arrays] == ["bypass", "insert"]


@pytest.mark.parametrize(("seeds", "most"), [((1, 2), 128), ((1, 2, 3, 4, 5), 51)])
def test_a_long_run_stays_below_a_megabyte(seeds: tuple[int, ...], most: int) -> None:
    run = fake_run("pre", "q+k+v+mlp", late=5000, seeds=seeds, steps=3000, every=10)
    arrays = [compute_grid([run], "change")[1], compute_grid([run], "interaction")[1], compute_scales([run])]
    steps = arrays[0][0].steps
    assert (steps[0], steps[-1]) == (0, 3000)
    assert most / 2 < len(steps) <= most + 1
    base64 = sum(a.values.nbytes for (a,) in arrays) * 4 / 3
    assert base64 < 1e6 * (1 + 1 / MOST_SEED_CHECKPOINTS * len(seeds))


def test_many_cells_have_fewer_checkpoints_each() -> None:
    run = fake_run("off", "", late=500, seeds=(1, 2, 3, 4), steps=1000, every=10)
    counts = [len(compute_grid([run] * cells, "change")[1][0].steps) for cells in (1, 2, 8)]
    assert counts[0] == counts[1] == 51  # of 101, every second one
    assert counts[2] == 16
    assert counts[2] * 4 * 8 <= MOST_OF_A_PAGE


# ---- the figures ----------------------------------------------------------------------------------------


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 10))
def test_the_signed_logarithm_is_odd_and_linear_near_zero(change: float, linear_below: float) -> None:
    there = ablation_figures.signed_log(change, linear_below)
    assert there == -ablation_figures.signed_log(-change, linear_below)
    small = 1e-6 * linear_below
    assert ablation_figures.signed_log(small, linear_below) == pytest.approx(1e-6 / np.log(10), rel=1e-5)
    assert ablation_figures.signed_log(9 * linear_below, linear_below) == pytest.approx(1)


def test_colours_follow_the_signed_logarithm() -> None:
    limit = 120.0
    ticks = ablation_figures.signed_log_ticks(limit, 0.1)
    assert ticks[1] == -ticks[3]
    assert (ticks[0], ticks[2], ticks[4]) == (-limit, 0, limit)
    assert np.log1p(ticks[3] / 0.1) == pytest.approx(np.log1p(limit / 0.1) / 2)
    stops, colours = zip(*ablation_figures.signed_log_scale(limit, 0.1), strict=True)
    np.testing.assert_allclose(np.array(stops)[::10], [(t / limit + 1) / 2 for t in ticks], atol=1e-9)
    assert colours[::20] == ("rgb(31, 90, 153)", "rgb(255, 255, 255)", "rgb(179, 80, 15)")


def test_the_grid_is_drawn_at_the_last_checkpoint(runs: list[FakeRun], section: Section) -> None:
    change, _, interaction, _ = section.figures
    assert [c.label for c in change.choices] == [q.name for q in QUANTITIES]
    (trace,) = change.panels[1].figure.data
    expected = grid_of(runs[1])["loss_change"].sel(split="test").isel(step=-1).mean("seed")
    np.testing.assert_allclose(np.asarray(trace.z, float), expected.values, rtol=1e-5)
    assert (list(trace.x), list(trace.y)) == (SETS, INTERVENTIONS)
    assert trace.meta == {"array": "change:1", "choices": [[i] for i in range(len(QUANTITIES))]}
    assert list(interaction.panels[0].figure.data[0].x) == list(JOINT)


def test_every_choice_has_colours_for_all_cells(runs: list[FakeRun], section: Section) -> None:
    for i, q in enumerate(QUANTITIES):
        look = section.figures[0].choices[i].look
        data = [grid_of(run)[f"{q.variable}_change"].sel(split=q.split).values for run in runs]
        assert look["zmax"] == -float(str(look["zmin"])) == pytest.approx(largest(data), rel=1e-6)
        assert section.figures[0].choices[i].colours.labels[2] == f"0 {q.units}".strip()


def test_the_history_shows_each_cell_its_usual_intervention_first(
    runs: list[FakeRun], section: Section
) -> None:
    quantities, arrays = compute_grid(runs, "change")
    history = section.figures[1]
    assert [c.label for c in history.choices] == [ablation_sections.USUAL, *INTERVENTIONS]
    for panel, run, usual in zip(history.panels, runs, ("bypass", "insert"), strict=True):
        (trace,) = panel.figure.data
        assert trace.meta["names"] == [usual, *INTERVENTIONS]
        assert trace.meta["choices"][1:] == [[0, i] for i in range(len(INTERVENTIONS))]
        assert trace.meta["choices"][0] == [0, INTERVENTIONS.index(usual)]
        expected = grid_of(run)["loss_change"].sel(split="test", intervention=usual).mean("seed")
        np.testing.assert_allclose(np.asarray(trace.z, float), expected.values.T, rtol=1e-5)
        axes = panel.figure.layout
        assert (axes.xaxis.title.text, axes.yaxis.title.text) == ("step", "pathways")
        assert tuple(axes.xaxis.range) == time_span(arrays)
    table = ablation_tables.table_of_history("change", quantities[0], arrays)
    assert {row[1] for row in table.rows} == set(INTERVENTIONS)


def test_a_run_that_begins_late_is_drawn_on_the_common_time_axis() -> None:
    long = fake_run("off", "", late=500, steps=400)
    late = fake_run("mlp-pre", "mlp", late=500, steps=400, parent=long, at=200)
    _, arrays = compute_grid([long, late], "change")
    assert [a.steps[0] for a in arrays] == [0, 200]
    assert time_span(arrays) == (-50, 450)


def test_scale_panels_have_a_curve_per_cell_and_split(runs: list[FakeRun]) -> None:
    section = ablation_sections.scale_reliance(runs)
    assert section
    (figure,) = section.figures
    assert [p.title for p in figure.panels] == [*SETS, SCORES]
    panel = figure.panels[SETS.index("mlp")].figure
    assert [(t.meta["cell"], t.line.dash) for t in panel.data] == [
        (0, "6px,3px"),
        (0, "solid"),
        (1, "6px,3px"),
        (1, "solid"),
    ]
    expected = grid_of(runs[1])["scale_loss_change"].sel(pathways="mlp", split="test").isel(step=-1)
    shown = np.asarray(panel.data[3].customdata, float)
    np.testing.assert_allclose(shown, expected.mean("seed").values, rtol=1e-5)
    np.testing.assert_allclose(panel.data[3].y, ablation_figures.signed_log(shown, 0.1), rtol=1e-6)
    assert panel.data[3].meta["at"] == [SETS.index("mlp"), 1]
    assert list(panel.layout.xaxis.ticktext) == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert (panel.layout.xaxis.type, panel.layout.yaxis.title.text) == ("log", "change (nats)")
    assert len({tuple(p.figure.layout.yaxis.range) for p in figure.panels}) == 1


def test_scale_axes_are_labelled_in_nats() -> None:
    runs = [fake_run("off", "", late=100)]
    array = compute_scales(runs)[0]
    axis = ablation_figures.draw_scale([array], "q", (-0.5, 250.0)).layout.yaxis
    assert list(axis.ticktext) == ["\N{MINUS SIGN}0.1", "0", "1", "10", "100"]
    np.testing.assert_allclose(axis.tickvals, [-np.log10(2), 0, *np.log10([11, 101, 1001])])
    assert axis.range[0] < -np.log10(6)
    assert axis.range[1] > np.log10(2501)


# ---- attention factors ----------------------------------------------------------------------------------


def test_factors_and_entropies_are_means_over_heads() -> None:
    run = fake_run("attn-pre-qk", "q+k", late=600, follows="off")
    factor, entropy = curves.compute_factors([fake_run("off", "", late=900), run])
    data = run.attention_factors
    assert data is not None
    np.testing.assert_allclose(factor.curves[0].values, data["factor"].mean(("layer", "head")), rtol=1e-6)
    target, reached = entropy.curves
    assert (target.reference, reached.reference) == (True, False)
    np.testing.assert_allclose(target.values, data["target"].mean(("layer", "head")), rtol=1e-6)
    assert {c.cell.index for p in (factor, entropy) for c in p.curves} == {1}


def test_the_farthest_head_from_its_target_is_named() -> None:
    run = fake_run("attn-pre-qk", "q+k", late=600, follows="off")
    assert run.attention_factors is not None
    run.attention_factors["entropy"][0, 3, 0, 2] = run.attention_factors["target"][0, 3, 0, 2] - 0.25
    assert curves.farthest_from_target([run]) == pytest.approx(0.25, rel=1e-5)


# ---- the page -------------------------------------------------------------------------------------------


def test_the_page_has_a_button_and_a_look_for_every_choice(runs: list[FakeRun], tmp_path: Path) -> None:
    page = study_report(runs, tmp_path, "Grid").read_text("utf-8")
    data = embedded(page)
    for slug, looks in data["looks"].items():
        figure = page.partition(f'id="figure-{slug}"')[2].partition("</figure>")[0]
        assert re.findall(r'data-choice="(\d+)" aria-pressed="(\w+)"', figure) == [
            (str(i), "false" if i else "true") for i in range(len(looks))
        ]
        assert re.findall(r'data-of="(\d+)"( hidden)?', figure) == [
            (str(i), " hidden" if i else "") for i in range(len(looks))
        ]
        traces = [
            t for key, p in data["panels"].items() if re.fullmatch(f"{slug}-\\d+", key) for t in p["data"]
        ]
        assert {len(t["meta"]["choices"]) for t in traces} == {len(looks)}
    assert set(data["looks"]) == {"change", "change-history", "interaction", "interaction-history"}
    assert "the effective rank &lt; of a split" in page  # a definition of the grid's own, escaped
    assert 'id="attention-factors"' not in page


def test_runs_without_a_grid_have_no_section() -> None:
    run = dataclasses.replace(fake_run("off", "", late=500, steps=60), ablations=None)
    assert ablation_sections.ablations([run]) is None
    assert ablation_sections.scale_reliance([run]) is None
    assert curves.compute_factors([run]) == ()
