"""The one forward pass over all pairs that the probes of a checkpoint share."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from mech_grok.model.unembed import GrokUnembed
from mech_grok.task import Split, Task

SPLITS = ("all", "train", "test")
"""Sets over which a mean is taken: all p^2 pairs, those trained on, those held out."""

POSITIONS = ("a", "b", "=")

LOGITS = "unembed.hook_out"
"""Hook point of the logits, after the readout scale."""

_PAIRS_PER_PASS = 512
"""Pairs per forward pass, so few that activations stay in the processor's cache, which halves the time."""

HookFunction = Callable[..., Tensor | None]
Hooks = Sequence[tuple[str, HookFunction]]
T = TypeVar("T")


@dataclass(frozen=True)
class Needs:
    """Hook points of which one forward pass keeps something.

    Attributes:
        at_equals: the activation at `=`.
        at_all_positions: the activation at the three positions.
        lengths: the activation's L2 length at the three positions.
    """

    at_equals: Sequence[str] = ()
    at_all_positions: Sequence[str] = ()
    lengths: Sequence[str] = ()


@dataclass(frozen=True)
class Observation:
    """A model at one checkpoint, and what it computed on all p^2 pairs of its task.

    Attributes:
        model: read, never changed; its blocks are `GrokBlock`s and its unembedding a `GrokUnembed`.
        task: what the model is trained on.
        tokens: the input `a b =` of every pair, in the order of `task.pairs()`.
        answers: the right class of every pair.
        split: indices of the training and of the test pairs.
        at_equals: hook point -> activation at `=`, [p*p, ...] without a position dimension.
        at_all_positions: hook point -> activation at the three positions, [p*p, ...].
        lengths: hook point -> L2 length of the activation at the three positions, [p*p, 3].
        anchors: what a probe may know of the rest of the training.
    """

    model: HookedTransformer
    task: Task
    tokens: Int[Tensor, "n 3"]
    answers: Int[Tensor, " n"]
    split: Mapping[Split, Int[Tensor, " _"]]
    at_equals: Mapping[str, Tensor]
    at_all_positions: Mapping[str, Tensor]
    lengths: Mapping[str, Float[Tensor, "n 3"]]
    anchors: "Anchors"
    _known: dict[Callable[["Observation"], Any], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def once(self, quantity: "Callable[[Observation], T]") -> T:
        """What a function gives for this observation; it is called once, however many probes ask for it."""
        if quantity not in self._known:
            self._known[quantity] = quantity(self)
        return self._known[quantity]

    @property
    def unembed(self) -> GrokUnembed:
        """The unembedding, with its readout scale and final norm."""
        return cast(GrokUnembed, self.model.unembed)

    @property
    def logits(self) -> Float[Tensor, "n classes"]:
        """The logits at `=`, for p or p + 1 classes; a probe that reads them needs `LOGITS` at `=`."""
        return self.at_equals[LOGITS]

    def indices(self, split: str) -> Int[Tensor, " _"]:
        """Indices of the pairs of one of `SPLITS`."""
        if split == "all":
            return torch.arange(len(self.tokens), device=self.tokens.device)
        return self.split[cast(Split, split)]

    def split_means(self, per_pair: Shaped[Tensor, "n ..."]) -> Float[Tensor, "3 ..."]:
        """Means over each of `SPLITS`, in float64; nan for an empty one."""
        x = per_pair.double()
        return torch.stack(
            [x[self.indices(split)].mean(0) if split != "all" else x.mean(0) for split in SPLITS]
        )

    def at_final(self, quantity: "Callable[[Observation], T]") -> T:
        """A quantity of the last checkpoint, measured once; of this model where no last one was given."""
        return quantity(self) if self.anchors.final is None else self.anchors.final.get(quantity)

    def at_initial(self, quantity: "Callable[[Observation], T]") -> T | None:
        """A quantity of the first checkpoint, measured once; None where none was given."""
        return None if self.anchors.initial is None else self.anchors.initial.get(quantity)


class Anchor:
    """Another checkpoint of the same training: observed when first asked, and only what was asked is kept."""

    def __init__(self, observed: Callable[[], Observation]):
        self._observed = observed
        self._known: dict[Callable[[Observation], Any], Any] = {}
        self._lock = threading.Lock()

    def get(self, quantity: Callable[[Observation], T]) -> T:
        """What a function gives for this checkpoint; it is called once."""
        with self._lock:
            if quantity not in self._known:
                self._known[quantity] = quantity(self._observed())
            return self._known[quantity]


@dataclass(frozen=True)
class Anchors:
    """The rest of a training, as far as it is known.

    Attributes:
        initial: the first checkpoint: the untrained model, or what a run began with that began from a
            checkpoint of another one; None if unknown.
        final: the last checkpoint; None if the observed model is the last one.
        key_frequencies: the key frequencies, if the caller has set them.
    """

    initial: Anchor | None = None
    final: Anchor | None = None
    key_frequencies: tuple[int, ...] | None = None


def observe(
    model: HookedTransformer,
    task: Task,
    split: Mapping[Split, Int[np.ndarray, " _"]],
    needs: Needs,
    anchors: Anchors | None = None,
) -> Observation:
    """Run the model on all pairs and keep what is asked for; without hook points it is not run.

    Args:
        model: one of this project's, or one that `mech_grok.model.adopt` has given its hook points.
        task: with the modulus of the model.
        split: indices into `task.pairs()`.
        needs: what to keep.
        anchors: of the training that the model comes from.

    Raises:
        ValueError: the model is not one of this task's modulus.
    """
    if model.cfg.d_vocab != task.p + 1:
        raise ValueError(f"the model has {model.cfg.d_vocab} tokens, but p = {task.p} needs {task.p + 1}")
    device = model.W_E.device
    pairs = task.pairs()
    tokens = torch.as_tensor(task.tokens(pairs), device=device)
    kept = run(model, tokens, needs)
    return Observation(
        model=model,
        task=task,
        tokens=tokens,
        answers=torch.as_tensor(task.answers(pairs), device=device),
        split={name: torch.as_tensor(index, device=device) for name, index in split.items()},
        at_equals=kept.at_equals,
        at_all_positions=kept.at_all_positions,
        lengths=kept.lengths,
        anchors=anchors or Anchors(),
    )


class Kept(NamedTuple):
    """Activations by hook point: at `=`, at all positions, and lengths at all positions."""

    at_equals: dict[str, Tensor]
    at_all_positions: dict[str, Tensor]
    lengths: dict[str, Tensor]


@torch.no_grad()
def run(model: HookedTransformer, tokens: Int[Tensor, "n 3"], needs: Needs, hooks: Hooks = ()) -> Kept:
    """What is needed of a forward pass under `hooks`.

    Positions a and b are dropped as soon as nothing reads them any more; a hook on the last block then
    sees only what is left.
    """
    asked = (needs.at_equals, needs.at_all_positions, needs.lengths)
    kept: list[dict[str, list[Tensor]]] = [{name: [] for name in names} for names in asked]
    if any(asked):
        keeping = [
            (name, partial(_keep, kept=to, select=select))
            for group, select in zip(kept, (_select_equals, _select_all, _lengths), strict=True)
            for name, to in group.items()
        ]
        everywhere = (*needs.at_all_positions, *needs.lengths)
        with model.hooks(fwd_hooks=[*equals_only(model, everywhere), *hooks, *keeping]):
            for batch in passes(tokens):
                model(batch)
    return Kept(*({name: torch.cat(parts) for name, parts in group.items()} for group in kept))


def logits_under(
    model: HookedTransformer, tokens: Int[Tensor, "n 3"], hooks: Hooks
) -> Float[Tensor, "n classes"]:
    """Logits at `=` of a forward pass with `hooks` attached."""
    return run(model, tokens, Needs([LOGITS]), hooks=hooks).at_equals[LOGITS]


def passes(per_pair: Tensor) -> tuple[Tensor, ...]:
    """Rows of pairs in the batches that are fastest."""
    return per_pair.split(_PAIRS_PER_PASS)


def equals_only(model: HookedTransformer, everywhere: Sequence[str] = ()) -> Hooks:
    """Hooks that drop positions a and b in the last block, as early as what is to be kept allows.

    With one query left, attention's output broadcasts over the residual stream; only the sum's row of `=`
    is right, and only it is kept. The block must return three positions: all become that of `=`.
    """
    last = f"blocks.{model.cfg.n_layers - 1}"
    needed = [name for name in everywhere if not _is_before_queries(name, last)]
    if not all(name.endswith(("hook_pattern", "hook_attn_scores")) for name in needed):
        return []
    # A causal mask expects as many queries as keys.
    first = "hook_z" if needed or model.cfg.attention_dir == "causal" else "hook_q"
    return [
        (f"{last}.attn.{first}", _drop),
        (f"{last}.hook_resid_mid", _drop),
        (f"{last}.hook_resid_post", _repeat),
    ]


def _is_before_queries(name: str, last: str) -> bool:
    """Whether a hook point comes before the last block's queries, from where on `=` is enough."""
    in_last = name.startswith(f"{last}.") or not name.startswith(("blocks.", "hook_"))
    inputs = (f"{last}.norm_q.", f"{last}.norm_k.", f"{last}.norm_v.", f"{last}.hook_resid_pre")
    return not in_last or name.startswith(inputs)


def _drop(activation: Tensor, hook: HookPoint) -> Tensor:
    return activation[:, -1:]


def _repeat(activation: Tensor, hook: HookPoint) -> Tensor:
    return activation.expand(-1, 3, -1)


def _keep(
    activation: Tensor,
    hook: HookPoint,
    *,
    kept: list[Tensor],
    select: Callable[[Tensor, str], Tensor],
) -> None:
    kept.append(select(activation, str(hook.name)).clone())


def _select_equals(activation: Tensor, name: str) -> Tensor:
    """The row of `=`; of an attention pattern [batch, head, query, key], its query."""
    return activation.select(2 if name.endswith(("hook_pattern", "hook_attn_scores")) else 1, -1)


def _select_all(activation: Tensor, name: str) -> Tensor:
    return activation


def _lengths(activation: Tensor, name: str) -> Tensor:
    return activation.double().norm(dim=-1)
