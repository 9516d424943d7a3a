"""The other runs that a cell needs before it can be trained: the one it begins from, the one it follows."""

from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.config_file import load_cell
from mech_grok.errors import UserError
from mech_grok.run import Run, beside
from mech_grok.training.checkpoints import check_step, saved_steps

Cells = Mapping[Path, CellConfig]
"""Run directory -> config."""


def parents_first(cells: Cells) -> dict[Path, CellConfig]:
    """The same cells, each after those that it builds on."""
    return {path: cells[path] for path in TopologicalSorter(parents_of(cells)).static_order()}


def parents_of(cells: Cells) -> dict[Path, list[Path]]:
    """For each cell those among the cells that it builds on."""
    by_place = _by_place(cells)
    return {
        path: [by_place[p] for name in cell.builds_on if (p := beside(path, name).resolve()) in by_place]
        for path, cell in cells.items()
    }


def check_origins(cells: Cells) -> None:
    """Refuse cells whose parent, or the run that they follow, is neither among them nor on disk.

    A run that has its first checkpoint needs its parent no more.

    Raises:
        UserError: one is missing, has no such checkpoint, or is too different to go on from.
    """
    for path, cell in cells.items():
        last = max(saved_steps(path / "checkpoints"), default=-1)
        if cell.surgery and last < 0:
            _check_parent(path, cell, cells)
        follow = cell.training.follow_entropy
        if follow and isinstance(follow.of, str) and last < cell.training.steps:
            _check_followed(path, follow.of, cells)


def _check_parent(path: Path, cell: CellConfig, cells: Cells) -> None:
    assert cell.surgery is not None
    from mech_grok.surgery.parent import check_surgery  # imports TransformerLens, and few cells have a parent

    where = beside(path, cell.surgery.parent)
    planned = _by_place(cells).get(where.resolve())
    if planned is None and not _is_run(where):
        raise UserError(
            f"{path}: begins from {where}, which is neither a cell of this study nor a run on disk"
        )
    parent = load_cell(where / "config.yaml") if planned is None else cells[planned]
    scheduled = () if planned is None else parent.checkpoint_steps
    check_surgery(cell, parent, where)
    check_step(where, sorted({*scheduled, *saved_steps(where / "checkpoints")}), cell.surgery.step)


def _check_followed(path: Path, of: str, cells: Cells) -> None:
    where = beside(path, of)
    if where.resolve() not in _by_place(cells) and not _is_run(where) and not where.is_file():
        raise UserError(
            f"{path}: follows the entropies of {where}, which is neither a cell of this study nor a run or a "
            "CSV file on disk"
        )


def record_followed(path: Path, cell: CellConfig) -> None:
    """Record the `attention` probe of the run whose entropies a cell follows; what is there is kept."""
    follow = cell.training.follow_entropy
    if follow and isinstance(follow.of, str) and _is_run(where := beside(path, follow.of)):
        from mech_grok.checkpoint_stages import probe_run

        probe_run(Run(where), ["attention"])


def _by_place(cells: Cells) -> dict[Path, Path]:
    """Resolved path -> the path as the cells have it."""
    return {path.resolve(): path for path in cells}


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()
