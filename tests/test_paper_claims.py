"""The verdicts on the paper's claims, on curves whose answers are known."""

import math
import re
from itertools import combinations, permutations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.paper.cells import FOUR, LATTICE, placed, readout_scales, weight_decays
from mech_grok.paper.checks import compression, lattice, movement, reasons, speed
from mech_grok.paper.checks.evidence import by_majority, number, together
from mech_grok.paper.checks.marks import halved_step, slingshots
from mech_grok.paper.claims_table import claims_table, plain
from mech_grok.paper.figures import FIGURES
from mech_grok.paper.measures import Measured
from mech_grok.paper.published import published

NEVER = 99_999
TESTED = np.arange(50, 10_001, 50)
CHECKED = np.arange(0, 10_001, 200)
M, BOTH, A, OFF = (cell.name for cell in placed(FOUR))


def curve(steps, *values) -> xr.DataArray:
    """One row of values for each seed; a number stands for a flat row."""
    rows = [np.broadcast_to(np.asarray(row, float), len(steps)) for row in values]
    return xr.DataArray(
        np.stack(rows), {"seed": [456, 789, 111][: len(rows)], "step": steps}, ("seed", "step")
    )


def accuracy(*generalised: int, last: int = 10_000) -> xr.DataArray:
    """Seeds that have half of the test pairs right, and all of them from a step on."""
    steps = TESTED[: last // 50]
    return curve(steps, *[np.where(steps >= g, 1.0, 0.5) for g in generalised])


def stepped(before: float, after: float, at: int, last: int = 10_000) -> xr.DataArray:
    """A quantity of one seed at its checkpoints that goes from one level to another."""
    steps = CHECKED[: last // 200 + 1]
    return curve(steps, np.where(steps < at, before, after))


def generalise_at(**steps: int | tuple[int, ...]) -> Measured:
    return {
        (cell, "test_accuracy"): accuracy(*(at if isinstance(at, tuple) else (at,)))
        for cell, at in steps.items()
    }


def four(m: int, both: int, a: int, off: int) -> Measured:
    """The four placements."""
    return generalise_at(**dict(zip((M, BOTH, A, OFF), (m, both, a, off), strict=True)))


@pytest.mark.parametrize("steps", list(permutations((1000, 2000, 3000, 4000))))
def test_an_order_by_how_many_pairs_are_swapped(steps) -> None:
    inversions = sum(a > b for a, b in combinations(steps, 2))
    expected = "confirmed" if inversions == 0 else "confirmed in part" if inversions < 3 else "not confirmed"
    found = speed.placements(four(*steps))
    assert found.verdict == expected
    told = re.search(r"Not in this order: ([^.]*)\.", found.text)
    assert (told[1].count(" and ") if told else 0) == inversions


def test_what_an_order_rests_on() -> None:
    found = speed.placements(four((500, 800), (1500, 2000), (6000, NEVER), (NEVER, NEVER)))  # pyright: ignore
    assert found.seeds == 2
    assert "M at 800 (500 to 800), M+A* at 2,000 (1,500 to 2,000), A* not by 10,000" in found.text
    assert "A* not by 10,000 (1 of 2 seeds, first at 6,000), No LN not by 10,000 (no seed)." in found.text
    assert "Not in this order" not in found.text
    assert "Single seeds in this order: 1 of 2. Where neither mean does, single seeds decide." in found.text
    assert "Published: M 954, M+A* 3,297, A* 7,126, No LN 7,763." in found.text
    assert found.verdict == "confirmed in part"  # of the means of A* and No LN nothing is known


@pytest.mark.parametrize(
    ("a", "off", "in_order"),
    [
        ((6000, NEVER), (7000, NEVER), True),
        ((6000, NEVER), (NEVER, NEVER), True),
        ((NEVER, NEVER), (6000, NEVER), False),
        ((7000, NEVER), (6000, NEVER), False),
        ((6000, NEVER), (NEVER, 7000), False),  # a tie
        ((NEVER, NEVER), (NEVER, NEVER), False),
    ],
)
def test_where_neither_mean_gets_there_single_seeds_decide(a, off, in_order) -> None:
    found = speed.placements(four((500, 800), (1500, 2000), a, off))  # pyright: ignore
    assert ("Not in this order: A* and No LN." in found.text) is not in_order
    assert found.verdict == "confirmed in part"


def test_the_mean_of_a_single_seed_is_that_seed() -> None:
    text = speed.placements(four(500, 1500, 3000, 4000)).text
    assert text.startswith("Generalised: M at 500, M+A* at 1,500, A* at 3,000, No LN at 4,000. Published")


def test_a_cell_that_was_not_run_is_named_and_may_change_nothing() -> None:
    some = four(500, 1500, 3000, 4000)
    missing = {key: value for key, value in some.items() if key[0] != A}
    found = speed.placements(missing)
    assert (found.verdict, found.seeds) == ("not known", 0)
    assert "Not run: A*." in found.text
    assert "M at 500" in found.text
    swapped = {key: value for key, value in four(4000, 3000, 1, 500).items() if key[0] != A}
    assert speed.placements(swapped).verdict == "not confirmed"  # at most three of six pairs


def test_a_cell_that_was_not_trained_for_long_enough() -> None:
    some = {**four(500, 1500, 3000, 4000), (OFF, "test_accuracy"): accuracy(NEVER, last=2000)}
    found = speed.placements(some)
    assert found.verdict == "not known"
    assert "Measured for less than 10,000 steps: No LN until 2,000." in found.text
    assert (
        speed.placements({**some, (OFF, "test_accuracy"): accuracy(NEVER, last=3000)}).verdict == "confirmed"
    )


def test_a_seed_that_diverged_is_named() -> None:
    diverged = accuracy(4000, 4500).where(lambda x: (x.seed != 789) | (x.step <= 2000))
    found = speed.placements({**four(500, 1500, 3000, 4000), (OFF, "test_accuracy"): diverged})
    assert found.verdict == "not known"
    assert "No LN until 2,000 (then no values of seed 789)" in found.text
    assert "No LN not by 2,000 (1 of 2 seeds, first at 4,000)" in found.text


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([1000, 2000, 5000, NEVER]), min_size=4, max_size=4),
    st.lists(st.integers(1, 10_000), min_size=4, max_size=4),
)
def test_a_verdict_stands_as_training_goes_on(steps, lasts) -> None:
    whole = four(*steps)
    cut = {key: c.sel(step=slice(None, last)) for (key, c), last in zip(whole.items(), lasts, strict=True)}
    assert speed.placements(cut).verdict in ("not known", speed.placements(whole).verdict)


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=7))
def test_a_majority_is_known_when_nothing_can_change_it(holds) -> None:
    def closed(unknown: bool) -> list[bool]:
        return [unknown if x is None else x for x in holds]

    verdict = by_majority(holds)
    if None in holds:
        low, high = by_majority(closed(False)), by_majority(closed(True))
        assert verdict == (low if low == high else "not known")
    else:
        share = np.mean(holds)
        assert verdict == (
            "confirmed" if share == 1 else "confirmed in part" if share > 0.5 else "not confirmed"
        )


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["confirmed", "confirmed"], "confirmed"),
        (["not confirmed", "not confirmed"], "not confirmed"),
        (["confirmed", "not confirmed", "not known"], "confirmed in part"),
        (["confirmed in part", "not known"], "confirmed in part"),
        (["confirmed", "not known"], "not known"),
        (["not confirmed", "not known"], "not known"),
    ],
)
def test_the_parts_of_a_claim(verdicts, whole) -> None:
    assert together(verdicts) == whole


