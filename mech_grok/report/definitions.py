"""What every quantity on the page is, and where its definition comes from: (term, HTML), by section."""

import re
from collections.abc import Sequence
from html import escape

import xarray as xr

from mech_grok.futures import LAST_EVALUATIONS
from mech_grok.report.ablation_arrays import Quantity
from mech_grok.structure import CONCENTRATION

PAPER = '<a href="https://arxiv.org/abs/2602.06702">Singh et al.</a>'
NANDA = '<a href="https://arxiv.org/abs/2301.05217">Nanda et al.</a>'

Terms = tuple[tuple[str, str], ...]

LEARNING: Terms = (
    ("Step", "One full-batch optimiser update."),
    (
        "Loss",
        "Mean cross-entropy over all p + 1 classes, in nats, with a float64 log-softmax. The train loss of "
        "step t is measured before update t, the test loss after it.",
    ),
    (
        "Generalisation step",
        "Per seed, the first evaluated step with a test accuracy of at least 0.995; and, separately, with a "
        "test loss of at most 0.01. The published rule applies the first to the accuracy curve averaged over "
        f"seeds ({PAPER}). A seed that never gets there is censored: counted, and left out of the mean.",
    ),
    ("Memorisation step", "Per seed, the first step with a train accuracy of at least 0.99."),
)

ATTENTION: Terms = (
    (
        "Attention entropy",
        "&minus;&Sigma;<sub>key</sub> A log A of an attention row A, in nats. Head-averaged: A is the mean "
        "pattern over heads, and the entropy is averaged over all query rows and all p² pairs "
        f"({PAPER}). Per head: of each head's own row at “=”, averaged over all p² pairs.",
    ),
)

FOURIER: Terms = (
    (
        "Embedding spectrum",
        "For frequency k, the L2 norm of the cosine and sine components of W<sub>E</sub> (the rows of the p "
        f"numbers) in the orthonormal Fourier basis; k = 0 is the constant ({NANDA}).",
    ),
    (
        "C<sub>Fourier</sub>",
        "With X = |rfft| of each embedding dimension over the p numbers: the variance over frequencies of "
        f"the mean of X, divided by the mean squared deviation from those means ({PAPER}). It depends on the "
        "basis of the embedding space as well as on sparsity.",
    ),
)

ATTRIBUTION: Terms = (
    (
        "Direct logit attribution",
        "⟨output of a component at “=”, W<sub>U</sub>[y] &minus; mean over answers of W<sub>U</sub>⟩, "
        "averaged over the pairs of a split; the readout scale is included. As in TransformerLens, centred "
        "over the answers.",
    ),
)

SHORTCUT: Terms = (
    (
        "SR loss",
        "Loss when the MLP reads x/‖x‖<sub>2</sub> at every position in place of its (normalised) input, and "
        f"nothing else changes ({PAPER}: SR-train). The switch in the paper's code takes every other "
        "norm off the blocks as well; it has its own panel.",
    ),
)

INTERVENTIONS: Terms = (
    ("bypass", "A pathway reads its input as it was before the norm."),
    (
        "insert",
        "A pathway that is not normalised is, with the model's norm kind (LayerNorm if it has none) and the "
        "layer's own gain and bias if there are any.",
    ),
    ("unit", "A pathway reads its input divided by its own L2 length, in place of norm, gain and bias."),
    (
        "freeze_scale",
        "The norm divides by its mean scale over the training pairs, at each position, and no longer by that "
        "of the input.",
    ),
    ("affine_only", "A pathway reads gain times input plus bias: the norm without its normalising."),
    (
        "zero, mean, resample",
        "What a pathway reads is replaced: by 0, by its mean over the training pairs at each position, or by "
        "what it is for another pair of the same split.",
    ),
)

CHANGE: Terms = (
    (
        "Change",
        "The quantity under an intervention minus the quantity of the untouched model. An intervention "
        "acts in all layers, and only on the pathways of the set that it applies to.",
    ),
    (
        "Interaction",
        "The change with all pathways of a set, minus the sum of the changes with each of them alone.",
    ),
)


