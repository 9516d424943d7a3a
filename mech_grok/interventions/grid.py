"""The ablation grid: what every intervention on every set of pathways changes, at one checkpoint.

Change in loss, accuracy, attention entropy, restricted and excluded loss and effective rank; what sets of
pathways do beyond the sum of their members; and how the loss answers to longer inputs and sharper attention.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from mech_grok.interventions.changes import (
    INTERVENTIONS,
    Change,
    Pathways,
    change_of,
    scaling_of,
    sharpening,
)
from mech_grok.interventions.grid_labels import labelled
from mech_grok.interventions.pass_scores import MEASURES, Examination, all_scores, quick_scores
from mech_grok.interventions.passes import Subject, passes_under, subject_of
from mech_grok.model import GrokTransformer
from mech_grok.placement import PATHWAYS
from mech_grok.probes.fast_products import FastProducts
from mech_grok.probes.key_frequencies import OPERATIONS, frozen_key_frequencies, key_frequency_hooks
from mech_grok.probes.logit_projections import waves_of
from mech_grok.probes.observation import Anchors, Needs, Observation, observe
from mech_grok.task import Split, Task

PATHWAY_SETS: dict[str, Pathways] = {
    "q": frozenset({"q"}),
    "k": frozenset({"k"}),
    "v": frozenset({"v"}),
    "mlp": frozenset({"mlp"}),
    "q+k": frozenset({"q", "k"}),
    "q+k+v": frozenset({"q", "k", "v"}),
    "q+k+v+mlp": frozenset({"q", "k", "v", "mlp"}),
}
"""The sets of pathways that the grid intervenes on, in all layers at once."""

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""What inputs and attention scores are multiplied by: powers of two, which round nothing."""

_DONOR_SEED = 0

Scores = Mapping[Change, Float[np.ndarray, "measure split"]]


def ablate(
    model: GrokTransformer,
    task: Task,
    split: Mapping[Split, Int[np.ndarray, " n"]],
    anchors: Anchors | None = None,
) -> xr.Dataset:
    """Score every intervention on every set of pathways, at one checkpoint of one seed.

    Every intervention of `mech_grok.interventions` acts in all layers. Each distinct forward pass is run
    once. Of a diverged model every value is NaN.

    Args:
        model: the untouched model.
        task: whose pairs it is scored on.
        split: indices into `task.pairs()` of the training and of the test set.
        anchors: of the training that the model comes from, whose last checkpoint has the key frequencies;
            without any, those of this model.

    Returns:
        For each measure x of `MEASURES`: `x` (split) of the untouched model, `x_change` and `x_interaction`
        (intervention, pathways, split). `scale_loss_change` and `scale_accuracy_change` (pathways, factor,
        split); `temperature_loss_change`, `temperature_accuracy_change` and `temperature_entropy_change`
        (factor, split). Each carries its long_name, units and definition.

    Raises:
        ValueError: the model is not one of this task's p, or there are no training pairs.
    """
    if model.cfg.d_vocab != task.p + 1:
        raise ValueError(f"the task has p = {task.p}, the model was built for p = {model.cfg.d_vocab - 1}")
    labels = {"pathways": list(PATHWAY_SETS), "split": list(split), "factor": list(FACTORS)}
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        return labelled({}, labels)
    config = model.config
    cells = [[change_of(config, i, x) for x in PATHWAY_SETS.values()] for i in INTERVENTIONS]
    scalings = [[scaling_of(config, x, f) for f in FACTORS] for x in PATHWAY_SETS.values()]
    sharpenings = [sharpening(f) for f in FACTORS]
    with torch.no_grad(), FastProducts():
        seen = observe(model, task, split, Needs(_key_frequency_needs(model, anchors)), anchors)
        in_full = {Change(), *(x for row in cells for x in row if x is not None)}
        quick = {x for row in [*scalings, sharpenings] for x in row}
        scores = _scores(seen, _subject(model, seen), in_full, quick)
    return labelled({**_grid(scores, cells), **_responses(scores, scalings, sharpenings)}, labels)