DECAYS = [cell.name for cell in weight_decays()]


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ((NEVER, NEVER, NEVER, 9000, 8000, 6000), "confirmed"),
        ((NEVER, NEVER, 9500, 9000, 8000, 6000), "confirmed in part"),  # 0.5 is claimed not to
        ((NEVER, NEVER, NEVER, NEVER, 8000, 6000), "confirmed in part"),  # 0.75 does not come before 0.5
        ((1000, 2000, 3000, 4000, 5000, 6000), "not confirmed"),
    ],
)
def test_weight_decay(steps, verdict) -> None:
    assert speed.more_weight_decay(generalise_at(**dict(zip(DECAYS, steps, strict=True)))).verdict == verdict


def test_readout_scales_one_way_and_the_other() -> None:
    falling, held = ([cell.name for cell in readout_scales(falls)] for falls in (True, False))
    up = generalise_at(**dict(zip(falling, (1000, 3000, 7000, NEVER, NEVER), strict=True)))
    down = generalise_at(**dict(zip(held, (NEVER, NEVER, 7000, 6500, 6000), strict=True)))
    assert speed.smaller_scales_with_falling_rate(up).verdict == "confirmed"
    assert speed.larger_scales_with_held_rate(down).verdict == "confirmed"
    same_way = generalise_at(**dict(zip(held, (1000, 3000, 7000, NEVER, NEVER), strict=True)))
    found = speed.larger_scales_with_held_rate(same_way)
    assert found.verdict == "not confirmed"
    assert "alpha 0.5 at 1,000" in found.text


