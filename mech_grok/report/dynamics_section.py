"""The section on dynamics: norms of the whole model at every step, and by part at every checkpoint."""

from collections.abc import Sequence

from mech_grok.report import curves, definitions
from mech_grok.report.cells import Run, with_probe
from mech_grok.report.lines import Lines
from mech_grok.report.probe_curves import Tracked, by_label, compute_tracked
from mech_grok.report.section import BAND, Figure, Section, lines_figure

PATH = (
    Tracked("moved_norm", "Distance from the start", "distance (L2)"),
    Tracked("scaling_cosine", "Descent along the weights", "cosine", y_range=(-1.05, 1.05)),
)

BY_PART = (
    (
        Tracked("weight_norm_by_group", "", "norm (L2)", log=True),
        "Weight norm by part of the model",
        "Look for parts that shrink when the network generalises: weight decay takes away what the loss no "
        "longer needs.",
    ),
    (
        Tracked("gradient_norm_by_group", "", "norm (L2)", log=True),
        "Gradient norm by part of the model",
        "Of the train loss. A part whose gradient is orders of magnitude smaller than that of others is "
        "hardly used. Spikes in all parts at once are slingshots.",
    ),
    (
        Tracked("moved_norm_by_group", "", "distance (L2)"),
        "Distance from the start by part of the model",
        "How far training has moved each part. A flat curve is a part that has settled.",
    ),
)

_COSINE = (
    "Descent along the weights is 1 where the loss falls fastest by scaling all weights up, as it can once a "
    "network has memorised. "
)


def dynamics(runs: Sequence[Run]) -> Section:
    """Norms of weights, gradient, update and path, whole and by part."""
    path = compute_tracked(runs, "dynamics", PATH)
    names = [t.variable for t in (*PATH, *(part for part, _, _ in BY_PART))]
    return Section(
        slug="dynamics",
        title="Dynamics",
        lead="How large the weights are, how strongly the loss pulls, how far each step goes, and how far "
        "all steps together have gone.",
        figures=(
            lines_figure(
                "dynamics",
                "Norms of weights, gradient and update",
                f"Of all trained parameters together. {_COSINE if path else ''}{BAND}",
                (*curves.compute_dynamics(runs), *path),
                scale="log",
            ),
            *_by_part(runs),
        ),
        definitions=(
            *definitions.DYNAMICS,
            *definitions.recorded([data for _, data in with_probe(runs, "dynamics")], names),
        ),
    )


def compute_by_part(runs: Sequence[Run], tracked: Tracked) -> tuple[Lines, ...]:
    """A norm of the dynamics probe, a panel for each part of the model; none where no run has the probe."""
    return by_label(runs, "dynamics", tracked, "group", part_title)


def _by_part(runs: Sequence[Run]) -> list[Figure]:
    found = [(compute_by_part(runs, tracked), *words, tracked.variable) for tracked, *words in BY_PART]
    return [
        lines_figure(
            name.replace("_", "-"),
            title,
            f"{caption} {BAND}",
            panels,
            width="small",
            scale="log" if panels[0].log else "linear",
        )
        for panels, title, caption, name in found
        if panels
    ]


def part_title(name: str) -> str:
    """The label of a group of parameters in words, in HTML: `0_W_Q` is `Layer 0, W<sub>Q</sub>`."""
    layer, _, part = name.partition("_")
    if not layer.isdigit():
        return _OUTSIDE_BLOCKS.get(name, name)
    words = {"norms": "norms", "mlp_in": "MLP in", "mlp_out": "MLP out"}
    return f"Layer {layer}, {words.get(part, _matrix(part))}"


_OUTSIDE_BLOCKS = {
    "embed": "Embedding",
    "pos_embed": "Positions",
    "final_norm": "Final norm",
    "unembed": "Unembedding",
}


def _matrix(part: str) -> str:
    letter, _, index = part.partition("_")
    return f"{letter}<sub>{index}</sub>" if index else part