def _key_frequency_needs(model: GrokTransformer, anchors: Anchors | None) -> tuple[str, ...]:
    known = anchors is not None and (anchors.final is not None or anchors.key_frequencies is not None)
    return () if known else key_frequency_hooks(model)


def _subject(model: GrokTransformer, seen: Observation) -> Subject:
    return subject_of(model, seen.tokens, seen.indices("train"), donors_of(seen.split, len(seen.tokens)))


def donors_of(split: Mapping[Split, Int[torch.Tensor, " _"]], n_pairs: int) -> Int[torch.Tensor, " n"]:
    """For every pair the one that `resample` reads of: a permutation of each split, the same each time."""
    generator = torch.Generator().manual_seed(_DONOR_SEED)
    donors = torch.arange(n_pairs)
    for index in split.values():
        donors[index] = index[torch.randperm(len(index), generator=generator)]
    return donors


def _scores(seen: Observation, subject: Subject, in_full: set[Change], quick: set[Change]) -> Scores:
    """Each change's measures: all of them, or the first three and nan."""
    exam = Examination(seen.answers, seen.split, seen.unembed.loss_scale, _waves_of_keys(seen))
    found = {}
    for change, passed in passes_under(subject, [*in_full, *quick]):
        found[change] = (all_scores if change in in_full else quick_scores)(exam, passed)
    return found


def _waves_of_keys(seen: Observation) -> Float[torch.Tensor, "key 2 p"]:
    keys = frozen_key_frequencies(seen) if seen.task.operation in OPERATIONS else ()
    return waves_of(seen.task.p).to(seen.tokens.device)[list(keys)]


def _grid(scores: Scores, cells: Iterable[Iterable[Change | None]]) -> dict[str, np.ndarray]:
    """Every measure of the untouched model, and its changes and interactions, by name."""
    untouched = scores[Change()]
    nothing = np.full_like(untouched, np.nan)
    change = np.array(
        [[nothing if x is None else scores[x] - untouched for x in row] for row in cells]
    )  # [intervention, pathways, measure, split]
    interaction = _interactions(change)
    return {
        name + suffix: values[..., i, :]
        for suffix, values in (("", untouched), ("_change", change), ("_interaction", interaction))
        for i, name in enumerate(MEASURES)
    }


def _interactions(
    change: Float[np.ndarray, "intervention pathways measure split"],
) -> Float[np.ndarray, "intervention pathways measure split"]:
    """What each set does beyond the sum of its members alone; nan for single pathways.

    A member on which an intervention does not apply adds nothing, a value that is nan for another reason nan.
    """
    names = list(PATHWAY_SETS)
    applies = ~np.isnan(change[:, :, :1]).all(axis=-1, keepdims=True)
    alone = np.where(applies, change, 0.0)
    found = np.full_like(change, np.nan)
    for i, members in enumerate(PATHWAY_SETS.values()):
        if len(members) > 1:
            found[:, i] = change[:, i] - alone[:, [names.index(x) for x in PATHWAYS if x in members]].sum(
                axis=1
            )
    return found


def _responses(
    scores: Scores, scalings: Iterable[Iterable[Change]], sharpenings: Iterable[Change]
) -> dict[str, np.ndarray]:
    """Changes of loss, accuracy and entropy under factors on inputs and on attention scores, by name."""
    untouched = scores[Change()][:3]
    of_inputs = np.array([[scores[x][:3] - untouched for x in row] for row in scalings])
    of_scores = np.array([scores[x][:3] - untouched for x in sharpenings])
    return {
        "scale_loss_change": of_inputs[..., 0, :],
        "scale_accuracy_change": of_inputs[..., 1, :],
        "temperature_loss_change": of_scores[:, 0],
        "temperature_accuracy_change": of_scores[:, 1],
        "temperature_entropy_change": of_scores[:, 2],
    }