def test_without_epsilon_takes_all_four_sweeps() -> None:
    steps = {True: (1000, 3000, 7000, NEVER, NEVER), False: (NEVER, NEVER, 7000, 6500, 6000)}

    def sweeps(*subtracted: bool) -> dict[str, int]:
        return {
            cell.name: step
            for subtract in subtracted
            for falls in (True, False)
            for cell, step in zip(
                readout_scales(falls, *(speed.WITHOUT_EPS + (speed.WITHOUT_PREDICTION if subtract else ()))),
                steps[falls],
                strict=True,
            )
        }

    both = sweeps(False, True)
    assert speed.without_epsilon_or_prediction(generalise_at(**both)).verdict == "confirmed"
    half = speed.without_epsilon_or_prediction(generalise_at(**sweeps(False)))
    assert (half.verdict, half.seeds) == ("not known", 0)
    assert "eps = 0, lr held: confirmed (alpha 1.5 at 6,000" in half.text
    assert "Not run: 9 of 18 cells." in half.text
    turned = {name: 10_050 - step if step < NEVER else 50 for name, step in both.items()}
    assert speed.without_epsilon_or_prediction(generalise_at(**turned)).verdict == "not confirmed"


def test_the_norm_of_values() -> None:
    names = [cell.name for cell in placed(("M+A^v", "M", "A^v", "M+A*", "A*", "No LN", "A^qk"))]

    def verdict(*steps: int) -> str:
        return speed.norm_of_values(generalise_at(**dict(zip(names, steps, strict=True)))).verdict

    assert verdict(600, 700, 1500, 3000, 7000, 8000, NEVER) == "confirmed"
    assert verdict(700, 600, 1500, 3000, 7000, 8000, NEVER) == "confirmed in part"
    assert verdict(700, 600, 9000, 3000, 7000, 8000, 8500) == "not confirmed"


@given(st.text("HML", max_size=30))
def test_slingshots_are_falls_from_high_to_low(course) -> None:
    values = [{"H": 0.995, "M": 0.9, "L": 0.89}[c] for c in course]
    steps = list(range(len(values)))
    both = curve(steps, values, 0.9) if values else curve([0], 0.9, 0.9)
    assert slingshots(both) == len(re.findall("H[^L]*L", course)) / 2


def test_three_layers_with_slingshots() -> None:
    names = [cell.name for cell in speed.DEEP]
    calm = generalise_at(**dict(zip(names, (1000, 2000, 3000, NEVER), strict=True)))
    dips = TESTED[np.isin(TESTED, (4000, 5000, 6000))]
    wild = {key: c.where(~c.step.isin(dips), 0.6) for key, c in calm.items()}
    found = speed.three_layers(wild)
    assert found.verdict == "confirmed"
    assert "M, n layers 3, d model 64 3.00" in found.text
    assert speed.three_layers(calm).verdict == "confirmed in part"
    assert speed.three_layers({}).verdict == "not known"


def placements_with(name: str, curves: list[xr.DataArray], *steps: int) -> Measured:
    """The four placements, with a curve of each."""
    return {**four(*steps), **{(cell, name): c for cell, c in zip((M, BOTH, A, OFF), curves, strict=True)}}  # pyright: ignore


