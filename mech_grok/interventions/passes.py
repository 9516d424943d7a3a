"""Forward passes over all pairs under a `Change`, as few and as short as they can be.

In a model of one layer a change to the MLP's input starts from the residual stream before the MLP, which
passes with the same change to attention share; attention itself runs once per token (`probes.late_pass`).
Deeper models are run in full. Both attach the hooks of `mech_grok.interventions`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mech_grok.interventions.changes import Change, Edit
from mech_grok.interventions.norm_changes import affine_only, bypass, frozen_scale, insert, unit
from mech_grok.interventions.places import chosen_places
from mech_grok.interventions.replacements import mean_output, resample, zero
from mech_grok.interventions.scaling import scale
from mech_grok.interventions.temperature import temperature
from mech_grok.interventions.token_means import means_over
from mech_grok.model import GrokTransformer
from mech_grok.model.block import GrokBlock
from mech_grok.model.norm_hooks import Hook
from mech_grok.placement import PATHWAYS
from mech_grok.probes.attention import attention_weights, pattern_hooks, row_entropy
from mech_grok.probes.compressibility import FEATURES
from mech_grok.probes.late_pass import from_resid_mid, reads_one_token_each, resid_mid_of_tokens
from mech_grok.probes.observation import LOGITS, Needs, passes, run

_PAIRS = 1024
"""Pairs at a time through the MLP."""


class Passed(NamedTuple):
    """What a forward pass over all pairs gives at `=`.

    Attributes:
        logits: as the model gives them.
        features: what the unembedding reads.
        entropy: of each pair's attention weights (nats), mean over heads and layers.
    """

    logits: Float[Tensor, "n classes"]
    features: Float[Tensor, "n d_model"]
    entropy: Float[Tensor, " n"]


class Attended(NamedTuple):
    """What attention leaves at `=`: the residual stream after it, and its entropy (nats, mean over heads)."""

    stream: Float[Tensor, "n d_model"]
    entropy: Float[Tensor, " n"]


@dataclass(frozen=True)
class Subject:
    """A model, and what interventions on it take from examples.

    Attributes:
        model: the untouched one.
        tokens: the input of every pair.
        donors: for every pair, the one whose activations `resample` gives it.
        means: hook point -> mean over the training pairs, per position.
    """

    model: GrokTransformer
    tokens: Int[Tensor, "n 3"]
    donors: Int[Tensor, " n"]
    means: Mapping[str, Float[Tensor, "pos _"]]


def subject_of(
    model: GrokTransformer, tokens: Int[Tensor, "n 3"], train: Int[Tensor, " m"], donors: Int[Tensor, " n"]
) -> Subject:
    """The model with its means over the training pairs, given by their indices."""
    places = chosen_places(model, PATHWAYS)
    names = [f"{place.norm}.{at}" for place in places for at in ("hook_out", "hook_scale")]
    return Subject(model, tokens, donors, means_over(model, tokens[train], names))


@torch.no_grad()
def passes_under(subject: Subject, changes: Iterable[Change]) -> Iterator[tuple[Change, Passed]]:
    """Each distinct change with what the model computes under it, one after the other."""
    distinct = dict.fromkeys(changes)
    if not reads_one_token_each(subject.model):
        yield from ((change, _in_full(subject, change)) for change in distinct)
        return
    untouched = _attend(subject, ())
    for attention in dict.fromkeys(change.attention for change in distinct):
        attended = _attend(subject, attention) if attention else untouched
        for change in distinct:
            if change.attention == attention:
                yield change, _read_on(subject, change.mlp, attended, untouched)


def _in_full(subject: Subject, change: Change) -> Passed:
    patterns = pattern_hooks(subject.model)
    needs = Needs([LOGITS, FEATURES, *patterns])
    parts = []
    for rows in passes(torch.arange(len(subject.tokens), device=subject.tokens.device)):
        hooks = [h for edit in (*change.attention, *change.mlp) for h in _hooks(subject, edit, rows)]
        kept = run(subject.model, subject.tokens[rows], needs, hooks).at_equals
        entropy = torch.stack([_entropy(kept[name]) for name in patterns]).mean(0)
        parts.append(Passed(kept[LOGITS], kept[FEATURES], entropy))
    return Passed(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _attend(subject: Subject, edits: tuple[Edit, ...]) -> Attended:
    model, tokens = subject.model, subject.tokens
    resampled = frozenset[str]().union(*(edit.pathways for edit in edits if edit.kind == "resample"))
    keys_of, values_of = (tokens[subject.donors] if x in resampled else None for x in ("k", "v"))
    entropies: list[Tensor] = []
    hooks = [h for edit in edits if edit.kind != "resample" for h in _hooks(subject, edit)]
    with model.hooks(fwd_hooks=[*hooks, (pattern_hooks(model)[0], partial(_note_entropy, to=entropies))]):
        stream = torch.cat([*resid_mid_of_tokens(model, tokens, keys_of, values_of)])
    return Attended(stream, torch.cat(entropies))


def _read_on(subject: Subject, edits: tuple[Edit, ...], attended: Attended, untouched: Attended) -> Passed:
    model, features = subject.model, []
    reads = [None] * len(attended.stream.split(_PAIRS))
    if any(edit.kind == "resample" for edit in edits):
        norm = cast(GrokBlock, model.blocks[0]).norm_mlp
        reads = norm(untouched.stream[subject.donors][:, None])[:, 0].split(_PAIRS)
    hooks = [h for edit in edits if edit.kind != "resample" for h in _hooks(subject, edit)]
    with model.hooks(fwd_hooks=[*hooks, (FEATURES, partial(_note_row, to=features))]):
        batches = zip(attended.stream.split(_PAIRS), reads, strict=True)
        logits = torch.cat([from_resid_mid(model, stream, read) for stream, read in batches])
    return Passed(logits, torch.cat(features), attended.entropy)


def _hooks(subject: Subject, edit: Edit, rows: Tensor | None = None) -> list[Hook]:
    """The hooks of an edit; those of `resample` serve the batch of these rows."""
    model, pathways = subject.model, edit.pathways
    places = chosen_places(model, pathways)
    match edit.kind:
        case "temperature":
            return temperature(model, edit.factor)
        case "scale":
            return scale(model, pathways, edit.factor)
        case "freeze_scale":
            return [hook for place in places for hook in frozen_scale(place, subject.means)]
        case "mean":
            return [hook for place in places for hook in mean_output(place, subject.means)]
        case "resample":
            return resample(model, pathways, subject.tokens[subject.donors[rows]])
        case _:
            return _PLAIN[edit.kind](model, pathways)


_PLAIN = {"bypass": bypass, "insert": insert, "unit": unit, "affine_only": affine_only, "zero": zero}


def _entropy(pattern: Float[Tensor, "n head key"]) -> Float[Tensor, " n"]:
    return row_entropy(attention_weights(pattern)).mean(-1)


def _note_entropy(pattern: Tensor, hook: HookPoint, *, to: list[Tensor]) -> None:
    to.append(_entropy(pattern[:, :, -1]))


def _note_row(activation: Tensor, hook: HookPoint, *, to: list[Tensor]) -> None:
    to.append(activation[:, -1])
