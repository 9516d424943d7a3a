"""The ablation grid: what taking a norm off, or putting one on, changes in loss and accuracy.

A model with some norms bypassed or inserted computes what a model of another placement computes with the
same weights. So each distinct placement of the grid is run once, with the fast forward pass of training.
"""

import itertools
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.interventions.hooks import LAYER_AFFINE, normalised_pathways
from mech_grok.model import GrokTransformer
from mech_grok.model.norm_sites import pathway_sites
from mech_grok.placement import Pathway, Placement
from mech_grok.task import Split, Task
from mech_grok.training.forward import fast_logits
from mech_grok.training.loss import Score, score

Intervention = Literal["bypass", "insert"]
Pathways = frozenset[Pathway]

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

_CHUNK = 2048  # pairs in one pass: what keeps the MLP's activations in cache

_CHANGE = "intervened minus untouched; NaN where the intervention applies to no pathway of the set"
_ATTRIBUTES = {
    "loss": (
        "cross-entropy of the untouched model",
        "nats",
        "of its own logits at = (no initial prediction subtracted), mean over the pairs of the split",
    ),
    "accuracy": ("accuracy of the untouched model", "1", "share of right answers in the split"),
    "loss_change": ("change in cross-entropy", "nats", _CHANGE),
    "accuracy_change": ("change in accuracy", "1", _CHANGE),
}


def ablate(model: GrokTransformer, task: Task, split: Mapping[Split, Int[np.ndarray, " n"]]) -> xr.Dataset:
    """Score every intervention on every set of pathways, at one checkpoint of one seed.

    `bypass` takes the norm off the normalised pathways of a set, `insert` puts one on those without (see
    `mech_grok.interventions.hooks`), in all layers.

    Args:
        model: the untouched model.
        task: whose pairs it is scored on.
        split: indices into `task.pairs()`.

    Returns:
        `loss_change` and `accuracy_change` (intervention, pathways, split); `loss` and `accuracy` (split)
        of the untouched model.

    Raises:
        ValueError: the model is not one of this task's p.
    """
    if model.cfg.d_vocab != task.p + 1:
        raise ValueError(f"the task has p = {task.p}, the model was built for p = {model.cfg.d_vocab - 1}")
    normalised = normalised_pathways(model.config)
    outcomes = {
        (i, name): _after(i, normalised, chosen)
        for i in get_args(Intervention)
        for name, chosen in PATHWAY_SETS.items()
    }
    scores = {x: _scores(model, task, split, x) for x in {normalised, *outcomes.values()}}
    untouched = scores[normalised]
    not_applicable = np.full_like(untouched, np.nan)
    changes = [not_applicable if x == normalised else scores[x] - untouched for x in outcomes.values()]
    shape = (len(get_args(Intervention)), len(PATHWAY_SETS), *untouched.shape)
    return _dataset(untouched, np.stack(changes).reshape(shape), list(split))


def _after(intervention: Intervention, normalised: Pathways, chosen: Pathways) -> Pathways:
    """The pathways that are normalised after an intervention."""
    return normalised - chosen if intervention == "bypass" else normalised | chosen


def _dataset(untouched: np.ndarray, changes: np.ndarray, splits: list[Split]) -> xr.Dataset:
    """Label scores [split, 2] and their changes [intervention, pathways, split, 2]."""
    dims = ("intervention", "pathways", "split")
    arrays = {
        "loss": (dims[-1:], untouched[..., 0]),
        "accuracy": (dims[-1:], untouched[..., 1]),
        "loss_change": (dims, changes[..., 0]),
        "accuracy_change": (dims, changes[..., 1]),
    }
    keys = ("long_name", "units", "definition")
    return xr.Dataset(
        {name: (*array, dict(zip(keys, _ATTRIBUTES[name], strict=True))) for name, array in arrays.items()},
        coords={
            "intervention": list(get_args(Intervention)),
            "pathways": list(PATHWAY_SETS),
            "split": splits,
        },
    )


@torch.inference_mode()
def _scores(
    model: GrokTransformer, task: Task, split: Mapping[Split, np.ndarray], normalised: Pathways
) -> np.ndarray:
    """Loss and accuracy, [split, 2], of the model with norms on these pathways."""
    config = _with_norms_on(model.config, normalised)
    parameters = _with_affines({n: p[None] for n, p in model.named_parameters()}, config)
    results = []
    for indices in split.values():
        pairs = task.pairs()[indices]
        answers = torch.from_numpy(task.answers(pairs)).to(model.W_E.device)
        logits = _logits(parameters, torch.from_numpy(pairs).to(answers.device), config)
        results.append(_as_floats(score(logits, answers, config.loss_scale)))
    return np.array(results)


def _as_floats(scored: Score) -> tuple[float, float]:
    return scored.loss.item(), scored.accuracy.item()


def _logits(parameters: dict[str, Tensor], pairs: Int[Tensor, "n 2"], config: ModelConfig) -> Tensor:
    return torch.cat([fast_logits(parameters, chunk[None], config)[0] for chunk in pairs.split(_CHUNK)])


def _with_norms_on(config: ModelConfig, normalised: Pathways) -> ModelConfig:
    """The same model with norms on exactly these pathways; its norms elsewhere stay."""
    arrangement = config.placement.arrangement
    if arrangement == "mlp-inpnorm" and "mlp" not in normalised:
        arrangement = "pre"
    return config.model_copy(update={"placement": Placement(normalised, arrangement)})


def _with_affines(parameters: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The parameters, with gain and bias for the norms that the model was not built with."""
    filled = dict(parameters)
    for layer, (pathway, site) in itertools.product(range(config.n_layers), pathway_sites(config).items()):
        if site.affine and f"blocks.{layer}.{site.affine}.w" not in parameters:
            affine = _layer_affine(parameters, f"blocks.{layer}.{LAYER_AFFINE[pathway]}", config)
            filled |= {f"blocks.{layer}.{site.affine}.{leaf}": value for leaf, value in affine.items()}
    return filled


def _layer_affine(parameters: dict[str, Tensor], owner: str, config: ModelConfig) -> dict[str, Tensor]:
    """The layer's own gain and bias, or 1 and 0 where it has none."""
    identity = {"w": 1.0, "b": 0.0} if config.norm == "ln" else {"w": 1.0}
    like = parameters["embed.W_E"]
    return {
        leaf: parameters.get(f"{owner}.{leaf}", like.new_full((1, config.d_model), value))
        for leaf, value in identity.items()
    }
