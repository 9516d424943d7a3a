"""What a page stores packed: numbers that come back as they were, and parts of figures, stored once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from embedded_page import array_values, restored
from fake_maps import with_maps
from fake_probes import add_probes
from fake_runs import fake_run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mech_grok.report import study_report
from mech_grok.report.byte_arrays import byte_array
from mech_grok.report.cells import identify
from mech_grok.report.checkpoints import step_array
from mech_grok.report.headline import compute_headline
from mech_grok.report.packing import LEAST, SHARED, packed_array, stored_bytes, stored_once
from mech_grok.report.render import embedded as embed
from mech_grok.report.sections import build_sections

RUN = fake_run("mlp-pre", "mlp", late=600)
(CELL,) = identify([RUN])
PATTERN = RUN.probe("attention")["pattern"]


def test_floats_come_back_bit_by_bit() -> None:
    odd = PATTERN.copy()
    odd[0, 0] = [np.nan, np.inf, -0.0]
    packed = packed_array(step_array("x", CELL, odd))
    assert array_values(packed).tobytes() == odd.values.astype("<f4").tobytes()
    assert json.loads(json.dumps(packed))["shape"] == list(odd.shape)


@given(arrays(np.float64, (1, 2, 3, 4), elements=st.floats(-1, 1) | st.just(np.nan)))
@settings(max_examples=40, deadline=None)
def test_codes_come_back(values: np.ndarray) -> None:
    data = PATTERN.isel(seed=[0], step=[0, 1], layer=0, head=0, drop=True)
    data = data.isel(query=[0, 1, 2], key=[0, 1, 2, 2]).drop_vars(["query", "key"]).copy(data=values)
    info = byte_array("x", CELL, data)
    packed = packed_array(info)
    np.testing.assert_array_equal(array_values(packed), info.encoded.codes)
    assert stored_bytes([info]) == len(str(packed["values"]))


def test_a_smooth_map_takes_less_than_a_byte_a_number() -> None:
    angle = np.linspace(0, 2 * np.pi, 113)
    smooth = np.broadcast_to(np.cos(angle[:, None] - angle), (1, 1, 113, 113))
    data = PATTERN.isel(seed=[0], step=[0], layer=0, head=0, drop=True)
    data = data.isel(query=[0] * 113, key=[0] * 113).drop_vars(["query", "key"]).copy(data=smooth)
    assert stored_bytes([byte_array("x", CELL, data)]) < 0.3 * smooth.size


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_figures_come_back_whole(value: Any) -> None:
    parts, rest = stored_once([value, {"twice": value}])
    assert restored(rest, parts) == [value, {"twice": value}]


def test_what_is_long_and_repeated_is_stored_once() -> None:
    steps, once = {"dtype": "i4", "bdata": "A" * LEAST}, "B" * LEAST
    parts, rest = stored_once([{"x": steps, "y": once}, {"x": steps}, "short", "short"])
    assert parts == [steps]
    assert rest == [{"x": {SHARED: 0}, "y": once}, {"x": {SHARED: 0}}, "short", "short"]


def test_nothing_long_is_on_a_page_twice() -> None:
    sections = build_sections([RUN], compute_headline([RUN]))
    page = json.loads(embed(sections, [CELL]))
    x = [t["x"] for p in page["panels"].values() if "data" in p for t in p["data"] if "x" in t]
    stored = [json.dumps(part) for part in (*page["shared"], *x) if SHARED not in part]
    long = [text for text in stored if len(text) >= LEAST]
    assert len(set(long)) == len(long) > 10


def test_a_page_of_two_long_cells_stays_small(tmp_path: Path) -> None:
    """51 checkpoints, five seeds, p = 113, all sections; every map is noise."""
    seeds = (456, 789, 111, 222, 333)
    keys = {seed: [2, 4, 5] for seed in seeds}
    runs = [
        with_maps(add_probes(fake_run(*of, late=3000, seeds=seeds, steps=10_000, every=200)), 113, keys=keys)
        for of in (("mlp-pre", "mlp"), ("off", ""))
    ]
    assert study_report(runs, tmp_path, "Two").stat().st_size < 6_000_000
