"""Activation patching: which component of one model makes another do what the first does.

A *clean* model's activations are put, one component at a time, into a *corrupted* model that reads the same
pair (a, b). The two are two checkpoints of one training, or models of two placements:

    from mech_grok import load_run
    from mech_grok.interventions import patch, patching

    layer_norm, none = load_run("runs/quickstart/mlp-pre"), load_run("runs/quickstart/off")
    clean, corrupted = layer_norm.model(456, 1000), none.model(456, 1000)
    found = patching(clean, corrupted, none.config.task.task, none.split(456))
    found.loss_recovered.sel(split="test").to_series().sort_values()    # one row for each component

    tokens = none.tokens("test", 456)                                   # one component, by hand
    with corrupted.hooks(fwd_hooks=patch(corrupted, clean, ["blocks.0.norm_mlp.hook_scale"], tokens)):
        logits = corrupted(tokens)

Putting clean into corrupted asks what is sufficient to restore the clean behaviour; with the two arguments
exchanged it asks what is necessary, as what is lost when a component of the good model is spoilt.

A loss can recover because the patched model is merely less sure: logits that say nothing have a loss of
ln(p + 1), far below that of a model that is confident and wrong. Read the accuracy beside it.

Activations mean the same in both models only as far as both use the same directions of the residual stream.
Checkpoints of one training do from some step on, and runs of one seed begin at the same weights and may still
have drifted apart; models of different initial weights share no basis at all. Divisors, patterns and logits
have no basis to share.
"""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from mech_grok.interventions.patching_components import Component, default_components
from mech_grok.interventions.patching_hooks import check_patchable
from mech_grok.interventions.patching_scores import scores_under_patches
from mech_grok.model import GrokTransformer
from mech_grok.task import Split, Task

SMALLEST_GAP = 1e-3
"""A difference between clean and corrupted of no more than this share of the larger one divides nothing."""

_MEASURES = {
    "loss": ("cross-entropy", "nats", "over all p + 1 classes, mean over the pairs of the split"),
    "accuracy": ("accuracy", "1", "share of right answers in the split"),
    "margin": (
        "lead of the right answer",
        "logits",
        "logit of the right answer less the mean logit of the other p - 1 answers, times the loss's scale, "
        "mean over the pairs of the split",
    ),
}
_RECOVERED = (
    "(patched - corrupted) / (clean - corrupted): 0 is the corrupted model, 1 the clean one; NaN where clean "
    f"and corrupted differ by no more than {SMALLEST_GAP} of the larger magnitude"
)


def patching(
    clean: GrokTransformer,
    corrupted: GrokTransformer,
    task: Task,
    split: Mapping[Split, Int[np.ndarray, " _"]],
    components: Mapping[str, Component] | None = None,
) -> xr.Dataset:
    """Score the corrupted model with each component of the clean one put into it.

    Args:
        clean: whose activations are taken.
        corrupted: that they are put into; its own later weights read them.
        task: whose pairs both run on.
        split: indices into `task.pairs()`.
        components: label -> what is patched together; by default those of `default_components`.

    Returns:
        `loss`, `accuracy`, `margin` and, of each, `..._recovered`, all (component, split); `clean_...` and
        `corrupted_...` (split) of the untouched models. The coordinate `hook_points` says what a component
        is. All NaN if a parameter of either model is not finite.

    Raises:
        ValueError: the models differ in size or in the scale that the loss puts on logits, are not of this
            task's p, or lack a component.
    """
    components = default_components(corrupted) if components is None else components
    _check(clean, corrupted, task, components)
    scored = scores_under_patches(clean, corrupted, task, split, list(components.values()))
    return _dataset(scored, list(split), components)


def _check(
    clean: GrokTransformer, corrupted: GrokTransformer, task: Task, components: Mapping[str, Component]
) -> None:
    if corrupted.cfg.d_vocab != task.p + 1:
        p = corrupted.cfg.d_vocab - 1
        raise ValueError(f"the task has p = {task.p}, the corrupted model was built for p = {p}")
    if not components:
        raise ValueError("no components to patch; None stands for all")
    check_patchable(corrupted, clean, components.values(), torch.as_tensor(task.tokens(task.pairs())))
    theirs, ours = clean.config.loss_scale, corrupted.config.loss_scale
    if theirs != ours:
        raise ValueError(
            f"the loss multiplies the clean model's logits by {theirs}, the corrupted one's by {ours}; "
            "patching compares losses of one scale"
        )


def recovered(
    patched: Float[np.ndarray, "component split"],
    clean: Float[np.ndarray, " split"],
    corrupted: Float[np.ndarray, " split"],
) -> Float[np.ndarray, "component split"]:
    """`(patched - corrupted) / (clean - corrupted)`; NaN where the two differ too little (`SMALLEST_GAP`)."""
    with np.errstate(invalid="ignore"):  # a loss may have overflowed to infinity
        gap = clean - corrupted
        divides = np.abs(gap) > SMALLEST_GAP * np.maximum(np.abs(clean), np.abs(corrupted))
        return (patched - corrupted) / np.where(divides, gap, np.nan)


def _dataset(
    scored: Float[np.ndarray, "case split measure"], splits: list[Split], components: Mapping[str, Component]
) -> xr.Dataset:
    """Label the scores of the clean, the corrupted, and the patched models."""
    arrays = {}
    for i, (name, (long_name, units, definition)) in enumerate(_MEASURES.items()):
        clean, corrupted, patched = scored[0, :, i], scored[1, :, i], scored[2:, :, i]
        of_patched = f"of the corrupted model with the component patched, {definition}"
        each = ("component", "split")
        arrays |= {
            name: (each, patched, _labels(f"{long_name}, patched", units, of_patched)),
            f"{name}_recovered": (
                each,
                recovered(patched, clean, corrupted),
                _labels(f"recovered {long_name}", "1", _RECOVERED),
            ),
            f"clean_{name}": (each[1:], clean, _labels(f"{long_name} of the clean model", units, definition)),
            f"corrupted_{name}": (
                each[1:],
                corrupted,
                _labels(f"{long_name} of the corrupted model", units, definition),
            ),
        }
    coords = {
        "component": list(components),
        "split": splits,
        "hook_points": ("component", [str(component) for component in components.values()]),
    }
    return xr.Dataset(arrays, coords)


def _labels(long_name: str, units: str, definition: str) -> dict[str, str]:
    return {"long_name": long_name, "units": units, "definition": definition}
