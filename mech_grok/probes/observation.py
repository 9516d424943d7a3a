"""The one forward pass over all pairs that the probes of a checkpoint share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mech_grok.model import GrokTransformer
from mech_grok.task import Split, Task

SPLITS = ("all", "train", "test")
"""Sets over which a mean is taken: all p^2 pairs, those trained on, those held out."""

LOGITS = "unembed.hook_out"
"""Hook point of the logits, after the readout scale."""

_PAIRS_PER_PASS = 512
"""Pairs per forward pass, so few that activations stay in the processor's cache, which halves the time."""

HookFunction = Callable[..., Tensor | None]
Hooks = Sequence[tuple[str, HookFunction]]


@dataclass(frozen=True)
class Observation:
    """A model at one checkpoint, and what it computed on all p^2 pairs of its task.

    Attributes:
        model: read, never changed.
        task: what the model is trained on.
        tokens: the input `a b =` of every pair, in the order of `task.pairs()`.
        answers: the right class of every pair.
        split: indices of the training and of the test pairs.
        at_equals: hook point -> activation at `=`, [p*p, ...] without a position dimension.
        at_all_positions: hook point -> activation at the three positions, [p*p, ...].
    """

    model: GrokTransformer
    task: Task
    tokens: Int[Tensor, "n 3"]
    answers: Int[Tensor, " n"]
    split: Mapping[Split, Int[Tensor, " _"]]
    at_equals: Mapping[str, Tensor]
    at_all_positions: Mapping[str, Tensor]

    def split_means(self, per_pair: Float[Tensor, "n ..."]) -> Float[Tensor, "3 ..."]:
        """Means over each of `SPLITS`, in float64."""
        x = per_pair.double()
        return torch.stack([x.mean(0), x[self.split["train"]].mean(0), x[self.split["test"]].mean(0)])


def observe(
    model: GrokTransformer,
    task: Task,
    split: Mapping[Split, Int[np.ndarray, " _"]],
    at_equals: Iterable[str],
    at_all_positions: Iterable[str],
) -> Observation:
    """Run the model on all pairs and keep what is asked for; without hook points it is not run.

    Raises:
        ValueError: the model is not one of this task's modulus.
    """
    if model.cfg.d_vocab != task.p + 1:
        raise ValueError(f"the model has {model.cfg.d_vocab} tokens, but p = {task.p} needs {task.p + 1}")
    device = model.W_E.device
    pairs = task.pairs()
    tokens = torch.as_tensor(task.tokens(pairs), device=device)
    equals, everywhere = run(model, tokens, at_equals, at_all_positions)
    return Observation(
        model=model,
        task=task,
        tokens=tokens,
        answers=torch.as_tensor(task.answers(pairs), device=device),
        split={name: torch.as_tensor(index, device=device) for name, index in split.items()},
        at_equals=equals,
        at_all_positions=everywhere,
    )


@torch.no_grad()
def run(
    model: GrokTransformer,
    tokens: Int[Tensor, "n 3"],
    at_equals: Iterable[str] = (),
    at_all_positions: Iterable[str] = (),
    hooks: Hooks = (),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Activations at `=` and at all positions, by hook point, under `hooks`.

    Positions a and b are dropped as soon as nothing reads them any more; a hook on the last block then
    sees only what is left.
    """
    equals: dict[str, list[Tensor]] = {name: [] for name in at_equals}
    everywhere: dict[str, list[Tensor]] = {name: [] for name in at_all_positions}
    if equals or everywhere:
        keeping = [
            *((name, partial(_keep, kept=kept, select=_select_equals)) for name, kept in equals.items()),
            *((name, partial(_keep, kept=kept, select=_select_all)) for name, kept in everywhere.items()),
        ]
        with model.hooks(fwd_hooks=[*_dropping(model, everywhere), *hooks, *keeping]):
            for batch in tokens.split(_PAIRS_PER_PASS):
                model(batch)
    return (
        {name: torch.cat(kept) for name, kept in equals.items()},
        {name: torch.cat(kept) for name, kept in everywhere.items()},
    )


def logits_under(
    model: GrokTransformer, tokens: Int[Tensor, "n 3"], hooks: Hooks
) -> Float[Tensor, "n classes"]:
    """Logits at `=` of a forward pass with `hooks` attached."""
    return run(model, tokens, [LOGITS], hooks=hooks)[0][LOGITS]


def _dropping(model: GrokTransformer, at_all_positions: Iterable[str]) -> Hooks:
    """Hooks that drop positions a and b in the last block, as early as what is to be kept allows.

    With one query left, attention's output broadcasts over the residual stream; only the sum's row of `=`
    is right, and only it is kept. The block must return three positions: all become that of `=`.
    """
    last = f"blocks.{model.config.n_layers - 1}"
    names = tuple(at_all_positions)
    if not all(name.endswith("hook_pattern") for name in names):
        return []
    first = "hook_z" if names else "hook_q"
    return [
        (f"{last}.attn.{first}", _drop),
        (f"{last}.hook_resid_mid", _drop),
        (f"{last}.hook_resid_post", _repeat),
    ]


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
