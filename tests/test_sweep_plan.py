"""What a plan says, and how it adds up."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mech_grok.config import CellConfig
from mech_grok.study_config import STAGES, StudyConfig
from mech_grok.sweep.costs.estimate import Cost
from mech_grok.sweep.display.plan import about, makespan, plan_lines, seconds_left, size
from mech_grok.sweep.state import CellState
from mech_grok.sweep.workers.resources import Layout

COST = Cost(train=100.0, probe=20.0, ablate=30.0, disk=5_000_000)
STUDY = StudyConfig.model_validate(
    {
        "study": "s",
        "training": {"steps": 1000, "seeds": [1, 2]},
        "cells": {"a": {}, "b": {"optimiser.lr": 0.002}, "c": {"optimiser.lr": 0.003}},
    }
)


def planned(
    folder: Path, states: list[CellState], costs: list[Cost] | None = None, layout: Layout | None = None
) -> list[str]:
    cells = {folder / name: cell for name, cell in STUDY.all_cells().items()}
    return plan_lines(
        cells,
        dict(zip(cells, states, strict=True)),
        dict(zip(cells, costs or [COST] * len(cells), strict=True)),
        layout or Layout(2, 1),
        STUDY,
    )


def begun(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "config.yaml").write_text("")


def test_every_cell_has_its_state_and_what_is_to_come(tmp_path: Path) -> None:
    for name in "ab":
        begun(tmp_path, name)
    states = [CellState(1000, ()), CellState(400, STAGES), CellState(-1, STAGES)]
    a, b, c, *_ = planned(tmp_path, states)
    assert a.startswith(f"{tmp_path / 'a'}: No LN, p = 113, 3,831 training pairs, 2 seeds x 1,000 steps, 11 ")
    assert a.endswith("checkpoints [complete]")
    assert b.endswith("[at step 400; train, probe, ablate to come: about 2 min, 5.0 MB]")
    assert c.endswith("[new; train, probe, ablate to come: about 2 min, 5.0 MB]")


def test_what_is_on_disk_already_is_not_to_come(tmp_path: Path) -> None:
    begun(tmp_path, "a")
    (tmp_path / "a" / "weights").write_bytes(bytes(range(256)) * 4096 * 3)  # 3.1 MB
    states = [CellState(1000, ("ablate",)), CellState(-1, STAGES), CellState(-1, STAGES)]
    line, *_ = planned(tmp_path, states)
    assert line.endswith("[trained; ablate to come: about 30 s, 1.9 MB]")


def test_a_failure_says_why(tmp_path: Path) -> None:
    for name, content in (("a", json.dumps({"message": "disk full"})), ("b", "{")):
        begun(tmp_path, name)
        (tmp_path / name / "failure.json").write_text(content)
    a, b, *_ = planned(tmp_path, [CellState(0, STAGES)] * 3)
    assert "[failed: disk full; train, probe, ablate to come" in a
    assert "[failed: failure.json does not say why; " in b


def test_totals(tmp_path: Path) -> None:
    states = [CellState(1000, ()), CellState(400, STAGES), CellState(-1, STAGES)]
    *_, work, time, disk = planned(tmp_path, states)
    assert work == "s: 3 cells, 1 complete; 1,600 steps to train"
    # The new cell takes 100 + 20 + 30 s, the other 60 + 50 s beside it.
    assert time == "time: about 2 min with 2 workers of 1 CPU thread, if nothing else runs there"
    assert disk.startswith("disk: 10 MB to come, ")
    assert disk.endswith(f" free at {tmp_path}")


def test_a_share_says_of_how_many(tmp_path: Path) -> None:
    cells = {tmp_path / "a": STUDY.all_cells()["a"]}
    states, costs = {tmp_path / "a": CellState(-1, STAGES)}, {tmp_path / "a": COST}
    lines = plan_lines(cells, states, costs, Layout(1, 4), STUDY)
    assert lines[1] == "s: 1 of 3 cells, 0 complete; 1,000 steps to train"
    assert "1 worker of 4 CPU threads" in lines[2]
    assert plan_lines({}, {}, {}, Layout(1, 1), STUDY) == ["s: no cells in this share"]


def test_what_cannot_be_estimated_is_said(tmp_path: Path) -> None:
    unknown = Cost(None, 20.0, 30.0, 5_000_000)
    costs = [unknown, unknown, Cost(None, 0.0, 0.0, 0)]
    states = [CellState(1000, ("probe",)), CellState(-1, STAGES), CellState(-1, ("train",))]
    a, b, c, _, time, note, _ = planned(tmp_path, states, costs, Layout(2, 1, ("0", "0")))
    assert "probe to come: about 20 s, " in a
    assert "to come: about 50 s without training, " in b
    assert "train to come: time unknown, " in c
    assert "2 workers of 1 CPU thread, GPUs 0, " in time
    assert note.startswith("not in that time: the training of 2 cells on a GPU, of which no like run")


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    huge = Cost(1.0, 1.0, 1.0, 10**18)
    folder = tmp_path / "not" / "there"
    *_, disk, warning = planned(folder, [CellState(-1, STAGES)] * 3, [COST, COST, huge])
    free = shutil.disk_usage(tmp_path).free
    assert disk == f"disk: {size(10**18 + 10**7)} to come, {size(free)} free at {tmp_path}"
    assert warning.startswith(f"WARNING: that does not fit: {size(10**18 + 10**7 - free)} too little; ")
    assert list(tmp_path.iterdir()) == [], "a plan wrote something"


def test_what_is_left_of_a_cell() -> None:
    config = CellConfig.model_validate({"training": {"steps": 1000}})
    fork = CellConfig.model_validate(
        {"training": {"steps": 1000}, "surgery": {"parent": "../x/y", "step": 600}}
    )
    left = {
        (-1, STAGES): 150,
        (0, STAGES): 150,
        (250, STAGES): 125,
        (1000, ("probe", "ablate")): 50,
        (1000, ("ablate",)): 30,
        (1000, ()): 0,
    }
    for (steps, missing), seconds in left.items():
        assert seconds_left(CellState(steps, missing), config, COST) == seconds
    assert seconds_left(CellState(-1, ("train",)), fork, COST) == 100
    assert seconds_left(CellState(900, ("train",)), fork, COST) == pytest.approx(25)
    assert seconds_left(CellState(-1, STAGES), config, Cost(None, 1.0, 2.0, 0)) == 3


A, B, C, D = map(Path, "abcd")


@pytest.mark.parametrize(
    ("seconds", "parents", "workers", "expected"),
    [
        ([3, 3, 3, 3], {}, 1, 12),
        ([3, 3, 3, 3], {}, 4, 3),
        ([3, 3, 3, 0], {}, 2, 6),  # not 4.5: a cell is not divided
        ([1, 9, 1, 1], {}, 2, 9),
        ([3, 3, 3, 3], {B: [A], C: [B], D: [C]}, 4, 12),
        ([4, 1, 1, 1], {B: [A]}, 2, 5),
        ([0, 0, 0, 0], {B: [A]}, 2, 0),
    ],
)
def test_how_long_workers_take_together(
    seconds: list[float], parents: dict[Path, list[Path]], workers: int, expected: float
) -> None:
    of_cell = dict(zip((A, B, C, D), map(float, seconds), strict=True))
    assert makespan(of_cell, {path: parents.get(path, []) for path in of_cell}, workers) == expected


@given(st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.integers(0, 20)), max_size=12), st.integers(1, 5))
def test_no_shorter_than_the_longest_chain_or_a_fair_share(
    drawn: list[tuple[float, int | None]], workers: int
) -> None:
    """And no longer than Graham's bound for any order in which nobody idles."""
    paths = [Path(f"c{i}") for i in range(len(drawn))]
    seconds = {path: s for path, (s, _) in zip(paths, drawn, strict=True)}
    parents = {
        path: [paths[j % i]] if i and j is not None else []
        for i, (path, (_, j)) in enumerate(zip(paths, drawn, strict=True))
    }
    chain: dict[Path, float] = {}
    for path in paths:
        chain[path] = seconds[path] + max((chain[p] for p in parents[path]), default=0.0)
    total, longest = sum(seconds.values()), max(chain.values(), default=0.0)
    found = makespan(seconds, parents, workers)
    assert found >= max(total / workers, longest) * (1 - 1e-9)
    assert found <= (total / workers + longest * (1 - 1 / workers)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "no time"),
        (0.2, "about 5 s"),
        (43, "about 45 s"),
        (89, "about 90 s"),
        (100, "about 2 min"),
        (25 * 60, "about 25 min"),
        (57 * 60, "about 55 min"),
        (3599, "about 1 h"),
        (4200, "about 1 h 10 min"),
        (7200, "about 2 h"),
        (11.6 * 3600, "about 12 h"),
        (71 * 3600, "about 71 h"),
        (100 * 3600, "about 4 days"),
    ],
)
def test_times_are_as_rough_as_they_are_known(seconds: float, text: str) -> None:
    assert about(float(seconds)) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 kB"),
        (1500, "1.5 kB"),
        (34_500_000, "34 MB"),
        (999_600, "1.0 MB"),
        (41e9, "41 GB"),
        (3e15, "3000 TB"),
    ],
)
def test_sizes(n_bytes: float, text: str) -> None:
    assert size(int(n_bytes)) == text