@pytest.mark.parametrize(
    ("rises", "verdict"),
    [
        ((1400, 2400, 4000, 6000), "confirmed"),
        ((1400, 2400, 6000, 4000), "confirmed in part"),  # at all, but two the other way round
        ((6000, 4000, 2400, 1400), "confirmed in part"),  # at all, but in no order
        ((NEVER, NEVER, NEVER, NEVER), "not confirmed"),
    ],
)
def test_concentration(rises, verdict) -> None:
    modes = [stepped(0.1, 2.0, at) for at in rises]
    found = compression.concentration(placements_with("c_fourier", modes, 1000, 2000, 5000, 7000))
    assert found.verdict == verdict


def test_concentration_of_a_network_that_does_not_generalise_counts_against_it() -> None:
    modes = [stepped(0.1, 2.0, at) for at in (1400, 2400, 4000, 6000)]
    found = compression.concentration(placements_with("c_fourier", modes, 1000, 2000, 5000, NEVER))
    assert found.verdict == "confirmed in part"
    lost = placements_with("c_fourier", modes, 1000, 2000, 5000, 7000)
    without = {key: c for key, c in lost.items() if key != (A, "c_fourier")}
    found = compression.concentration(without)
    assert found.verdict == "not known"
    assert "C_Fourier not measured: A*." in found.text


def shortcuts(off: float, m: float, values: float, high: float = 6.0, generalised: int = 8000) -> Measured:
    """Late levels of No LN, M and A^v after a high one of all placements without a norm there."""
    ends = {"off": off, "attn-pre": high, "attn-pre-v": values, "attn-pre-qk": high, "mlp-pre": m}
    highest = {cell: 4.2 if cell == "mlp-pre" else high for cell in ends}
    sr = {(cell, "sr_train"): stepped(highest[cell], end, 8000) for cell, end in ends.items()}
    return {**sr, **generalise_at(off=generalised)}


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (shortcuts(3.0, 2.0, 5.9), "confirmed"),
        (shortcuts(3.0, 2.0, 3.0), "confirmed in part"),  # A^v's falls, too
        (shortcuts(5.9, 2.0, 5.9), "confirmed in part"),  # No LN generalises, and its does not fall
        (shortcuts(5.9, 2.0, 5.9, generalised=NEVER), "confirmed"),
        (shortcuts(4.6, 4.1, 3.0, high=4.6), "not confirmed"),  # never above ln 113 = 4.73
        ({k: c.sel(step=slice(0, 6000)) for k, c in shortcuts(3.0, 2.0, 5.9).items()}, "not known"),
    ],
)
def test_the_shortcut(measured, verdict) -> None:
    assert reasons.shortcut(measured).verdict == verdict


def entropies(qk: float, other: float, generalised: int = NEVER) -> Measured:
    levels = {"attn-pre-qk": qk, "attn-pre": qk, "pre": qk, "off": 0.8, "attn-pre-v": other, "pre-v": other}
    curves = {(c, "attention_entropy"): curve(CHECKED, x, x) for c, x in {**levels, "mlp-pre": other}.items()}
    return {**curves, **generalise_at(**{"attn-pre-qk": generalised})}


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (entropies(0.7, 1.0), "confirmed"),
        (entropies(0.7, 1.0, generalised=9000), "confirmed in part"),
        (entropies(0.75, 0.9), "confirmed in part"),  # 0.9 is not near ln 3 = 1.0986
        (entropies(1.0, 0.9, generalised=9000), "not confirmed"),
        ({("attn-pre-qk", "attention_entropy"): curve(CHECKED, 0.6)}, "not known"),
    ],
)
def test_attention_entropy(measured, verdict) -> None:
    assert reasons.attention_entropy(measured).verdict == verdict


def test_a_spike_does_not_move_a_median() -> None:
    spiked = entropies(0.7, 1.0)
    key = ("attn-pre-qk", "attention_entropy")
    spiked = {**spiked, key: spiked[key].where(spiked[key].step != 10_000, 50.0)}
    found = reasons.attention_entropy(spiked)
    assert found.verdict == "confirmed"
    assert "A^qk 0.700, No LN 0.800" in found.text
    assert found.seeds == 1  # of the test accuracy of A^qk


