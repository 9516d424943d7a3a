"""The frozen tree of everything that defines a study, and its cells.

A study is one setting of task, model, optimiser and training, with a `grid` of values to vary; each point
of the grid is a cell. Every default is stated here, once.
"""

import itertools
from typing import Annotated, Any, Literal

import pydantic
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from mech_grok.placement import NormKind, Placement, all_placements
from mech_grok.task import Operation, Task


class _Frozen(pydantic.BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _parse_placement(value: object) -> Placement:
    if isinstance(value, Placement):
        if value not in all_placements():
            raise ValueError(f"{value!r} is no placement that can be trained; allowed: see all_placements()")
        return value
    if not isinstance(value, str):
        raise ValueError(f"a placement is a name such as mlp-pre or M, not {value!r}")
    return Placement.parse(value)


PlacementField = Annotated[
    Placement,
    BeforeValidator(_parse_placement),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]


class TaskConfig(_Frozen):
    """What is learnt: `(a op b) mod p`, and how much of it is held out."""

    operation: Operation = "add"
    p: int = Field(default=113, ge=3)
    test_fraction: float = Field(default=0.7, gt=0, lt=1)

    @model_validator(mode="after")
    def _neither_set_empty(self) -> "TaskConfig":
        task = self.task
        if task.n_test == 0 or task.n_train == 0:
            empty = "test" if task.n_test == 0 else "train"
            raise ValueError(
                f"test_fraction {self.test_fraction} leaves the {empty} set empty at p = {self.p} "
                f"({self.p**2} pairs); allowed: from about {1 / self.p**2:.2g} to below 1"
            )
        return self

    @property
    def task(self) -> Task:
        return Task(self.operation, self.p, self.test_fraction)


class ModelConfig(_Frozen):
    """The transformer: its size, where it is normalised, how it starts."""

    placement: PlacementField = Placement.of()
    norm: NormKind = "ln"
    qk_norm: bool = False
    shared_affine: bool = True
    freeze_norm_affine: bool = False
    final_norm: Literal["off", "on", "frozen"] = "off"
    n_layers: PositiveInt = 1
    d_model: PositiveInt = 128
    n_heads: PositiveInt = 4
    mlp_ratio: PositiveInt = 4
    activation: Literal["relu", "gelu", "silu", "swiglu"] = "relu"
    tied_unembed: bool = False
    readout_scale: float = Field(default=1.0, gt=0)
    scale_in_loss: bool = False
    init: Literal["lecun", "kaiming"] = "lecun"
    init_scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.d_model % self.n_heads:
            divisors = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            raise ValueError(
                f"n_heads = {self.n_heads} does not divide d_model = {self.d_model}; "
                f"allowed: {', '.join(map(str, divisors))}"
            )
        return self

    @property
    def loss_scale(self) -> float:
        """What the logits are multiplied by inside the loss (the reference's inverse softmax temperature)."""
        return self.readout_scale if self.scale_in_loss else 1.0

    @property
    def gated_mlp(self) -> bool:
        """SwiGLU is the one activation with a gate: silu(x W_gate + b_gate) * (x W_in + b_in)."""
        return self.activation == "swiglu"

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def d_mlp(self) -> int:
        return self.d_model * self.mlp_ratio


class OptimiserConfig(_Frozen):
    """AdamW, full batch; weight decay acts on every trained parameter."""

    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)


Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what an int64 coordinate and torch's generator can hold


class TrainingConfig(_Frozen):
    """How long, over which seeds, and what is recorded when.

    A seed draws its own initialisation and its own split, unless `model_seed` or `data_seed` fixes one of
    them for all. `threads: null` takes torch's own choice, which the run records.
    """

    steps: PositiveInt = 10_000
    seeds: tuple[Seed, ...] = Field(default=(456, 789, 111, 222, 333), min_length=1, strict=False)
    data_seed: Seed | None = None
    model_seed: Seed | None = None
    evaluate_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 100
    optimiser_state_every: PositiveInt = 1_000
    subtract_initial_prediction: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: PositiveInt | None = None

    @model_validator(mode="after")
    def _seeds_differ(self) -> "TrainingConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one seed twice")
        return self

    def initial_seed(self, seed: int) -> int:
        """What a replica's initial weights are drawn from."""
        return seed if self.model_seed is None else self.model_seed

    def split_seed(self, seed: int) -> int:
        """What a replica's train/test split is drawn from."""
        return seed if self.data_seed is None else self.data_seed

    def is_evaluated(self, step: int) -> bool:
        """Whether test loss and accuracy are measured after this step."""
        return step == 1 or step % self.evaluate_every == 0 or step == self.steps

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps with a checkpoint: 0, every `checkpoint_every`, and the last."""
        return tuple(sorted({*range(0, self.steps + 1, self.checkpoint_every), self.steps}))


class CellConfig(_Frozen):
    """One hyperparameter setting, trained over several seeds at once: what a run directory starts with."""

    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()


class StudyConfig(CellConfig):
    """A cell's settings, and a grid of values to vary: dotted key -> list (`model.placement: [M, off]`)."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _every_cell_is_valid(self) -> "StudyConfig":
        names = [name for name, _ in self._points()]
        if len(set(names)) < len(names):
            raise ValueError(f"the grid names a cell twice: {', '.join(names)}")
        return self

    def cells(self) -> dict[str, CellConfig]:
        """Name -> config of every cell: the product of the grid's axes, the first axis slowest."""
        return dict(self._points())

    def _points(self) -> list[tuple[str, CellConfig]]:
        base = {k: v for k, v in self.model_dump().items() if k in CellConfig.model_fields}
        points = []
        for values in itertools.product(*self.grid.values()):
            settings = dict(zip(self.grid, values, strict=True))
            tree = base
            for key, value in settings.items():
                tree = set_dotted(tree, key, value)
            cell = CellConfig.model_validate(tree)
            points.append((_cell_name(cell, settings), cell))
        return points


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
