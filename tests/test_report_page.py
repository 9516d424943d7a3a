"""What the page shows beside its figures: colours on light and dark, phases, and what is said of a cell."""

import colorsys
import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from embedded_page import embedded
from fake_runs import FakeRun, fake_run
from plotly.colors import sample_colorscale

from mech_grok.generalisation import GeneralisationSteps
from mech_grok.phases import Phases, phases
from mech_grok.placement import all_placements
from mech_grok.report import study_report
from mech_grok.report.account import delay, measures
from mech_grok.report.contrast import LEAST, WHITE, contrast, luminance, shade, with_contrast
from mech_grok.report.phases import NAMES, Spans, compute_phases, embedded_phases, spans
from mech_grok.report.style import DIVERGING, INK, MUTED, PALE, SEQUENTIAL, placement_colour
from mech_grok.report.theme import BACKGROUND, DIVERGING_DARK, SEQUENTIAL_DARK, dark, dark_table

COLOURS = [placement_colour(placement) for placement in all_placements()]


def channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


# ---- colours --------------------------------------------------------------------------------------------


def test_contrast_is_that_of_known_pairs() -> None:
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#767676", WHITE) == contrast(WHITE, "#767676") == pytest.approx(4.54, abs=0.005)
    assert contrast("#0000ff", "#ff0000") == pytest.approx(2.15, abs=0.005)


@pytest.mark.parametrize("background", [WHITE, BACKGROUND])
@pytest.mark.parametrize("wanted", [3.0, 4.5, 7.0])
def test_a_shade_has_the_contrast_that_is_asked_for(background: str, wanted: float) -> None:
    for colour in COLOURS:
        found = with_contrast(colour, background, wanted)
        assert wanted <= contrast(found, background) < 1.03 * wanted
        assert (luminance(found) < luminance(background)) == (background == WHITE)


def test_placements_stand_out_on_both_backgrounds_in_one_hue() -> None:
    assert min(contrast(colour, WHITE) for colour in COLOURS) >= LEAST
    assert min(contrast(dark(colour), BACKGROUND) for colour in COLOURS) >= LEAST
    assert len({dark(colour) for colour in COLOURS}) == len(COLOURS)
    for colour in COLOURS:
        hues = [colorsys.rgb_to_hls(*(c / 255 for c in channels(x)))[0] for x in (colour, dark(colour))]
        assert abs((hues[0] - hues[1] + 0.5) % 1 - 0.5) < 0.02


@pytest.mark.parametrize("of", [2, 3, 5])
def test_shades_of_a_placement_stand_out_and_can_be_told_apart(of: int) -> None:
    for colour in COLOURS:
        shades = [shade(colour, rank, of) for rank in range(of)]
        assert shades[0] == colour
        for there, background in ((shades, WHITE), ([dark(s) for s in shades], BACKGROUND)):
            assert min(contrast(s, background) for s in there) >= LEAST
            assert min(contrast(a, b) for a, b in combinations(there, 2)) > 1.1


def test_text_can_be_read_on_dark_and_what_is_in_the_background_stays_there() -> None:
    assert contrast(dark(INK), BACKGROUND) > 12
    assert contrast(dark(MUTED), BACKGROUND) > 4.5
    assert contrast(dark(PALE), BACKGROUND) < contrast(dark(MUTED), BACKGROUND)
    assert dark(WHITE) == BACKGROUND


def test_scales_on_dark_go_from_the_background_to_light() -> None:
    assert SEQUENTIAL_DARK[0] == DIVERGING_DARK[2] == BACKGROUND
    light = [luminance(colour) for colour in SEQUENTIAL_DARK]
    assert light == sorted(light)
    arms = [[luminance(colour) for colour in arm] for arm in (DIVERGING_DARK[2::-1], DIVERGING_DARK[2:])]
    assert arms == [sorted(arm) for arm in arms]
    assert [dark(str(c)) for _, c in SEQUENTIAL] == SEQUENTIAL_DARK
    assert [dark(str(c)) for _, c in DIVERGING] == DIVERGING_DARK


