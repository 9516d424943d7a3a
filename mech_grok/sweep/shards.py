"""Shares of a study, for machines that know nothing of one another: `--shard 2/8`."""

import re
from collections.abc import Mapping
from pathlib import Path

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.origins import parents_of


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8): the second of eight shares.

    Raises:
        UserError: it is not of this form, or there is no such share.
    """
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        raise UserError(
            f"--shard {text}: write i/N with i from 1 to N, such as 1/4 for the first of four shares"
        )
    return index, count


def share(cells: Mapping[Path, CellConfig], index: int, count: int) -> dict[Path, CellConfig]:
    """The cells of one share, in the study's order; every cell is in exactly one of them.

    Cells that build on one another stay together. Shares are about equal in steps times seeds, and depend on
    the study alone, not on what is done already. Where there are more shares than families of cells, some
    are empty.

    Args:
        cells: run directory -> config of the whole study.
        index, count: which share of how many, from 1.
    """
    loads, mine = [0] * count, set[Path]()
    heaviest_first = sorted(families(cells), key=lambda family: -weight(family, cells))
    for family in heaviest_first:
        idlest = loads.index(min(loads))
        loads[idlest] += weight(family, cells)
        if idlest == index - 1:
            mine.update(family)
    return {path: config for path, config in cells.items() if path in mine}


def families(cells: Mapping[Path, CellConfig]) -> list[list[Path]]:
    """Cells that build on one another, directly or not, in groups; in the order of their first cells."""
    family_of = {path: [path] for path in cells}
    for path, needed in parents_of(cells).items():
        for parent in needed:
            if family_of[parent] is not family_of[path]:
                joined = [*family_of[parent], *family_of[path]]
                family_of |= dict.fromkeys(joined, joined)
    return list({id(family): family for family in family_of.values()}.values())


def weight(family: list[Path], cells: Mapping[Path, CellConfig]) -> int:
    """Training steps times seeds of some of the cells."""
    trainings = [(cells[path].training, cells[path].first_step) for path in family]
    return sum((training.steps - first) * len(training.seeds) for training, first in trainings)
