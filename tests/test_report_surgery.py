"""The report of forked runs: labels, both futures, findings in words, and the page over them."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded_page import embedded
from fake_runs import FakeRun, fake_run

from mech_grok.config import CellConfig
from mech_grok.futures import Comparison, Futures, Lapses, Retention
from mech_grok.report import study_report
from mech_grok.report.cells import identify
from mech_grok.report.forks import compute_forks, guests, with_parents
from mech_grok.report.headline import compute_headline, draw_milestones, step_summary
from mech_grok.report.labels import cell_label, name_label
from mech_grok.report.lines import draw_lines
from mech_grok.report.surgery import compute_both_futures, surgery, table_of_futures
from mech_grok.report.tables import table_of_lines, table_of_milestones
from mech_grok.report.verdicts import accuracy, difference, lapsed, retained, verdict

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def off() -> FakeRun:
    return fake_run("off", "", late=5000, steps=800, seeds=SEEDS)


@pytest.fixture(scope="module")
def child(off: FakeRun) -> FakeRun:
    name = "mlp-pre_from=off_at=200"
    return fake_run("mlp-pre", "mlp", late=400, steps=800, seeds=SEEDS, parent=off, at=200, name=name)


@pytest.fixture(scope="module")
def m() -> FakeRun:
    return fake_run("mlp-pre", "mlp", late=150, steps=800, seeds=SEEDS)


@pytest.fixture(scope="module")
def forgetful(m: FakeRun) -> FakeRun:
    name = "off_from=mlp-pre_at=400"
    return fake_run("off", "", late=600, steps=800, seeds=SEEDS, parent=m, at=400, forgets=True, name=name)


# ---- labels ---------------------------------------------------------------------------------------------

LABELS: list[tuple[str, str, dict[str, Any], str]] = [
    ("mlp-pre_from=off_at=500", "mlp-pre", {"surgery": ("off", 500)}, "No LN → M at 500"),
    ("mlp-pre_from=off_at=2000_optimiser=reset", "mlp-pre", {"surgery": ("off", 2000)},
     "No LN → M at 2,000 · optimiser reset"),
    ("off_from=off_lr=0.01_at=70", "off", {"surgery": ("off_lr=0.01", 70)}, "No LN · lr 0.01 → No LN at 70"),
    ("off_from=mlp-pre_from=off_at=50_at=70", "off", {"surgery": ("../x/mlp-pre_from=off_at=50", 70)},
     "No LN → M at 50 → No LN at 70"),
    ("late", "attn-pre-qk", {"surgery": ("base<1>", 70)}, "base&lt;1&gt; → A<sup>qk</sup> at 70 · late"),
    ("attn-pre-qk_entropy=off", "attn-pre-qk", {"of": "off"}, "A<sup>qk</sup> · entropy of No LN"),
    ("attn-pre-qk_entropy=off", "attn-pre-qk", {"of": "../y/pre-v_lr=0.1"},
     "A<sup>qk</sup> · entropy of M+A<sup>v</sup> · lr 0.1"),
    ("attn-pre-qk_entropy=0.25", "attn-pre-qk", {"of": 0.25}, "A<sup>qk</sup> · entropy 0.25"),
    ("off_lr=0.1", "off", {"of": "a.csv"}, "No LN · entropy of a.csv · lr 0.1"),
    ("off_weight_decay=0.5", "off", {}, "No LN · weight_decay 0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "placement", "settings", "label"), LABELS)
def test_labels_say_where_a_cell_is_from(
    name: str, placement: str, settings: dict[str, Any], label: str
) -> None:
    config: dict[str, Any] = {"model": {"placement": placement}}
    if "of" in settings:
        config["model"]["attention_factor"] = 1.0
        config["training"] = {"follow_entropy": {"of": settings["of"]}}
    if "surgery" in settings:
        parent, step = settings["surgery"]
        config["surgery"] = {"parent": parent, "step": step}
    assert cell_label(name, CellConfig.model_validate(config)) == label


def test_a_run_is_named_the_same_from_its_name_alone() -> None:
    assert name_label("attn-pre-qk_entropy=off") == "A<sup>qk</sup> · entropy of No LN"
    assert name_label("mlp-pre_from=off_at=5000") == "No LN → M at 5,000"
    assert name_label("a <b>") == "a &lt;b&gt;"


# ---- verdicts -------------------------------------------------------------------------------------------


def futures(*comparisons: Comparison, **retention: Retention) -> Futures:
    seeds = dict(enumerate(comparisons))
    return Futures(100, seeds, seeds, {int(key[1:]): value for key, value in retention.items()})


def compared(parent: int | None, child: int | None, child_last: int = 10_000) -> Comparison:
    return Comparison(parent, child, 100, 10_000, child_last)


STEADY = Lapses(1.0, None, 0.0, 10_000)
SPIKY = Lapses(0.2, 330, 0.0637, 10_000)


def kept(lowest: float, first: int | None, share: float, last: float, parent: Lapses = SPIKY) -> Retention:
    return Retention(Lapses(lowest, first, share, 10_000), parent, last)


NAN = float("nan")
STAYS = kept(0.99812, None, 0.0, 0.9999, STEADY)
FORGETS = kept(0.2, 230, 0.972, 0.41)
DIVERGES = kept(0.2, 230, 1.0, NAN)
RECOVERS = kept(0.6, 230, 0.08, 0.999)
SHORT = kept(0.0119, 2010, 0.997, 0.9949)
SHORTER = kept(0.2, 240, 0.997, 0.9869)

VERDICTS = [
    (futures(compared(7300, 2000), compared(7100, 1800)),
     "generalises 5,300 steps earlier (mean of 2 seeds)"),
    (futures(compared(2000, 2001)), "generalises 1 step later"),
    (futures(compared(2000, 2000)), "generalises at the same step"),
    (futures(compared(None, 2000), compared(None, 3000)),
     "generalises at 2,500 (mean of 2 seeds); its parent does not by 10,000"),
    (futures(compared(7300, None)), "does not generalise by 10,000; its parent does at 7,300"),
    (futures(compared(None, None, 3000)), "does not generalise by 3,000, and nor does its parent"),
    (futures(compared(7300, None, 3000)), "undecided: one of the two ends before the other generalises"),
    (futures(compared(50, 110), s0=STAYS), "stays generalised: lowest test accuracy 0.998"),
    (futures(compared(50, 110), s0=FORGETS),
     "forgets: below 0.995 at 230, test accuracy 0.41 at the end "
     "(below 0.995 at 97% of evaluations; its parent at 6%)"),
    (futures(compared(50, 110), s0=DIVERGES),
     "forgets: below 0.995 at 230, diverged at the end "
     "(below 0.995 at 100% of evaluations; its parent at 6%)"),
    (futures(compared(50, 110), s0=RECOVERS),
     "falls to a test accuracy of 0.600 and recovers (below 0.995 at 8% of evaluations; its parent at 6%)"),
    (futures(compared(50, 110), compared(50, 110), s0=RECOVERS, s1=kept(0.55, 990, 0.04, 1.0, STEADY)),
     "falls to a test accuracy of 0.550 and recovers "
     "(below 0.995 at 6% of evaluations; its parent at 3%; mean of 2 seeds)"),
    (futures(compared(50, 110), s0=kept(0.6, 230, 0.08, 0.999, Lapses(0.2, 330, 0.0637, 400))),
     "falls to a test accuracy of 0.600 and recovers "
     "(below 0.995 at 8% of evaluations; its parent at 6% up to 400)"),
    (futures(compared(50, 110), s0=kept(0.6, 230, 0.004, 0.999, Lapses(NAN, None, NAN, 100))),
     "falls to a test accuracy of 0.600 and recovers "
     "(below 0.995 at under 1% of evaluations; its parent was not evaluated after the fork)"),
    (futures(compared(50, 110), s0=SHORT),
     "test accuracy falls below 0.995 at 2,010, to 0.012 at the lowest, and is back at 0.994 but not at "
     "0.995 by 10,000 (below 0.995 at over 99% of evaluations; its parent at 6%)"),
    (futures(compared(50, 110), compared(50, 110), s0=SHORT, s1=SHORTER),  # at the end 0.9909 on average
     "test accuracy falls below 0.995 at 240, to 0.012 at the lowest, and is back at 0.991 but not at "
     "0.995 by 10,000 (below 0.995 at over 99% of evaluations; its parent at 6%; mean of 2 seeds)"),
    (futures(compared(50, 110), compared(7300, 2000), compared(7300, 2200), s0=RECOVERS),
     "1 of 3 seeds: falls to a test accuracy of 0.600 and recovers "
     "(below 0.995 at 8% of evaluations; its parent at 6%); "
     "2 of 3 seeds: generalises 5,200 steps earlier"),
]  # fmt: skip


@pytest.mark.parametrize(("known", "words"), VERDICTS)
def test_findings_in_words(known: Futures, words: str) -> None:
    assert verdict(known, planned=3000) == words


UNFINISHED = [
    (futures(compared(50, 110, 9000), s0=STAYS), True),
    (futures(compared(None, None, 9000)), True),
    (futures(compared(None, 2000, 9000)), True),
    (futures(compared(7300, 2000, 9000), compared(None, 2000, 9000)), True),
    (futures(compared(7300, 2000, 9000), compared(7300, 2200, 9000)), False),  # nothing can change that
]


@pytest.mark.parametrize(("known", "open_"), UNFINISHED)
def test_what_may_change_is_said_so_far(known: Futures, open_: bool) -> None:
    finished = verdict(known, planned=9000)
    assert not finished.startswith("so far")
    so_far = "so far, to step 9,000 of 20,000: " if open_ else ""
    assert verdict(known, planned=20_000) == so_far + finished


def test_differences_of_one_seed_in_words() -> None:
    pairs = [(2000, 770), (None, 770), (770, None), (None, None), (50, 110), (770, 2000)]
    assert [difference(compared(*pair)) for pair in pairs] == [
        "1,230 steps earlier",
        "child only",
        "parent only",
        "neither by 10,000",
        "before the fork",
        "1,230 steps later",
    ]


def test_what_one_seed_keeps_in_words() -> None:
    assert retained(STAYS) == "stays: lowest 0.998"
    below = "below 0.995 at 97% of evaluations, first at 230: lowest 0.200"
    assert retained(FORGETS) == f"{below}, 0.410 at the end"
    assert retained(DIVERGES) == f"{below.replace('97', '100')}, diverged at the end"
    assert lapsed(FORGETS.parent) == "below 0.995 at 6% of evaluations, first at 330: lowest 0.200"
    assert lapsed(STAYS.parent) == "lowest 1.000"
    assert lapsed(Lapses(NAN, None, NAN, 100)) == "not evaluated"
    assert lapsed(Lapses(NAN, 110, 1.0, 200)).endswith("100% of evaluations, first at 110: lowest not finite")


def test_what_is_below_the_threshold_never_reads_so() -> None:
    values = (0.99449, 0.9945, 0.99499, 0.995, float(np.float32(0.995)), 0.99951, 0.1436, NAN)
    words = ["0.994", "0.994", "0.994", "0.995", "0.995", "1.000", "0.144", "not finite"]
    assert [accuracy(value) for value in values] == words


# ---- figures --------------------------------------------------------------------------------------------


def test_both_futures_are_drawn(off: FakeRun, child: FakeRun) -> None:
    ((loss, accuracy),) = compute_both_futures([off, child])
    assert [c.cell.name for c in loss.curves] == ["off", "mlp-pre_from=off_at=200"]
    assert [c.cell.index for c in accuracy.curves] == [0, 1]
    past, future = loss.curves
    assert past.steps[0] == 1  # the parent's past too
    assert future.steps[0] == 210
    evaluated = child.metrics["evaluated"].values
    np.testing.assert_array_equal(future.values, child.metrics["test_loss"].values[:, evaluated])
    figure = draw_lines(accuracy)
    assert [shape.x0 for shape in figure.layout.shapes] == [200]
    assert figure.layout.annotations[0].text == "fork"
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("step", "accuracy")


def test_a_figure_says_what_came_of_it(off: FakeRun, child: FakeRun) -> None:
    section = surgery([off, child])
    assert section
    (figure,) = section.figures
    at = np.mean(list(compute_headline([child])[0].steps.accuracy.values()), dtype=float)
    assert figure.title == (
        f"No LN → M at 200: generalises at {at:,.0f} (mean of 2 seeds); its parent does not by 800"
    )
    assert figure.table.rows[0][:4] == (
        "1",
        "not by 800",
        f"{compute_headline([child])[0].steps.accuracy[1]}",
        "child only",
    )
    assert figure.table.rows[0][-2:] == ("&ndash;", "&ndash;")


def test_forgetting_is_told_apart_from_generalising(m: FakeRun, forgetful: FakeRun) -> None:
    (fork,) = compute_forks([m, forgetful])
    assert fork.verdict.startswith("forgets: below 0.995 at ")
    table = table_of_futures(fork)
    assert table.header[-2:] == (
        "test accuracy after the fork: child",
        "test accuracy after the fork: parent",
    )
    row = table.rows[0]
    assert len(row) == len(table.header)
    assert row[2:4] == ("&ndash;", "before the fork")
    assert row[-2].startswith("below 0.995 at ")
    parent = m.metrics["test_accuracy"].sel(seed=SEEDS[0]).dropna("step").sel(step=slice(401, None))
    assert row[-1] == f"lowest {accuracy(float(parent.min()))}"


def test_an_unfinished_fork_says_how_far_it_is(m: FakeRun, forgetful: FakeRun) -> None:
    part = dataclasses.replace(forgetful, metrics=forgetful.metrics.sel(step=slice(None, 700)))
    assert compute_headline([m, part])[1].verdict.startswith("so far, to step 700 of 800: forgets: ")
    assert compute_headline([m, forgetful])[1].verdict.startswith("forgets: ")


def test_a_parent_that_is_not_on_the_page_is_a_guest(off: FakeRun, child: FakeRun, m: FakeRun) -> None:
    runs = [m, child]
    (guest,) = guests(runs)
    assert (guest.index, guest.name, guest.label) == (2, "off", "No LN")
    assert guest.colour not in {cell.colour for cell in identify(runs)}
    name = "mlp-pre_from=mlp-pre_at=100"
    same = fake_run("mlp-pre", "mlp", late=300, steps=800, seeds=SEEDS, parent=m, at=100, name=name)
    (twin,) = guests([same])
    assert twin.colour != identify([same])[0].colour
    assert guests([off, child]) == ()


def test_runs_of_one_name_and_config_are_told_apart(off: FakeRun, child: FakeRun) -> None:
    """As two studies have them: twice on a page, as parents of forks, and beside such a parent."""

    def elsewhere(run: FakeRun, folder: str, parent: FakeRun | None = None) -> FakeRun:
        return dataclasses.replace(run, path=Path(folder) / run.name, parent=parent)

    here, there = elsewhere(off, "here"), elsewhere(off, "there")
    first, second = elsewhere(child, "here", here), elsewhere(child, "there", there)
    parents = [cell for _, _, cell, _ in with_parents([here, second, there, first])]
    assert [cell.index for cell in parents] == [2, 0]
    runs = [first, first, second]
    assert [cell.index for _, _, cell, _ in with_parents(runs)] == [3, 3, 4]
    shown = [*identify(runs), *guests(runs)]
    assert len({cell.colour for cell in shown}) == len({cell.label for cell in shown}) == 5
    (guest,) = guests([here, second])
    assert (guest.index, guest.label) == (2, "No LN (2)")
    assert guest.colour != identify([here])[0].colour


@pytest.mark.parametrize("seeds", [(1,), (3, 4)])
def test_a_parent_that_does_not_fit_is_left_out(child: FakeRun, seeds: tuple[int, ...]) -> None:
    other = fake_run("off", "", late=5000, steps=800, seeds=seeds)
    assert compute_forks([dataclasses.replace(child, parent=other)]) == ()
    assert compute_forks([dataclasses.replace(child, parent=None)]) == ()
    assert surgery([dataclasses.replace(child, parent=None)]) is None


def test_a_parent_that_is_not_trained_yet_is_left_out(child: FakeRun, off: FakeRun) -> None:
    empty = dataclasses.replace(off, metrics=off.metrics.isel(step=slice(0, 0)))
    assert compute_forks([dataclasses.replace(child, parent=empty)]) == ()


# ---- headline -------------------------------------------------------------------------------------------


def test_the_headline_leaves_out_what_the_parent_had_reached(m: FakeRun, forgetful: FakeRun) -> None:
    headlines = compute_headline([m, forgetful])
    assert headlines[0].before_fork("accuracy") == frozenset()
    assert headlines[1].before_fork("accuracy") == headlines[1].before_fork("memorisation") == set(SEEDS)
    assert headlines[1].published_before_fork
    drawn = {(t.meta["cell"], t.meta["milestone"]): list(t.x) for t in draw_milestones(headlines).data}
    assert drawn[1, "forked"] == [400]
    assert drawn[1, "generalised: test accuracy ≥ 0.995"] == []
    assert len(drawn[0, "generalised: test accuracy ≥ 0.995"]) == 2
    assert table_of_milestones(headlines).rows[-1][2:4] == ("before the fork", "before the fork")


def test_step_summaries_know_of_seeds_before_the_fork() -> None:
    assert step_summary({1: 410, 2: 410}, 800, {1, 2}).before == "before the fork"
    some = step_summary({1: 410, 2: 600, 3: None}, 800, {1})
    assert (some.mean, some.reached, some.missing, some.before) == (
        "600",
        "1 seed",
        "1 of 2 seeds",
        "1 of 3 seeds before the fork",
    )


def test_tables_show_a_late_run_at_the_steps_that_it_has(off: FakeRun, child: FakeRun) -> None:
    ((_, accuracy),) = compute_both_futures([off, child])
    table = table_of_lines([accuracy])
    steps = [int(name.removeprefix("step ").replace(",", "")) for name in table.header[3:]]
    known = [text != "&ndash;" for text in table.rows[1][3:]]
    assert known == [step >= 210 for step in steps]
    assert table.rows[0][-1] != "&ndash;"


# ---- the page -------------------------------------------------------------------------------------------


def test_a_page_over_runs_of_different_beginnings(
    off: FakeRun, child: FakeRun, forgetful: FakeRun, tmp_path: Path
) -> None:
    follower = fake_run("attn-pre-qk", "q+k", late=900, steps=800, seeds=SEEDS, follows="off")
    page = study_report([off, child, forgetful, follower], tmp_path, "Forks").read_text("utf-8")
    data = embedded(page)
    assert data["steps"] == list(range(0, 801, 100))
    assert [cell["name"] for cell in data["cells"]][-1] == "mlp-pre"  # the parent that is not on the page
    drawn = {t["meta"]["cell"] for p in data["panels"].values() for t in p["data"] if "cell" in t["meta"]}
    assert drawn == set(range(5))
    sections = re.findall(r'<h2 id="([\w-]+)"', page)
    assert {"surgery", "attention-factors", "scale-reliance"} <= set(sections)
    assert '<p class="verdict">forgets: below 0.995 at' in page
    assert "<span>No LN → M at 200</span>" in page
    assert "<h3>M → No LN at 400: forgets" in page