@pytest.mark.parametrize("share", [0.02, 0.31, 0.5, 0.66, 0.97])
def test_a_colour_between_the_stops_of_a_scale_keeps_its_place(share: float) -> None:
    for light, darks in ((DIVERGING, DIVERGING_DARK), (SEQUENTIAL, SEQUENTIAL_DARK)):
        (between,) = sample_colorscale(light, [share])
        (expected,) = sample_colorscale(darks, [share])
        found = [[float(c) for c in re.findall(r"[\d.]+", x)] for x in (dark(between), expected)]
        np.testing.assert_allclose(found[0], found[1], atol=3)


def test_what_is_seen_through_stays_so() -> None:
    r, g, b = channels(dark("#d55e00"))
    assert dark("rgba(213,94,0,0.14)") == f"rgba({r},{g},{b},0.14)"


def test_the_table_has_every_colour_of_the_figures_once() -> None:
    drawn = {"line": {"color": "#d55e00"}, "text": "not #d55e01", "scale": [[0, WHITE], [1, "rgb(1, 2, 3)"]]}
    assert dark_table([drawn, drawn]) == {x: dark(x) for x in ("#d55e00", WHITE, "rgb(1, 2, 3)")}


# ---- phases ---------------------------------------------------------------------------------------------


def test_phases_follow_one_another() -> None:
    assert NAMES == ("memorisation", "plateau", "cleanup")
    grokked = spans(Phases(100, 250, 400, 800), first=1, last=1500)
    assert grokked == Spans(((1, 100), (100, 400), (400, 800)), 250)


def test_what_was_not_reached_goes_on_to_the_end() -> None:
    assert spans(Phases(None, None, None, None), 1, 900).spans == ((1, 900),)
    assert spans(Phases(100, None, None, None), 1, 900).spans == ((1, 100), (100, 900))
    assert spans(Phases(100, None, 500, None), 1, 900).spans == ((1, 100), (100, 500), (500, 900))


def test_no_phase_goes_on_after_generalisation() -> None:
    late = spans(Phases(memorised=100, circuit_formation=700, cleanup=800, generalised=600), 1, 900)
    assert late == Spans(((1, 100), (100, 600), (600, 600)), None)
    assert spans(Phases(None, None, None, 600), 1, 900).spans == ((1, 600),)


@pytest.mark.parametrize(("circuit", "marked"), [(100, None), (101, 101), (399, 399), (400, None)])
def test_the_circuit_is_marked_within_the_plateau(circuit: int, marked: int | None) -> None:
    assert spans(Phases(100, circuit, 400, 800), 1, 900).circuit == marked


@pytest.mark.parametrize(("last", "count"), [(1500, 2), (1100, 1)])
def test_the_mean_is_over_the_seeds_that_got_there_if_most_did(last: int, count: int) -> None:
    run = fake_run("mlp-pre", "mlp", late=1000, seeds=(456, 789, 111), steps=last)
    known = phases(run.metrics)
    reached = [p.generalised for p in known.values() if p.generalised]
    assert len(reached) == count
    (found,) = compute_phases([run])
    assert found.mean.spans[-1][1] == (round(np.mean(reached)) if count == 2 else last)
    for seed, own in known.items():
        assert found.seeds[seed].spans[0] == (1, own.memorised)
        assert found.seeds[seed].spans[-1][1] == (own.generalised or last)
    page = embedded_phases([found])
    assert set(page[0]) == {"mean", "456", "789", "111"}


def test_a_fork_has_no_phases_of_its_own_and_its_parent_has() -> None:
    parent = fake_run("off", "", late=500, name="elsewhere")
    child = fake_run("mlp-pre", "mlp", late=900, parent=parent, at=400)
    found = compute_phases([child])
    assert [c.cell.name for c in found] == ["elsewhere"]
    assert found[0].mean.spans[0][0] == 1


# ---- what is said of a cell -----------------------------------------------------------------------------


def steps(memorised: dict[int, int | None], generalised: dict[int, int | None]) -> GeneralisationSteps:
    return GeneralisationSteps(generalised, generalised, memorised, None, None, 1500)


@pytest.mark.parametrize(
    ("memorised", "generalised", "said"),
    [
        ({1: 100, 2: 100}, {1: 800, 2: 1000}, "Generalised 9.0 times as late as it memorised."),
        ({1: 10}, {1: 1200}, "Generalised 120 times as late as it memorised."),
        ({1: 100}, {1: 120}, "Generalised as it memorised."),
        ({1: 100, 2: 50}, {1: 800, 2: None}, "1 of 2 seeds generalised 8.0 times as late as it memorised."),
        ({1: 100, 2: 200}, {1: None, 2: None}, "Memorised, and not generalised 10 times as late."),
        ({1: None}, {1: None}, "Not memorised by step 1,500."),
    ],
)
def test_the_delay_in_a_sentence(
    memorised: dict[int, int | None], generalised: dict[int, int | None], said: str
) -> None:
    assert delay(steps(memorised, generalised)) == said


