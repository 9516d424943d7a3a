"""The train and test pairs of every seed, as stacked tensors."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mech_grok.config import CellConfig
from mech_grok.task import Split


@dataclass(frozen=True)
class Examples:
    """Pairs [seed, n, 2] and their answers [seed, n]; each row is one seed's own split."""

    pairs: Int[Tensor, "seed n 2"]
    answers: Int[Tensor, "seed n"]


def examples(config: CellConfig, split: Split) -> Examples:
    """The examples of one split for all seeds of a cell, on its device."""
    task, device = config.task.task, config.training.device
    all_pairs = task.pairs()
    pairs = [
        all_pairs[task.split_indices(config.training.split_seed(seed))[split]]
        for seed in config.training.seeds
    ]
    answers = [task.answers(p) for p in pairs]
    return Examples(
        torch.stack([torch.from_numpy(p) for p in pairs]).to(device),
        torch.stack([torch.from_numpy(a) for a in answers]).to(device),
    )
