"""What was published: the numbers of arXiv 2602.06702, each with where it is from."""

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import pydantic
from pydantic import ConfigDict, Field, model_validator

SourceKind = Literal["data file", "read off a figure"]
"""`data file`: from a file beside the authors' code, exact. `read off a figure`: a few per cent of error."""

Number = float | int

Steps = Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
Values = Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class _Frozen(pydantic.BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Sourced(_Frozen):
    """What every published value comes with.

    Attributes:
        figure: the name of the figure here that it belongs to.
        quantity: what was measured; `Published.rules` says how.
        kind: from a data file, or read off a figure.
        where: the file, or what the figure shows, in words.
    """

    figure: str
    quantity: str
    kind: SourceKind
    where: str


class PublishedNumbers(_Sourced):
    """One number for each of some cells; None: it did not happen in the published number of steps."""

    cells: dict[str, float | None]


class Curve(_Frozen):
    """Mean over the published seeds, and, where they were published, least and largest, step by step."""

    mean: Values
    low: Values | None = None
    high: Values | None = None

    @model_validator(mode="after")
    def _is_in_order(self) -> "Curve":
        if (self.low is None) != (self.high is None):
            raise ValueError("a band has a low and a high end")
        if self.low is None or self.high is None:
            return self
        ends = zip(self.low, self.mean, self.high, strict=True)
        wrong = [values for values in ends if not values[0] <= values[1] <= values[2]]
        if wrong:
            raise ValueError(f"low <= mean <= high does not hold for {wrong[0]}")
        return self


class PublishedSeries(_Sourced):
    """A curve of some cells at selected steps; a step t is the state after t updates, as everywhere here."""

    steps: Steps
    cells: dict[str, Curve]

    @model_validator(mode="after")
    def _as_long_as_its_steps(self) -> "PublishedSeries":
        for name, curve in self.cells.items():
            if len(curve.mean) != len(self.steps):
                raise ValueError(f"{name} has {len(curve.mean)} values for {len(self.steps)} steps")
        return self


class PublishedOrder(_Sourced):
    """Which cells come before which; those of one group are not told apart."""

    first_to_last: Annotated[tuple[Names, ...], Field(strict=False, min_length=2)]

    def rank(self, cell: str) -> int:
        """The index of a cell's group."""
        return next(i for i, group in enumerate(self.first_to_last) if cell in group)


class Published(_Frozen):
    """All of it. Cells are named by placement and by what differs from the base: `off_weight_decay=0.5`.

    Attributes:
        seeds: each its own initialisation and split; the numbers are over all of them.
        steps: how long every cell was trained.
        rules: quantity -> how it is measured.
    """

    paper: str
    code: str
    licence: str
    p: int
    seeds: Annotated[tuple[int, ...], Field(strict=False)]
    steps: int
    rules: dict[str, str]
    numbers: Annotated[tuple[PublishedNumbers, ...], Field(strict=False)]
    series: Annotated[tuple[PublishedSeries, ...], Field(strict=False)]
    orders: Annotated[tuple[PublishedOrder, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _every_quantity_has_a_rule(self) -> "Published":
        for entry in (*self.numbers, *self.series, *self.orders):
            if entry.quantity not in self.rules:
                raise ValueError(f"no rule says how {entry.quantity} is measured")
        return self

    def of(self, figure: str) -> "Published":
        """What belongs to one figure."""
        return self.model_copy(
            update={
                kind: tuple(entry for entry in getattr(self, kind) if entry.figure == figure)
                for kind in ("numbers", "series", "orders")
            }
        )


@cache
def published() -> Published:
    """The published values, read once."""
    return Published.model_validate_json(
        files("mech_grok.paper").joinpath("published.json").read_text("utf-8")
    )
