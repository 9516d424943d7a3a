"""Scores of a model with each of many components patched, from one run of the donor."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.interventions.patching_components import LOGITS, Component
from mech_grok.interventions.patching_hooks import donated, replacing
from mech_grok.model import GrokTransformer
from mech_grok.probes.fast_products import FastProducts
from mech_grok.probes.observation import Hooks, equals_only, passes
from mech_grok.task import Split, Task
from mech_grok.training.loss import correct, cross_entropy


def scores_under_patches(
    clean: GrokTransformer,
    corrupted: GrokTransformer,
    task: Task,
    split: Mapping[Split, Int[np.ndarray, " _"]],
    components: Sequence[Component],
) -> Float[np.ndarray, "case split 3"]:
    """Loss, accuracy and margin, mean over each split.

    The cases are the clean model, the corrupted one, and the corrupted one with each component patched.
    """
    if not all(torch.isfinite(x).all() for model in (clean, corrupted) for x in model.parameters()):
        # TransformerLens turns the NaN patterns of a diverged model into zeros, which look measured.
        return np.full((2 + len(components), len(split), 3), np.nan)
    device = corrupted.W_E.device
    tokens = torch.as_tensor(task.tokens(task.pairs()), device=device)
    answers = torch.as_tensor(task.answers(task.pairs()), device=device)

    def of_batch(batch: Tensor, right: Tensor) -> Tensor:
        each = _logits(clean, corrupted, components, batch)
        return torch.stack([_measures(logits, right, corrupted.config.loss_scale) for logits in each])

    with torch.no_grad(), FastProducts():
        per_pair = torch.cat(list(map(of_batch, passes(tokens), passes(answers))), dim=1)
    means = [per_pair[:, torch.as_tensor(indices, device=device)].mean(1) for indices in split.values()]
    return torch.stack(means, dim=1).cpu().numpy()


def _logits(
    clean: GrokTransformer,
    corrupted: GrokTransformer,
    components: Sequence[Component],
    tokens: Int[Tensor, "n 3"],
) -> Iterator[Float[Tensor, "n classes"]]:
    """Logits at `=` of the clean model, of the corrupted one, and of it with each component patched.

    Where a and b are not read any more both models drop them, so that their activations keep one shape.
    """
    names = dict.fromkeys([*(name for component in components for name in component.names), LOGITS])
    activations = donated(clean, names, tokens, _only_equals(clean))
    yield activations[LOGITS][:, -1]
    first = _only_equals(corrupted)
    for hooks in ([], *(replacing(component, activations) for component in components)):
        yield _logits_under(corrupted, tokens, [*first, *hooks])


def _only_equals(model: GrokTransformer) -> Hooks:
    """`equals_only`, with a stream before the readout that lies in memory as a patched one does.

    The same product takes another path through another layout, and is then not the same to the last bit.
    """
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    return [*equals_only(model), (last, lambda stream, hook: stream.contiguous())]


def _logits_under(
    model: GrokTransformer, tokens: Int[Tensor, "n 3"], hooks: Hooks
) -> Float[Tensor, "n classes"]:
    with model.hooks(fwd_hooks=list(hooks)):
        return model(tokens)[:, -1]


def _measures(
    logits: Float[Tensor, "n classes"], answers: Int[Tensor, " n"], loss_scale: float
) -> Float[Tensor, "n 3"]:
    """Loss, whether the answer is right, and its lead over the mean of the other answers, in float64."""
    loss, right = cross_entropy(logits, answers, loss_scale), correct(logits, answers).double()
    return torch.stack([loss, right, loss_scale * _lead(logits[:, :-1].double(), answers)], dim=1)


def _lead(logits: Float[Tensor, "n p"], answers: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    of_answer = logits.gather(1, answers[:, None])[:, 0]
    return of_answer - (logits.sum(1) - of_answer) / (logits.shape[1] - 1)
