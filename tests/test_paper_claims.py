"""The verdicts on the paper's claims, on curves whose answers are known."""

import math
import re

import numpy as np
import pytest
import xarray as xr
from claimed_curves import NEVER, accuracy, curve, four
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.paper.checks import compression, movement, speed
from mech_grok.paper.checks.evidence import by_majority, number, together
from mech_grok.paper.claims_table import claims_table, plain
from mech_grok.paper.figures import FIGURES
from mech_grok.paper.measures import Measured
from mech_grok.paper.published import published


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
