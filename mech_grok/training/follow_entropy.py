"""Attention factors, solved on the training pairs, that give every head the entropy it is to have.

Between two solutions the factors stay as they are, and training takes no gradient through them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.config import CellConfig, ModelConfig
from mech_grok.training.attention_factor import mean_entropy, solve_where_reachable
from mech_grok.training.entropy_curve import EntropyCurve
from mech_grok.training.forward_parts import Parameters, score_factor
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.plain_forward import block, embed, equals_scores
from mech_grok.training.table_forward import table_scores


@dataclass(frozen=True)
class SolvedFactors:
    """What was solved at one step, every array [seed, layer, head].

    Attributes:
        step: updates done.
        factor: what the scores are multiplied by from here on.
        target: entropy (nats) that was asked for.
        entropy: of that factor, mean over the seed's training pairs; where the target is out of reach, it
            is not the target.
    """

    step: int
    factor: Float[np.ndarray, "seed layer head"]
    target: Float[np.ndarray, "seed layer head"]
    entropy: Float[np.ndarray, "seed layer head"]


def solution_steps(config: CellConfig) -> tuple[int, ...]:
    """When the factors are solved: at a run's first step, and then at every multiple of `every`."""
    follow = config.training.follow_entropy
    if follow is None:
        return ()
    later = range(0, config.training.steps + 1, follow.every)
    return tuple(sorted({config.first_step, *later} - set(range(config.first_step))))


def follow(
    curve: EntropyCurve,
    stack: ParameterStack,
    seed_groups: Sequence[slice],
    pairs: Int[Tensor, "seed n 2"],
    config: CellConfig,
    step: int,
) -> SolvedFactors:
    """Put the factors into `stack` with which every head's entropy is that of the curve at this step.

    The search starts from the factors that are there.

    Args:
        seed_groups: seeds that share a forward pass.
        pairs: each seed's training pairs.
    """
    target = torch.from_numpy(curve.at(step)).to(pairs.device)
    names = [score_factor(f"blocks.{layer}.") for layer in range(config.model.n_layers)]
    entropies = []
    for rows in seed_groups:
        parameters = {**{n: x[rows] for n, x in stack.named().items()}, **stack.frozen_rows(rows)}
        factors, reached = solve_factors(parameters, pairs[rows], target[rows], config.model)
        for layer, name in enumerate(names):
            stack.frozen[name][rows] = factors[:, layer].to(stack.flat.dtype)
        entropies.append(reached)
    solved = torch.stack([stack.frozen[name] for name in names], dim=1)
    return SolvedFactors(step, *(x.double().cpu().numpy() for x in (solved, target, torch.cat(entropies))))


@torch.no_grad()
def solve_factors(
    parameters: Parameters,
    pairs: Int[Tensor, "seed n 2"],
    target: Float[Tensor, "seed layer head"],
    config: ModelConfig,
) -> tuple[Float[Tensor, "seed layer head"], Float[Tensor, "seed layer head"]]:
    """Factors with which each head's entropy, mean over the pairs, is the target, and the entropy they give.

    Layer by layer, since a factor changes what later layers read; in float64, and then rounded to the
    parameters' own precision, with which the entropy is computed. A head whose target is out of reach keeps
    the factor that it has.

    Args:
        parameters: a model's with attention factors, from which the search starts; not changed.
        pairs: each seed's own.
        target: nats.
        config: of the model.
    """
    dtype = parameters["embed.W_E"].dtype
    now = {name: tensor.double() for name, tensor in parameters.items()}
    stream, factors, entropies = None, [], []
    for layer in range(config.n_layers):
        prefix = f"blocks.{layer}."
        name = score_factor(prefix)
        bare = {**now, name: torch.ones_like(now[name])}
        if stream is None:
            scores = table_scores(bare, pairs, config)
        else:
            scores = equals_scores(stream, bare, config, prefix)
        factor = solve_where_reachable(scores, target[:, layer], now[name]).factor.to(dtype).double()
        factors.append(factor)
        entropies.append(mean_entropy(scores, factor))
        now[name] = factor
        if layer + 1 < config.n_layers:
            stream = block(embed(now, pairs) if stream is None else stream, now, config, prefix)
    return torch.stack(factors, dim=1), torch.stack(entropies, dim=1)
