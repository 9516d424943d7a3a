"""Whether a logit's gradients at a and b point the same way, as where only the embeddings' sum is read."""

import random
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

N_TRIPLES = 100


def sampled_triples(p: int) -> Int[Tensor, "n 3"]:
    """100 triples (a, b, c) of Z_p^3 without repeats, always the same; all p^3 where there are fewer.

    Drawn from the lexicographic list by Python's `random.Random(42).sample`, as is done with the code of
    arXiv 2306.17844 (github.com/fjzzq2002/pizza). c is any class, not the right answer.
    """
    drawn = random.Random(42).sample(range(p**3), min(N_TRIPLES, p**3))
    index = torch.tensor(drawn)
    return torch.stack([index // p**2, index // p % p, index % p], dim=1)


def gradient_cosines(model: HookedTransformer, triples: Int[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Cosine between the gradients of the logit of class c with respect to the embeddings of a and of b.

    Gradients are those of the embedding's output, before positions are added, at the positions 0 and 1: one
    for each position also where a = b. Nan where a gradient is zero or not finite. In float64, from
    gradients in the model's own precision; the model is left without gradients.
    """
    p = model.cfg.d_vocab - 1
    triples = triples.to(model.W_E.device)
    a, b, c = triples.unbind(1)
    tokens = torch.stack([a, b, torch.full_like(a, p)], dim=1)
    embedded = model.W_E.detach()[tokens].requires_grad_()
    with torch.enable_grad(), model.hooks(fwd_hooks=[("hook_embed", partial(_replace, by=embedded))]):
        logits = model(tokens)[:, -1]
        # Examples do not interact, so the gradient of the sum holds each one's own.
        (gradient,) = torch.autograd.grad(logits.gather(1, c[:, None]).sum(), embedded)
    at_a, at_b = gradient[:, 0].double(), gradient[:, 1].double()
    return (at_a * at_b).sum(1) / at_a.norm(dim=1) / at_b.norm(dim=1)


def _replace(activation: Tensor, hook: HookPoint, *, by: Tensor) -> Tensor:
    return by
