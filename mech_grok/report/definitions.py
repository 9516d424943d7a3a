"""What every quantity on the page is, and where its definition comes from: (term, HTML), by section."""

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

EFFECTIVE_RANK: Terms = (
    (
        "Effective rank",
        "exp(&minus;&Sigma; p<sub>i</sub> log p<sub>i</sub>) with p<sub>i</sub> = "
        "&sigma;<sub>i</sub>²/&Sigma;&sigma;², where &sigma; are the singular values (float64, uncentred) of "
        f"the matrix of features at “=”, one row per pair of the split ({PAPER}).",
    ),
)

ABLATIONS: Terms = (
    (
        "Change in loss",
        "Loss with the intervention minus loss without it, nats. Bypass: what the pathway reads is its input "
        "as it was before the norm. Insert: the input is normalised with the model's norm kind, LayerNorm if "
        "it has none.",
    ),
)

DYNAMICS: Terms = (
    (
        "Weight, gradient and update norm",
        "L2 norm over all trained parameters: weights and gradient before update t, update of step t.",
    ),
)
