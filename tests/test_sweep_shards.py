"""Shares of a study: every cell in exactly one, families whole, none much heavier than the others."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.origins import parents_of
from mech_grok.sweep.shards import families, parse_shard, share

HERE = Path("/nowhere/study")


def cell(steps: int, n_seeds: int, follows: str | None = None) -> CellConfig:
    training = {"steps": steps, "seeds": list(range(n_seeds))}
    if follows is None:
        return CellConfig.model_validate({"training": training})
    follow = {"follow_entropy": {"of": follows}}
    return CellConfig.model_validate({"training": {**training, **follow}, "model": {"attention_factor": 1.0}})


@st.composite
def studies(draw: st.DrawFn) -> dict[Path, CellConfig]:
    """Cells of many lengths, some of which follow an earlier one, another run, or a file."""
    cells: dict[Path, CellConfig] = {}
    for i in range(draw(st.integers(1, 12))):
        earlier = [*(f"c{j}" for j in range(i)), "../study/c0", "../other/run", "curve.csv"]
        follows = draw(st.none() | st.sampled_from(earlier))
        cells[HERE / f"c{i}"] = cell(draw(st.integers(1, 9)) * 1000, draw(st.integers(1, 3)), follows)
    return cells


def work(cells: dict[Path, CellConfig]) -> int:
    return sum(c.training.steps * len(c.training.seeds) for c in cells.values())


@settings(deadline=None, max_examples=60)
@given(studies(), st.integers(1, 6))
def test_every_cell_is_in_one_share_with_all_that_it_builds_on(
    cells: dict[Path, CellConfig], count: int
) -> None:
    shares = [share(cells, i, count) for i in range(1, count + 1)]
    placed = [path for one in shares for path in one]
    assert sorted(placed) == sorted(cells)
    for one in shares:
        assert list(one) == [path for path in cells if path in one], "not in the study's order"
        for config in one.values():
            names = {name.removeprefix("../study/") for name in config.builds_on}
            assert all(HERE / name in one for name in names if HERE / name in cells)


@settings(deadline=None, max_examples=60)
@given(studies(), st.integers(1, 6))
def test_no_share_is_heavier_than_the_mean_and_one_family(cells: dict[Path, CellConfig], count: int) -> None:
    largest = max(work({path: cells[path] for path in family}) for family in families(cells))
    shares = [work(share(cells, i, count)) for i in range(1, count + 1)]
    assert max(shares) <= work(cells) / count + largest * (1 - 1 / count) + 1e-6
    assert max(shares) - min(shares) <= largest


def test_equal_cells_are_dealt_out_evenly() -> None:
    cells = {HERE / f"c{i}": cell(100, 1) for i in range(10)}
    assert [len(share(cells, i, 4)) for i in (1, 2, 3, 4)] == [3, 3, 2, 2]


def test_more_shares_than_families_leave_some_empty() -> None:
    cells = {HERE / "a": cell(100, 1), HERE / "b": cell(100, 1, "a"), HERE / "c": cell(100, 1, "b")}
    assert families(cells) == [list(cells)]
    assert [list(share(cells, i, 3)) for i in (1, 2, 3)] == [list(cells), [], []]


def test_a_fork_weighs_what_it_trains_itself() -> None:
    fork = CellConfig.model_validate(
        {"surgery": {"parent": "../else/x", "step": 900}, "training": {"steps": 1000, "seeds": [1]}}
    )
    cells = {HERE / "long": cell(300, 1), HERE / "fork": fork, HERE / "other": cell(150, 1)}
    assert list(share(cells, 1, 2)) == [HERE / "long"]
    assert list(share(cells, 2, 2)) == [HERE / "fork", HERE / "other"]


def test_parents_are_found_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = {Path("runs/s/a"): cell(1, 1), Path("runs/s/b"): cell(1, 1, "../s/a")}
    assert parents_of(cells) == {Path("runs/s/a"): [], Path("runs/s/b"): [Path("runs/s/a")]}


def test_a_shard_is_written_as_i_of_n() -> None:
    assert parse_shard("1/1") == (1, 1)
    assert parse_shard(" 03/12 ") == (3, 12)


@pytest.mark.parametrize(
    "text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.5/4", "¹/4", "1 of 4"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"write i/N with i from 1 to N, such as 1/4"):
        parse_shard(text)