def ablation_terms(grids: Sequence[xr.Dataset | None], quantities: Sequence[Quantity]) -> Terms:
    """The interventions that some grid has, and the quantities as the grids themselves define them."""
    known = [grid for grid in grids if grid is not None]
    present = {str(name) for grid in known for name in grid["intervention"].values}
    used = tuple(term for term in INTERVENTIONS if present & set(term[0].split(", ")))
    variables = dict.fromkeys(q.variable for q in quantities)
    return (*CHANGE, *used, *recorded(known, list(variables)))


def recorded(datasets: Sequence[xr.Dataset], names: Sequence[str]) -> Terms:
    """The named variables as the datasets themselves define them: with source, and when there is no value."""
    return tuple(term for name in names for term in _of_variable(datasets, name))


def _of_variable(datasets: Sequence[xr.Dataset], name: str) -> Terms:
    """What a dataset itself says of a variable, if it says anything."""
    known = [data[name].attrs for data in datasets if name in data and "definition" in data[name].attrs]
    if not known:
        return ()
    words = {key: str(value) for key, value in known[0].items()}
    title = words.get("long_name", name.replace("_", " "))
    unit = f" In {words['units']}." if words.get("units", "1") != "1" else ""
    source = f" ({words['source']})" if words.get("source") else ""
    never = f" No value where {words['nan']}." if words.get("nan") else ""
    text = f"{words['definition'].rstrip('.')}{source}.{unit}{never}"
    return ((escape(f"{title[0].upper()}{title[1:]}"), _linked(re.sub("`([^`]+)`", _CODE, escape(text)))),)


_CODE = r"<code>\1</code>"


def _linked(text: str) -> str:
    """With links to the papers that it names by number."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', text)


SCALES: Terms = (
    (
        "Scaled input",
        "hook_in of every pathway of a set, in all layers and at all positions, times a factor, before any "
        "norm. Attention scores: before the softmax, so that the factor is one over a temperature.",
    ),
)

FACTORS: Terms = (
    (
        "Attention factor",
        "What a head's attention scores are multiplied by before the softmax; not trained. It is solved for "
        "on the training pairs, every so many steps, so that the head's mean entropy at “=” is a given one, "
        "and stays fixed in between.",
    ),
)

SURGERY: Terms = (
    (
        "Fork",
        "Training that goes on from another run's checkpoint under another placement. Parameters that both "
        "have are kept; new norms begin with gain 1 and bias 0, unless their gains were matched to the "
        "length of what was read before. Steps count on from the parent's.",
    ),
    (
        "Steps earlier",
        "Per seed, the generalisation step of the parent, which went on as it was, minus that of the fork; "
        "its mean is over the seeds of which both generalised. A network that generalised before it was "
        "forked cannot do so earlier.",
    ),
    (
        "Stays, recovers, forgets",
        "Of a network that had generalised, whether its test accuracy is 0.995 or more at every evaluated "
        "step after the fork; if not, whether it is at the end, or is below 0.9 there or has diverged; what "
        "ends between the two is back at less than 0.995. The end is the median "
        f"of the last {LAST_EVALUATIONS} evaluations. Networks that nothing was done to have spikes too: the "
        "share of evaluations below 0.995 stands beside the parent's over the same steps.",
    ),
)

DYNAMICS: Terms = (
    (
        "Weight, gradient and update norm",
        "L2 norm over all trained parameters: weights and gradient before update t, update of step t.",
    ),
)

ONSETS: Terms = (
    (
        "Onset of Fourier structure",
        f"Per seed, the first checkpoint of a trained model with C<sub>Fourier</sub> &ge; {CONCENTRATION:g} "
        "(this project).",
    ),
    (
        "Onset of compressibility",
        "Per seed, the first checkpoint of a trained model whose effective rank, of the features over the "
        "test pairs, is at most half of its highest until then (this project).",
    ),
    (
        "Which comes first",
        "Structure appeared after the checkpoint before its onset, and by that onset; the network "
        "generalised after the evaluation before its generalisation step, and by that step. What did not "
        "happen may have after the last of them. Where the two stretches overlap, the order is undecided.",
    ),
)