def test_measures_are_of_the_last_checkpoint() -> None:
    run = fake_run("mlp-pre", "mlp", late=600)
    found = {m.name: m for m in measures(run)}
    entropy = run.probe("attention")["entropy_headavg_allrows"].sel(split="all").values[:, -1]
    assert found["Attention entropy, of the uniform one"].mean == pytest.approx(entropy.mean() / np.log(3))
    assert run.ablations is not None
    bypass = run.ablations["loss_change"].sel(intervention="bypass", pathways="q+k+v+mlp", split="test")
    change = found["Change in test loss without its norms"]
    assert (change.mean, change.kind) == (pytest.approx(bypass.values[:, -1].mean()), "change")
    sr_loss = run.probe("shortcut")["sr_loss"].sel(split="train").values[:, -1]
    assert found["Train loss without the MLP input's scale"].mean == pytest.approx(sr_loss.mean())
    assert len(found) == 3  # no progress measures were probed


def test_measures_say_how_many_seeds_have_them() -> None:
    run = fake_run("off", "", late=600)
    run.probes["shortcut"]["sr_loss"].loc[{"seed": 789}] = np.nan
    assert [(m.name, m.lacking) for m in measures(run)] == [
        ("Attention entropy, of the uniform one", ""),
        ("Train loss without the MLP input's scale", "1 of 2 seeds"),
    ]
    run.probes, run.ablations = {}, None
    assert measures(run) == ()


# ---- the page -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs() -> list[FakeRun]:
    return [fake_run("mlp-pre", "mlp", late=600), fake_run("off", "", late=9000)]


@pytest.fixture(scope="module")
def page(runs: list[FakeRun], tmp_path_factory: pytest.TempPathFactory) -> str:
    return study_report(runs, tmp_path_factory.mktemp("page"), "Page").read_text("utf-8")


def test_every_colour_of_the_page_has_one_on_dark(page: str) -> None:
    data = embedded(page)
    used = set(re.findall(r'"(#[0-9a-f]{6}|rgba?\([\d., ]+\))"', json.dumps([data["panels"], data["looks"]])))
    assert used == set(data["dark"])


def test_phases_are_named_and_defined(page: str, runs: list[FakeRun]) -> None:
    assert all(f"</i>{name}</span>" in page for name in NAMES)
    assert "<dt>Phases</dt>" in page
    assert embedded(page)["phases"]["0"]["mean"]["spans"] == [
        list(s) for s in compute_phases(runs)[0].mean.spans
    ]


def test_every_plot_has_a_name_and_a_caption(page: str) -> None:
    plots = re.findall(r'<div class="plot" [^>]*>', page)
    captions = set(re.findall(r'<figcaption id="([\w-]+)">', page))
    for plot in plots:
        named = dict(re.findall(r'([\w-]+)="([^"]*)"', plot))
        assert named["aria-label"].startswith("Plot: ")
        assert named["aria-describedby"] in captions


def test_a_page_of_one_cell_has_no_strips(runs: list[FakeRun], tmp_path: Path) -> None:
    single = study_report(runs[:1], tmp_path, "One").read_text("utf-8")
    assert "behind the curves of every plot over steps" in single


def test_a_cell_of_which_all_seeds_diverged_says_so(tmp_path: Path) -> None:
    run = fake_run("off", "", late=600, steps=300)
    run.diverged = {456: 100, 789: 150}
    lost = run.metrics.where(run.metrics["step"] < 150)
    run.metrics = lost.assign_coords(evaluated=run.metrics["evaluated"])
    page = study_report([run], tmp_path, "Diverged").read_text("utf-8")
    table = page.partition('<table class="final">')[2].partition("</table>")[0]
    assert table.count("<td>diverged</td>") == 4
    shown = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    assert re.search(r"\b(nan|inf|None)\b", shown) is None
    assert "Diverged: seed 456 at step 100, seed 789 at step 150" in page