@pytest.mark.parametrize(
    ("norms", "verdict"),
    [((1, 2, 3, 4), "confirmed"), ((1, 2, 4, 3), "confirmed in part"), ((4, 3, 2, 1), "not confirmed")],
)
def test_updates_by_learning_rate(norms, verdict) -> None:
    cells = [cell.name for cell in movement.learning_rates()]
    norm = {(cell, "update_norm"): curve(TESTED, x / 100) for cell, x in zip(cells, norms, strict=True)}
    found = movement.larger_updates(norm)
    assert found.verdict == verdict
    assert f"lr 0.01 0.0{norms[-1]}00" in found.text
    del norm[cells[0], "update_norm"]
    assert "Not run: No LN." in movement.larger_updates(norm).text


def ramp(start: float, end: float) -> xr.DataArray:
    return curve(CHECKED, np.linspace(start, end, len(CHECKED)))


@pytest.mark.parametrize(
    ("ranks", "verdict"),
    [
        ((50, 49, 49, 49), "not confirmed"),
        ((40, 30, 20, 10), "confirmed"),
        ((40, 30, 20, 49), "confirmed in part"),
    ],
)
def test_features_always_change(ranks, verdict) -> None:
    slow = [ramp(50, end) for end in ranks]
    measured = placements_with("effective_rank", slow, 6000, 8000, 8000, 9000)
    assert compression.features_always_change(measured).verdict == verdict
    early = compression.features_always_change({**measured, (M, "test_accuracy"): accuracy(1000)})
    assert "Too early to say: M." in early.text
    assert compression.features_always_change(four(1, 2, 3, 4)).verdict == "not known"


def compressed(rank_falls: tuple[int, ...], loss_falls: tuple[int, ...], *generalised: int) -> Measured:
    ranks = placements_with("effective_rank", [stepped(40, 8, at) for at in rank_falls], *generalised)
    losses = placements_with("test_loss", [stepped(9, 0.1, at) for at in loss_falls], *generalised)
    return {**ranks, **losses}


FALLS = (600, 2000, 5000, 7000)


@pytest.mark.parametrize(
    ("ranks", "losses", "generalised", "verdict"),
    [
        (FALLS, FALLS, FALLS, "confirmed"),
        ((1000, 2400, 6200, 8600), FALLS, FALLS, "confirmed"),  # within 400 steps or a quarter
        ((1200, 2600, 6400, 8800), FALLS, FALLS, "confirmed in part"),  # not within
        ((NEVER,) * 4, FALLS, FALLS, "not confirmed"),
        (FALLS, (NEVER,) * 4, FALLS, "confirmed in part"),
        ((600, 2000, 5000, NEVER), (600, 2000, 5000, NEVER), (600, 2000, 5000, NEVER), "confirmed"),
    ],
)
def test_compressibility(ranks, losses, generalised, verdict) -> None:
    assert compression.compressibility(compressed(ranks, losses, *generalised)).verdict == verdict


def test_rank_and_loss_are_compared_seed_by_seed() -> None:
    ranks, losses = ([8000, 2000], [2000, 8000])
    measured = compressed(FALLS, FALLS, *FALLS)
    for name, at, levels in (("effective_rank", ranks, (40, 8)), ("test_loss", losses, (9, 0.1))):
        two = [np.where(step <= CHECKED, *levels[::-1]) for step in at]
        measured = {**measured, (OFF, name): curve(CHECKED, *two)}
    found = compression.compressibility({**measured, (OFF, "test_accuracy"): accuracy(2000, 8000)})
    assert "With the test loss, in 3 of 5 seeds and placements." in found.text
    assert found.verdict == "confirmed in part"


def test_a_half_is_of_the_highest_until_then() -> None:
    assert halved_step(curve([0, 10, 20, 30, 40], [99, 2, 8, 4.1, 4])) == 40
    assert halved_step(curve([0, 10, 20], [99, 2, 1.1])) is None


@pytest.mark.parametrize(
    ("halves", "generalised", "verdict"),
    [
        ((NEVER, NEVER, NEVER, 8000, 6000, 4000), (NEVER, NEVER, NEVER, 9000, 7000, 5000), "confirmed"),
        (
            (NEVER, 9000, NEVER, 8000, 6000, 4000),
            (NEVER, NEVER, NEVER, 9000, 7000, 5000),
            "confirmed in part",
        ),
        ((1000, 2000, 3000, 4000, 5000, 6000), (NEVER,) * 6, "not confirmed"),
    ],
)
def test_weight_decay_compresses(halves, generalised, verdict) -> None:
    ranks = {(c, "effective_rank"): stepped(40, 8, at) for c, at in zip(DECAYS, halves, strict=True)}
    steps = generalise_at(**dict(zip(DECAYS, generalised, strict=True)))
    assert compression.decay_compresses({**ranks, **steps}).verdict == verdict


