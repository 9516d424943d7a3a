"""The verdicts on why networks generalise, on curves whose answers are known."""

import numpy as np
import pytest
import xarray as xr
from claimed_curves import (
    BOTH,
    CHECKED,
    DECAYS,
    NEVER,
    OFF,
    TESTED,
    A,
    M,
    accuracy,
    curve,
    four,
    generalise_at,
    stepped,
)

from mech_grok.paper.cells import LATTICE, readout_scales
from mech_grok.paper.checks import compression, lattice, movement, reasons
from mech_grok.paper.checks.marks import halved_step
from mech_grok.paper.measures import Measured


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
