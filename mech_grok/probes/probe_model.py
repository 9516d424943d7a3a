"""Probes on one model in memory, also one that this project did not train."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.errors import UserError
from mech_grok.model import adopt
from mech_grok.probes.measure import measure, needs_of
from mech_grok.probes.observation import Anchor, Anchors, observe
from mech_grok.probes.registry import PROBES, find_probe
from mech_grok.task import Operation, Split, Task


def probe(
    model: HookedTransformer,
    names: str | Sequence[str] | None = None,
    *,
    tokens_train: Int[Tensor, "n 3"] | None = None,
    tokens_test: Int[Tensor, "m 3"] | None = None,
    operation: Operation = "add",
    initial: HookedTransformer | None = None,
    final: HookedTransformer | None = None,
    key_frequencies: Sequence[int] | None = None,
) -> xr.Dataset:
    """What probes find in a model, as labelled arrays.

    The model may be one of this project's, or any HookedTransformer that reads `a b =` with a vocabulary of
    p + 1 tokens, the last of which is `=`, and that answers with p or p + 1 logits at the last position.

    Args:
        model: it is left as it was.
        names: of `PROBES`; None for all.
        tokens_train: the inputs `a b =` that it was trained on; without them, what is measured on the
            training set is nan.
        tokens_test: those held out; without them, what is measured on the test set is nan.
        operation: what the right answer is, modulo p.
        initial: the model before training, for what is measured against it; nan without.
        final: the last checkpoint of its training, where key frequencies are taken; by default the model.
        key_frequencies: the key frequencies, if they are not to be found.

    Returns:
        All arrays in one Dataset; `.attrs["probes"]` lists the probes, and every array says in its
        attributes what it is, where its definition comes from, and when it is nan.

    Raises:
        UserError: an unknown probe; tokens that are not `a b =`; frequencies that p does not have; a model
            that the probes cannot read; or an initial or final model of another vocabulary.
    """
    asked = list(PROBES) if names is None else [names] if isinstance(names, str) else list(names)
    probes = [find_probe(name) for name in asked]
    task = Task(operation, model.cfg.d_vocab - 1, test_fraction=0.0)
    train, test = (_indices(tokens, task.p) for tokens in (tokens_train, tokens_test))
    split: dict[Split, np.ndarray] = {"train": train, "test": test}

    def anchor(other: HookedTransformer | None) -> Anchor | None:
        if other is None:
            return None
        if other.cfg.d_vocab != task.p + 1:
            raise UserError(f"the other model has {other.cfg.d_vocab} tokens, the model {task.p + 1}")
        there = adopt(other)
        return Anchor(lambda: observe(there, task, split, needs_of(probes, there)))

    anchors = Anchors(anchor(initial), anchor(final), _checked(key_frequencies, task.p))
    found = measure(adopt(model), task, split, asked, anchors)
    merged = xr.merge(found.values(), combine_attrs="drop_conflicts", join="exact", compat="equals")
    return merged.assign_attrs(probes=", ".join(found))


def _indices(tokens: Int[Tensor, "n 3"] | None, p: int) -> Int[np.ndarray, " n"]:
    """Indices into the lexicographic pairs of the given inputs."""
    if tokens is None:
        return np.empty(0, dtype=np.int64)
    given = torch.as_tensor(tokens).detach().cpu().numpy()
    if given.dtype.kind not in "iu":
        raise UserError(f"tokens are {given.dtype}, not integers")
    if given.ndim != 2 or given.shape[1] != 3:
        raise UserError(f"tokens have shape {given.shape}, expected [n, 3]: `a b =`")
    a, b, equals = given.T
    outside = (a < 0) | (a >= p) | (b < 0) | (b >= p) | (equals != p)
    if outside.any():
        raise UserError(f"tokens {given[outside][0].tolist()} are not `a b =`, with a, b < {p} and = as {p}")
    return a.astype(np.int64) * p + b


def _checked(frequencies: Sequence[int] | None, p: int) -> tuple[int, ...] | None:
    if frequencies is None:
        return None
    outside = [k for k in frequencies if not 0 < k <= p // 2]
    if outside:
        raise UserError(f"key frequencies {outside} are not in 1..{p // 2}; k and p - k are the same one")
    return tuple(sorted(set(frequencies)))
