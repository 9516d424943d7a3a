"""The forward pass that training and the ablation grid use: the fastest exact one for a model's depth."""

from jaxtyping import Float, Int
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.training.forward_parts import Parameters
from mech_grok.training.plain_forward import plain_logits
from mech_grok.training.table_forward import table_logits


def fast_logits(
    parameters: Parameters, pairs: Int[Tensor, "seed n 2"], config: ModelConfig
) -> Float[Tensor, "seed n classes"]:
    """Logits at `=` of each seed's pairs (a, b), equal to those of the hooked model.

    Args:
        parameters: TransformerLens' names, each with a leading seed dimension.
        pairs: each seed's own pairs.
        config: of the model.
    """
    forward = table_logits if config.n_layers == 1 else plain_logits
    return forward(parameters, pairs, config)
