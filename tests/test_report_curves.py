"""The data behind the report's curves: against the runs' own numbers, picked by hand."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fake_probes import KEYS, PARTS, PLACES, add_probes
from fake_runs import FakeRun, fake_run

from mech_grok.generalisation import Happened
from mech_grok.report import study_report
from mech_grok.report.ablation_sections import ablations
from mech_grok.report.attribution_section import attribution, compute_frequencies, compute_lens, place_title
from mech_grok.report.cells import identify
from mech_grok.report.definitions import recorded
from mech_grok.report.dynamics_section import BY_PART, compute_by_part, dynamics, part_title
from mech_grok.report.headline import compute_headline
from mech_grok.report.key_amplitudes import compute_amplitudes, draw_amplitudes
from mech_grok.report.lines import draw_lines
from mech_grok.report.onset import STRUCTURES, Onset, compute_onsets
from mech_grok.report.onset_section import draw_onsets, onsets, tally
from mech_grok.report.probe_curves import Tracked, compute_tracked
from mech_grok.report.probe_sections import CIRCUIT, COMPRESSIBILITY, KERNEL, STABILITY, probe_section
from mech_grok.report.progress_section import compute_progress, progress
from mech_grok.report.sections import build_sections
from mech_grok.report.style import PALE
from mech_grok.report.tables import table_of_lines
from mech_grok.structure import concentrated_step, halved_step


@pytest.fixture(scope="module")
def runs() -> list[FakeRun]:
    return [
        add_probes(fake_run("mlp-pre", "mlp", late=600)),
        add_probes(fake_run("off", "", late=9000)),
    ]


# ---- when structure appears -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("appeared", "generalised", "first"),
    [
        (Happened(100, 200), Happened(290, 300), "structure"),
        (Happened(100, 200), Happened(200, 210), "structure"),  # by 200, and after 200
        (Happened(100, 200), Happened(190, 200), "undecided"),
        (Happened(100, 200), Happened(100, 110), "undecided"),
        (Happened(100, 200), Happened(90, 100), "generalisation"),
        (Happened(100, 200), Happened(1500, None), "structure"),
        (Happened(1500, None), Happened(90, 100), "generalisation"),
        (Happened(100, 200), Happened(150, None), "undecided"),  # it diverged, and may have in the meantime
        (Happened(150, None), Happened(190, 200), "undecided"),
        (Happened(1500, None), Happened(1500, None), "neither"),
    ],
)
def test_which_comes_first_is_decided_by_stretches_that_do_not_overlap(
    runs: list[FakeRun], appeared: Happened, generalised: Happened, first: str
) -> None:
    assert Onset(identify(runs)[0], 1, appeared, generalised).first == first


def test_a_bar_crosses_the_diagonal_where_the_order_is_undecided(runs: list[FakeRun]) -> None:
    cell = identify(runs)[0]
    grid = [(a, a + 3, g, g + 2) for a in range(8) for g in range(8)]
    found = [Onset(cell, i, Happened(a, b), Happened(g, h)) for i, (a, b, g, h) in enumerate(grid)]
    for trace, one in zip(draw_onsets(STRUCTURES["c_fourier"], found).data, found, strict=True):
        (x,), (y,) = trace.x, trace.y
        left, low = x - trace.error_x.arrayminus[0], y - trace.error_y.arrayminus[0]
        crosses = left < y <= x or low < x <= y
        assert crosses == (one.first == "undecided") == (trace.marker.color != cell.colour)
        assert (left, low) == (one.appeared.after, one.generalised.after)


def test_a_tally_counts_every_network_once(runs: list[FakeRun]) -> None:
    cell = identify(runs)[0]
    orders = [
        ((0, 2), (5, 6)),
        ((0, 2), (5, None)),
        ((5, 6), (0, 2)),
        ((0, 3), (1, 2)),
        ((9, None), (9, None)),
    ]
    found = [Onset(cell, i, Happened(*a), Happened(*g)) for i, (a, g) in enumerate(orders)]
    structure = STRUCTURES["effective_rank"]
    assert tally(structure, found) == (
        "Effective rank halved first in 2 of 5 networks; 1 generalised first; 1 undecided; 1 did neither."
    )
    assert (
        tally(structure, found[2:3])
        == "Effective rank halved first in none of 1 networks; 1 generalised first."
    )


def test_onsets_stand_against_the_generalisation_steps(runs: list[FakeRun]) -> None:
    for name, rule in (("c_fourier", concentrated_step), ("effective_rank", halved_step)):
        probe = {"c_fourier": "fourier", "effective_rank": "compressibility"}[name]
        found = compute_onsets(name, runs)
        assert [(o.cell.index, o.seed) for o in found] == [(0, 456), (0, 789), (1, 456), (1, 789)]
        for o in found:
            data = runs[o.cell.index].probe(probe)[name].sel(seed=o.seed)
            accuracy = runs[o.cell.index].metrics["test_accuracy"].sel(seed=o.seed)
            reached = accuracy["step"].values[accuracy.values >= 0.995]
            assert o.appeared.by == rule(data.sel(split="test") if "split" in data.dims else data)
            assert o.appeared.after == (1500 if o.appeared.by is None else o.appeared.by - 100)
            assert o.generalised.by == (reached[0] if len(reached) else None)
            assert o.generalised.after == (1500 if o.generalised.by is None else o.generalised.by - 10)
        figure = draw_onsets(STRUCTURES[name], found)
        done = [(o.appeared.by, o.generalised.by) for o in found if o.appeared.by and o.generalised.by]
        assert done
        assert [(t.x[0], t.y[0]) for t in figure.data] == done
        (diagonal,) = figure.layout.shapes
        assert (diagonal.x0, diagonal.x1) == (diagonal.y0, diagonal.y1)
        assert diagonal.x0 == 0
        assert max(map(max, done)) < diagonal.x1 < figure.layout.xaxis.range[1]
        assert figure.layout.xaxis.range == figure.layout.yaxis.range


def test_onsets_say_who_is_censored_and_need_two_points(runs: list[FakeRun]) -> None:
    section = onsets(runs)
    assert section is not None
    fourier = section.figures[0]
    assert "2 seeds did not do both within the run" in fourier.caption
    assert {row[3:] for row in fourier.table.rows if row[0] == "No LN"} == {("not by 1,500", "neither")}
    (m, *_) = compute_onsets("c_fourier", runs)
    assert fourier.table.rows[0][2:] == (
        f"between {m.appeared.after:,} and {m.appeared.by:,}",
        f"between {m.generalised.after:,} and {m.generalised.by:,}",
        m.first,
    )
    assert "of 4 networks" in section.lead
    alone = fake_run("off", "", late=9000, seeds=(7,))
    assert onsets([alone]) is None
    never = onsets([alone, fake_run("pre", "q+k+v+mlp", late=9000, seeds=(7,))])
    assert never is not None
    assert never.figures[0].panels[0].figure.layout.annotations[0].text == "no seed did both within the run"


def test_a_forked_run_has_no_onset(runs: list[FakeRun]) -> None:
    fork = fake_run("off", "", late=900, name="fork", parent=runs[0], at=500)
    assert {o.cell.index for o in compute_onsets("c_fourier", [*runs, fork])} == {0, 1}


# ---- progress -------------------------------------------------------------------------------------------


def test_progress_measures_stand_beside_the_losses_of_their_cell(runs: list[FakeRun]) -> None:
    panels = compute_progress(runs)
    assert [p.cell.name for p in panels if p.cell] == ["mlp-pre", "off"]
    expected = [
        ("loss_over_answers", "train", True),
        ("loss_over_answers", "test", True),
        ("restricted_loss", "test", False),
        ("excluded_loss", "train", False),
    ]
    for c, (name, split, grey) in zip(panels[1].curves, expected, strict=True):
        assert (c.split, c.grey, c.cell.index) == (split, grey, 1)
        values = runs[1].probe("progress")[name].sel(split=split).values
        np.testing.assert_array_equal(c.values, values.astype(np.float32))
    means = [t for t in draw_lines(panels[0]).data if t.meta["seed"] == "mean"]
    assert [t.line.color == PALE for t in means] == [True, True, False, False]
    assert [t.meta["quantity"] for t in means] == ["loss", "loss", "restricted loss", "excluded loss"]


def test_a_cell_without_key_frequencies_is_named_and_not_drawn(runs: list[FakeRun]) -> None:
    bare = add_probes(fake_run("pre", "q+k+v+mlp", late=900))
    bare.probes["progress"]["restricted_loss"][:] = np.nan
    section = progress([runs[0], bare])
    assert section is not None
    assert [p.cell.name for p in section.figures[0].panels if p.cell] == ["mlp-pre"]
    assert f"not shown: {identify([bare])[0].label}." in section.figures[0].caption
    assert progress([bare]) is None


def test_every_key_frequency_of_every_seed_has_its_line(runs: list[FakeRun]) -> None:
    own = [one for one in compute_amplitudes(runs) if one.cell.index == 0]
    assert {one.seed: one.frequencies for one in own} == KEYS
    data = runs[0].probe("progress")["logit_cosine_amplitude"]
    for one in own:
        for k, values in zip(one.frequencies, one.values, strict=True):
            there = data.sel(split="all", seed=one.seed, frequency=k)
            np.testing.assert_array_equal(values, there.values.astype(np.float32))
    drawn = draw_amplitudes(own).data
    assert [(t.meta["seed"], t.meta["quantity"].split()[-1]) for t in drawn] == [
        (seed, str(k)) for seed, keys in KEYS.items() for k in keys
    ]


def test_names_at_the_ends_of_lines_keep_apart(runs: list[FakeRun]) -> None:
    own = [one for one in compute_amplitudes(runs) if one.cell.index == 0]
    top = max(one.values.max() for one in own)
    ends = sorted(t.y[-1] for t in draw_amplitudes(own).data if t.text)
    assert ends[-1] == max(one.values[:, -1].max() for one in own)
    assert (np.diff(ends) >= 0.05 * top).all()


# ---- curves of a probe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("section", [COMPRESSIBILITY, KERNEL, CIRCUIT, STABILITY], ids=lambda s: s.probe)
def test_a_tracked_quantity_is_that_of_its_probe(section, runs: list[FakeRun]) -> None:
    panels = compute_tracked(runs, section.probe, section.tracked)
    for panel, t in zip(panels, section.tracked, strict=True):
        assert (panel.title, panel.y_title) == (t.title, t.y_title)
        for c in panel.curves:
            data = runs[c.cell.index].probe(section.probe)[t.variable].sel(t.at)
            data = data if c.split == "all" else data.sel(split=c.split)
            np.testing.assert_array_equal(c.values, data.values.astype(np.float32))
        assert {c.cell.index for c in panel.curves} == {0, 1}
    found = probe_section(section, runs)
    assert found is not None
    assert len(found.figures[0].panels) == len(section.tracked)
    assert len(found.definitions) == len({t.variable for t in section.tracked})
    assert all("arxiv.org/abs/1234.56789" in text for _, text in found.definitions)


def test_circuit_panels_share_a_scale_from_0_to_1(runs: list[FakeRun]) -> None:
    found = probe_section(CIRCUIT, runs)
    assert found is not None
    ((low, high),) = {p.figure.layout.yaxis.range for p in found.figures[0].panels}
    assert low < 0
    assert high > 1


def test_without_values_there_is_no_panel() -> None:
    run = add_probes(fake_run("off", "", late=900))
    run.probes["kernel"]["ntk_label_alignment"][:] = np.nan
    drift = Tracked("ntk_drift", "Drift", "change", {"ntk_output": "sum"}, log=True)
    (panel,) = compute_tracked(
        [run], "kernel", [drift, Tracked("ntk_label_alignment", "Alignment", "cosine")]
    )
    assert (panel.title, panel.log) == ("Drift", True)
    assert compute_tracked([run], "kernel", [Tracked("unheard_of", "", "")]) == ()


def test_norms_are_shown_by_part(runs: list[FakeRun]) -> None:
    tracked = BY_PART[1][0]
    panels = compute_by_part(runs, tracked)
    assert [p.title for p in panels] == [part_title(part) for part in PARTS]
    for panel, part in zip(panels, PARTS, strict=True):
        own = runs[1].probe("dynamics")["gradient_norm_by_group"].sel(group=part)
        np.testing.assert_array_equal(panel.curves[1].values, own.values.astype(np.float32))
    assert part_title("12_W_Q") == "Layer 12, W<sub>Q</sub>"
    assert part_title("final_norm") == "Final norm"


def test_a_part_that_one_cell_lacks_is_drawn_of_the_other(runs: list[FakeRun]) -> None:
    without = add_probes(fake_run("off", "", late=900))
    without.probes["dynamics"] = without.probes["dynamics"].drop_sel(group="0_norms")
    panels = {p.title: p for p in compute_by_part([without, runs[0]], BY_PART[0][0])}
    assert {c.cell.index for c in panels["Layer 0, norms"].curves} == {1}
    assert {c.cell.index for c in panels["Embedding"].curves} == {0, 1}


# ---- attribution ----------------------------------------------------------------------------------------


def test_frequencies_are_shown_from_1_on_over_test_pairs(runs: list[FakeRun]) -> None:
    info = compute_frequencies(runs)[1]
    own = runs[1].probe("attribution")["frequency_attribution"].sel(split="test")
    assert info.coords[0] == tuple(range(1, 57))
    np.testing.assert_array_equal(info.values, own.values[:, :, 1:].astype(np.float32))
    section = attribution(runs)
    assert section is not None
    assert {a.key for a in section.arrays} == {
        f"{name}:{i}" for name in ("frequency_attribution", "key_frequency") for i in (0, 1)
    }
    (panel,) = [p for f in section.figures if f.slug == "frequency-attribution" for p in f.panels[:1]]
    heat, marks = panel.figure.data
    assert heat.meta["history"]
    assert sorted(marks.y) == sorted({k for keys in KEYS.values() for k in keys})


def test_the_logit_lens_has_a_panel_for_each_place(runs: list[FakeRun]) -> None:
    panels = compute_lens(runs)
    assert [p.title for p in panels] == [place_title(place) for place in PLACES]
    own = runs[0].probe("logit_lens")["logit_lens_loss"].sel(read_from="0_mid", split="test")
    np.testing.assert_array_equal(panels[1].curves[1].values, own.values.astype(np.float32))
    assert place_title("final_post") == "The whole model"


# ---- sections -------------------------------------------------------------------------------------------


def test_sections_are_in_their_order(runs: list[FakeRun]) -> None:
    slugs = [section.slug for section in build_sections(runs, compute_headline(runs))]
    assert slugs == [
        "learning-curves",
        "attention",
        "fourier",
        "logit-attribution",
        "scale-shortcut",
        "ablations",
        "scale-reliance",
        "progress-measures",
        "compressibility",
        "dynamics",
        "numerical-stability",
        "tangent-kernel",
        "circuit",
        "onsets",
    ]


def test_without_its_probe_a_section_is_left_out(runs: list[FakeRun]) -> None:
    bare = fake_run("off", "", late=900, seeds=(3,))
    bare.probes = {}
    assert [s.slug for s in build_sections([bare], compute_headline([bare]))] == [
        "learning-curves",
        "ablations",
        "scale-reliance",
        "dynamics",
    ]
    assert [f.slug for f in dynamics([bare]).figures] == ["dynamics"]
    assert {c.cell.index for p in compute_lens([bare, runs[0]]) for c in p.curves} == {1}


def test_every_quantity_on_the_page_is_defined(runs: list[FakeRun], tmp_path: Path) -> None:
    page = study_report(runs, tmp_path, "All").read_text("utf-8")
    for name in ("restricted loss", "excluded loss", "stable rank", "ntk drift", "circularity"):
        assert f"<dt>{name.capitalize()}</dt>" in page
    assert "as <code>kernel</code> says (Someone, " in page
    assert "No value where it is not known." in page


def test_a_defined_quantity_is_escaped_and_says_its_units() -> None:
    words = {"long_name": "a < b", "definition": "a & b.", "source": "X, arXiv 2301.05217", "units": "nats"}
    data = xr.Dataset({"a": xr.Variable((), 1.0, words), "b": xr.Variable((), 2.0)})
    link = '<a href="https://arxiv.org/abs/2301.05217">arXiv 2301.05217</a>'
    assert recorded([xr.Dataset(), data], ["a", "b", "c"]) == (
        ("A &lt; b", f"a &amp; b (X, {link}). In nats."),
    )


def test_grey_curves_have_no_band_and_name_their_quantity(runs: list[FakeRun]) -> None:
    panel = compute_progress(runs)[0]
    bands = [t for t in draw_lines(panel).data if t.meta["seed"] == "band"]
    assert [t.meta["quantity"] for t in bands] == ["restricted loss", "excluded loss"]
    table = table_of_lines([panel])
    assert [row[2] for row in table.rows] == [
        "loss, train",
        "loss, test",
        "restricted loss, test",
        "excluded loss, train",
    ]


def test_the_history_of_interactions_begins_with_what_applies_to_all_pathways() -> None:
    every_norm = fake_run("pre", "q+k+v+mlp", late=600)
    section = ablations([every_norm, fake_run("off", "", late=9000)])
    assert section is not None
    history = {f.slug: f for f in section.figures}["interaction-history"]
    labels = [c.label for c in history.choices]
    assert labels == ["unit", "zero", "mean", "resample", "bypass", "insert", "freeze_scale", "affine_only"]
    (trace,) = history.panels[0].figure.data
    sets = ["q+k", "q+k+v", "q+k+v+mlp"]
    data = every_norm.ablations
    assert data is not None
    own = data["loss_interaction"].sel(split="test", intervention="unit", pathways=sets).mean("seed")
    np.testing.assert_allclose(np.asarray(trace.z, float), own.values.T, rtol=1e-5, atol=1e-6)
    assert history.table.note.startswith("Interaction in test loss (nats).")
