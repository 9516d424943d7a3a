"""The frozen tree of everything that defines a cell: task, model, optimiser, training, where it begins.

Every default is stated here, once.
"""

import math
from typing import Annotated, Literal

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


Factor = Annotated[float, Field(gt=0)]
AttentionFactor = (
    Factor | Annotated[tuple[Annotated[tuple[Factor, ...], Field(strict=False)], ...], Field(strict=False)]
)
"""One number for all heads, or one a layer and head: `[[1.0, 2.0, 1.0, 1.0]]`."""


class ModelConfig(_Frozen):
    """The transformer: its size, where it is normalised, how it starts.

    `attention_factor` multiplies the attention scores (it is one over the temperature) and is not trained.
    """

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
    attention_factor: AttentionFactor | None = None

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.d_model % self.n_heads:
            divisors = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            raise ValueError(
                f"n_heads = {self.n_heads} does not divide d_model = {self.d_model}; "
                f"allowed: {', '.join(map(str, divisors))}"
            )
        return self

    @model_validator(mode="after")
    def _a_factor_for_every_head(self) -> "ModelConfig":
        given = self.attention_factor
        if isinstance(given, tuple) and [len(row) for row in given] != [self.n_heads] * self.n_layers:
            raise ValueError(
                f"attention_factor is one number, or {self.n_layers} lists (one a layer) of {self.n_heads} "
                f"numbers (one a head); got {[list(row) for row in given]}"
            )
        return self

    @property
    def attention_factors(self) -> tuple[tuple[float, ...], ...] | None:
        """The factor of every layer and head; None if the model has none."""
        given = self.attention_factor
        if given is None or isinstance(given, tuple):
            return given
        return ((given,) * self.n_heads,) * self.n_layers

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
    eps: float = Field(default=1e-8, ge=0)


Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what an int64 coordinate and torch's generator can hold


class FollowEntropyConfig(_Frozen):
    """Solve the attention factors during training, so that each head's entropy follows a curve.

    Attributes:
        of: a number of nats, for all heads at every step; or whose entropies: a run whose `attention` probe
            is recorded (its directory, relative to the folder that this run's directory is in), or a CSV
            file with columns step, entropy (nats) and, if they differ, seed, layer, head.
        every: steps between two solutions.
    """

    of: float | Annotated[str, Field(min_length=1)]
    every: PositiveInt = 50

    @model_validator(mode="after")
    def _is_an_entropy_of_three_keys(self) -> "FollowEntropyConfig":
        if not isinstance(self.of, str) and not 0 <= self.of <= math.log(3):
            raise ValueError(f"an entropy over three keys is from 0 to log 3 = 1.0986 nats, not {self.of:g}")
        return self


class SurgeryConfig(_Frozen):
    """Start from a checkpoint of another run instead of from fresh weights.

    Attributes:
        parent: the other run's directory, relative to the folder that this run's directory is in.
        step: its checkpoint; the new run goes on counting from there.
        optimiser: keep AdamW's state, or begin with an empty one.
        match_scale: give every new norm the gain at which the mean length of its output is what was read
            there before.
    """

    parent: str = Field(min_length=1)
    step: int = Field(ge=0)
    optimiser: Literal["keep", "reset"] = "keep"
    match_scale: bool = False


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
    follow_entropy: FollowEntropyConfig | None = None
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


class CellConfig(_Frozen):
    """One hyperparameter setting, trained over several seeds at once: what a run directory starts with."""

    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    surgery: SurgeryConfig | None = None

    @model_validator(mode="after")
    def _has_a_factor_to_solve_for(self) -> "CellConfig":
        if self.training.follow_entropy is not None and self.model.attention_factor is None:
            raise ValueError(
                "training.follow_entropy solves for attention factors, and the model has none; give it those "
                "to start from: model.attention_factor=1.0"
            )
        return self

    @model_validator(mode="after")
    def _can_go_on_from_its_parent(self) -> "CellConfig":
        if self.surgery is None:
            return self
        if self.surgery.step >= self.training.steps:
            raise ValueError(
                f"surgery.step {self.surgery.step} leaves nothing to train: training.steps is "
                f"{self.training.steps}, counted from the parent's first"
            )
        if self.training.subtract_initial_prediction:
            raise ValueError(
                "training.subtract_initial_prediction does not go with surgery: the initial prediction would "
                "be another architecture's"
            )
        return self

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The other runs (and files) that this one needs before it can begin, as the config names them."""
        follow = self.training.follow_entropy
        needed = (self.surgery and self.surgery.parent, follow and follow.of)
        return tuple(name for name in needed if isinstance(name, str))

    @property
    def first_step(self) -> int:
        """Updates done when the run begins: 0, or those of the parent that it is forked from."""
        return self.surgery.step if self.surgery else 0

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps with a checkpoint: the first, every multiple of `checkpoint_every`, and the last."""
        first, last, every = self.first_step, self.training.steps, self.training.checkpoint_every
        return tuple(sorted({first, *range(0, last + 1, every), last} - set(range(first))))
