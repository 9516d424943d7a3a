"""A study: settings that its cells share, and what varies from cell to cell."""

import itertools
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from mech_grok.config import CellConfig
from mech_grok.probe_names import PROBE_NAMES, unknown_probe

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_CELL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$"

CellName = Annotated[str, Field(pattern=_CELL_NAME)]

Stage = Literal["train", "probe", "ablate"]
STAGES: tuple[Stage, ...] = ("train", "probe", "ablate")
"""What is done with a cell, in this order."""


def _in_order(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return tuple(stage for stage in STAGES if stage in stages)


def _known(probes: tuple[str, ...]) -> tuple[str, ...]:
    for name in probes:
        if name not in PROBE_NAMES:
            raise ValueError(unknown_probe(name))
    return tuple(dict.fromkeys(probes))


Stages = Annotated[tuple[Stage, ...], Field(min_length=1, strict=False), AfterValidator(_in_order)]
Probes = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_known)]


class Work(pydantic.BaseModel):
    """What is done with a cell: `stages`, and which `probes` are recorded (none named: all of them)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stages: Stages = STAGES
    probes: Probes = ()


def _with_own_work(settings: dict[str, Any]) -> dict[str, Any]:
    """A cell's settings, with its own stages and probes, if it has any, as they are understood."""
    own = Work.model_validate({key: settings[key] for key in Work.model_fields if key in settings})
    return {**settings, **own.model_dump(exclude_unset=True)}


def _without_work(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in Work.model_fields}


CellSettings = Annotated[dict[str, Any], AfterValidator(_with_own_work)]


class StudyConfig(CellConfig):
    """A cell's settings, what varies from cell to cell, and what is done with each.

    Either a `grid` of values, dotted key -> list (`model.placement: [M, off]`), each combination a cell; or
    `cells`, name -> {dotted key: value}, each entry a cell. A cell that begins from or follows another one
    comes after it. `stages` are what is done, `probes` which are recorded (none named: all of them); one of
    `cells` may have its own, under the keys `stages` and `probes`.
    """

    study: str = Field(pattern=_NAME)
    description: str = ""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default={})
    cells: dict[CellName, CellSettings] = Field(default={})
    stages: Stages = STAGES
    probes: Probes = ()

    @model_validator(mode="after")
    def _every_cell_is_valid(self) -> "StudyConfig":
        if self.grid and self.cells:
            raise ValueError("a study has a grid or cells, not both")
        names = [name for name, _ in self._points()]
        if len(set(names)) < len(names):
            raise ValueError(f"the grid names a cell twice: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _parents_come_first(self) -> "StudyConfig":
        order = list(self.all_cells())
        for name, cell in self.all_cells().items():
            late = [other for other in cell.builds_on if other in order[order.index(name) :]]
            if late:
                raise ValueError(f"cell '{name}' builds on '{late[0]}', which has to come before it")
        return self

    def all_cells(self) -> dict[str, CellConfig]:
        """Name -> config of every cell, in order; of a grid the first axis is the slowest."""
        return dict(self._points())

    def work_of(self, name: str) -> Work:
        """What is done with a cell: what the study says, unless the cell says otherwise."""
        own = self.cells.get(name, {})
        return Work(stages=own.get("stages", self.stages), probes=own.get("probes", self.probes))

    def _points(self) -> list[tuple[str, CellConfig]]:
        base = {k: v for k, v in self.model_dump().items() if k in CellConfig.model_fields}
        if self.cells:
            return [(name, _cell(base, _without_work(settings))) for name, settings in self.cells.items()]
        points = []
        for values in itertools.product(*self.grid.values()):
            settings = dict(zip(self.grid, values, strict=True))
            cell = _cell(base, settings)
            points.append((_cell_name(cell, settings), cell))
        return points


def _cell(base: dict[str, Any], settings: dict[str, Any]) -> CellConfig:
    for key, value in settings.items():
        base = set_dotted(base, key, value)
    return CellConfig.model_validate(base)


def set_dotted(tree: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """A copy of a nested dict with `value` at a dotted key such as `model.placement`."""
    head, _, rest = key.partition(".")
    if not rest:
        return {**tree, head: value}
    branch = tree.get(head)
    return {**tree, head: set_dotted(branch if isinstance(branch, dict) else {}, rest, value)}


def _cell_name(cell: CellConfig, settings: dict[str, object]) -> str:
    """The placement, then the other varied keys: `mlp-pre`, `off_lr=0.003`."""
    parts = [cell.model.placement.specifier]
    for key in settings:
        if key != "model.placement":
            leaf: Any = cell
            for name in key.split("."):
                leaf = getattr(leaf, name)
            if isinstance(leaf, pydantic.BaseModel):
                raise ValueError(f"grid.{key} is a section; name one value of it, such as model.placement")
            text = "-".join(map(str, leaf)) if isinstance(leaf, tuple) else str(leaf)
            parts.append(f"{key.rpartition('.')[2]}={text}")
    return "_".join(parts)