@pytest.mark.parametrize(
    ("near", "verdict"), [(0, "confirmed"), (2, "confirmed in part"), (5, "not confirmed")]
)
def test_the_kernel(near: int, verdict: str) -> None:
    cells = dict.fromkeys((*readout_scales(False), *readout_scales(True)))
    drift = {(c.name, "kernel_drift"): curve(CHECKED, 0.5 if i < near else 50) for i, c in enumerate(cells)}
    assert movement.kernel_leaves(drift).verdict == verdict
    assert movement.kernel_leaves({k: c.isel(step=[0]) for k, c in drift.items()}).verdict == "not known"


def test_the_lattice_is_answered_when_all_is_known() -> None:
    plain_cells = {p.name: 1000 + 10 * i for i, p in enumerate(lattice.PLAIN)}
    normed = dict.fromkeys((p.name for p in lattice.QK_NORMED), 3000)
    all_of_it = generalise_at(**{**plain_cells, **normed, "off": NEVER})
    found = lattice.subsets(all_of_it)
    assert (found.verdict, found.seeds) == ("answered", 1)
    assert "Without QK-norm 15 of 16 generalise, the mean of No LN does not." in found.text
    assert "With it 16 of 16 generalise." in found.text
    assert "Soonest: M at 1,000." in found.text
    assert "QK-norm changes the answer for No LN of 16." in found.text
    first = {key: c for key, c in all_of_it.items() if key[0] in (LATTICE[0].specifier, LATTICE[1].specifier)}
    partly = lattice.subsets(first)
    assert (partly.verdict, partly.seeds) == ("not known", 0)
    assert "30 of 32 cells not run, or not for long enough." in partly.text


def as_published() -> Measured:
    """Curves of two equal seeds with the published steps and values."""
    measured: dict[tuple[str, str], xr.DataArray] = {}
    for numbers in published().numbers:
        if numbers.quantity == "generalisation_step":
            for cell, step in numbers.cells.items():
                at = NEVER if step is None else math.ceil(step / 50) * 50
                measured[cell, "test_accuracy"] = accuracy(at, at)
    for series in published().series:
        for cell, known in series.cells.items():
            measured.setdefault((cell, series.quantity), curve(list(series.steps), known.mean, known.mean))
    return measured


@pytest.mark.parametrize(
    "check",
    [
        speed.placements,
        speed.more_weight_decay,
        compression.concentration,
        compression.decay_compresses,
        movement.kernel_leaves,
    ],
)
def test_the_published_values_confirm_what_they_were_read_for(check) -> None:
    assert check(as_published()).verdict == "confirmed"


CLAIMS = [claim for figure in FIGURES for claim in figure.claims]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text[:40])
def test_without_measurements_nothing_is_known_and_it_says_why(claim) -> None:
    found = claim.check({})
    assert (found.verdict, found.seeds) == ("not known", 0)
    assert re.search(r"None of its \d+ cells was run\.|32 of 32 cells not run", found.text)


def test_the_table() -> None:
    table = claims_table(four(500, 1500, 3000, 4000))
    lines = table.splitlines()
    assert len(lines) == 2 + len(CLAIMS)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in lines)
    first = lines[2]
    assert first.startswith("| [fig2](reports/paper/fig2.html) | Where LayerNorm sits")
    assert "| **confirmed**: Generalised: M at 500, M+A\\* at 1,500" in first
    assert first.endswith(" | 1 |")
    assert {f"[{figure.name}]" for figure in FIGURES} == set(re.findall(r"\[\w+\]", table))


def test_text_in_a_cell() -> None:
    assert plain("M+A* | a <b> \\ c\nd") == "M+A\\* \\| a \\<b> \\\\ c d"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1498.3, "1,498"), (24.0, "24.0"), (0.013, "0.0130"), (123.0, "123"), (999.7, "1,000")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
