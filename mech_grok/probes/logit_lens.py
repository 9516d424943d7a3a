"""The loss of reading the residual stream early."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mech_grok.probes.observation import LOGITS, Observation
from mech_grok.probes.probe import Probe, Quantity
from mech_grok.probes.split_scores import Scores, constant_scores, own_scores, scores, stacked
from mech_grok.task import Task


def lens_labels(model: HookedTransformer) -> list[str]:
    """`0_pre`, `0_mid`, `1_pre`, ..., `final_post`: before attention, before the MLP, after all blocks."""
    return [f"{layer}_{at}" for layer in range(model.cfg.n_layers) for at in ("pre", "mid")] + ["final_post"]


def lens_logits(model: HookedTransformer, stream: Float[Tensor, "n d_model"]) -> Float[Tensor, "n classes"]:
    """Logits of the residual stream at `=`, read through the final norm and the unembedding.

    The norm's divisor is that of the stream as given, not that of the finished one: TransformerLens'
    `accumulated_resid(apply_ln=True)` does the same, its `decompose_resid(apply_ln=True)` does not.
    """
    return model.unembed(stream[:, None])[:, 0]


def start_of_equals(model: HookedTransformer) -> Float[Tensor, "1 d_model"]:
    """The residual stream at `=` before the first block, which is the same for all pairs."""
    device = model.W_E.device
    equals = torch.full((1, 3), model.cfg.d_vocab - 1, device=device)
    return (model.embed(equals) + model.pos_embed(equals))[:, -1]


def lens_scores(seen: Observation) -> Scores:
    """Loss and accuracy at each of `lens_labels`, [read_from, split]."""
    model = seen.model
    start = constant_scores(seen, lens_logits(model, start_of_equals(model)))
    between = [scores(seen, lens_logits(model, seen.at_equals[name])) for name in _between(model)]
    return stacked([start, *between, seen.once(own_scores)])


def _between(model: HookedTransformer) -> list[str]:
    """Hook points of the stream after it has left the start and before it reaches the end."""
    names = [f"blocks.{layer}.hook_resid_{x}" for layer in range(model.cfg.n_layers) for x in ("pre", "mid")]
    return names[1:]


def _compute(seen: Observation) -> dict[str, Tensor]:
    found = lens_scores(seen)
    return {"logit_lens_loss": found.loss, "logit_lens_accuracy": found.accuracy}


def _at_equals(model: HookedTransformer) -> tuple[str, ...]:
    return (LOGITS, *_between(model))


def _coordinates(model: HookedTransformer, task: Task) -> dict[str, list[str]]:
    return {"read_from": lens_labels(model)}


_READ = (
    "the residual stream at '=' read before attention (pre) and before the MLP (mid) of each block and after "
    "the last block (final_post, the model's own logits), through the final norm (recomputed on what is "
    "read), if there is one, and the unembedding; at 0_pre all pairs have the same logits."
)

PROBE = Probe(
    name="logit_lens",
    title="The loss of reading the residual stream early",
    source="nostalgebraist (2020), interpreting GPT: the logit lens",
    seconds=0.012,
    quantities={
        "logit_lens_loss": Quantity(
            ("read_from", "split"),
            "loss of the logit lens",
            "nats",
            f"Cross-entropy over all classes in float64, mean over the pairs of the split, of {_READ}",
            nan="the split is empty",
        ),
        "logit_lens_accuracy": Quantity(
            ("read_from", "split"),
            "accuracy of the logit lens",
            "1",
            f"Share of the pairs of the split whose largest logit is the right answer's, of {_READ}",
            nan="the split is empty",
        ),
    },
    compute=_compute,
    coordinates=_coordinates,
    at_equals=_at_equals,
)
