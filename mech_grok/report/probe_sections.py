"""The sections that follow the quantities of one probe through training: a panel each, all cells in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mech_grok.report import definitions
from mech_grok.report.cells import Run, with_probe
from mech_grok.report.lines import same_range
from mech_grok.report.probe_curves import Tracked, compute_tracked
from mech_grok.report.section import BAND, Scale, Section, lines_figure


@dataclass(frozen=True)
class ProbeSection:
    """A section of one figure; the texts are HTML.

    Attributes:
        figure: the title of the figure.
        caption: what to look for in it.
        scale: of the vertical axes as they start; `common` is one range, from 0 to 1 at least.
    """

    probe: str
    slug: str
    title: str
    lead: str
    figure: str
    caption: str
    tracked: tuple[Tracked, ...]
    scale: Scale | None = None


def probe_section(section: ProbeSection, runs: Sequence[Run]) -> Section | None:
    """The section over some runs; None if no run has its probe."""
    panels = compute_tracked(runs, section.probe, section.tracked)
    if not panels:
        return None
    if section.scale == "common":
        panels = same_range(panels, include=(0.0, 1.0))
    caption = f"{section.caption} {BAND}"
    return Section(
        slug=section.slug,
        title=section.title,
        lead=section.lead,
        figures=(lines_figure(section.probe, section.figure, caption, panels, scale=section.scale),),
        definitions=definitions.recorded(
            [data for _, data in with_probe(runs, section.probe)],
            list(dict.fromkeys(t.variable for t in section.tracked)),
        ),
    )


COMPRESSIBILITY = ProbeSection(
    probe="compressibility",
    slug="compressibility",
    title="Compressibility",
    lead="In how few directions the features before the unembedding lie: fewer is simpler. Effective and "
    "stable rank weigh a direction by its share of the squares; the numerical rank counts all that are not "
    "rounding.",
    figure="Ranks and spectrum of the final features",
    caption="Look for ranks that rise while a network memorises and fall when it generalises. The untrained "
    "network has a low rank too, since its features hardly differ. A smaller exponent is a heavier tail of "
    "the spectrum; it has no value where the tail is too short to fit.",
    tracked=(
        Tracked("effective_rank", "Effective rank", "effective rank"),
        Tracked("stable_rank", "Stable rank", "stable rank"),
        Tracked("numerical_rank", "Numerical rank", "rank"),
        Tracked("power_law_alpha", "Power-law exponent", "exponent"),
    ),
    scale="linear",
)

_TURNED = "1 \N{MINUS SIGN} cosine"
_SUM, _TRACE = {"ntk_output": "sum"}, {"ntk_output": "trace"}

KERNEL = ProbeSection(
    probe="kernel",
    slug="tangent-kernel",
    title="Tangent kernel",
    lead="A network whose tangent kernel stays what it was learns as a linear model would: it is lazy. A "
    "kernel that turns is one whose features are learnt.",
    figure="Drift and alignment of the tangent kernel",
    caption="The drift grows with the kernel's size, so read it beside the drift of the direction, which "
    "does not. The alignment is 1 if the kernel is large for just those pairs that have one answer. The "
    "kernel of the summed logits is the one of the published figures.",
    tracked=(
        Tracked("ntk_drift", "Drift, summed logits", "relative change", _SUM),
        Tracked("ntk_alignment_drift", "Drift of the direction, summed logits", _TURNED, _SUM),
        Tracked("ntk_label_alignment", "Alignment with the answers", "cosine"),
        Tracked("ntk_drift", "Drift, every logit", "relative change", _TRACE),
        Tracked("ntk_alignment_drift", "Drift of the direction, every logit", _TURNED, _TRACE),
        Tracked("ntk_label_alignment_centred", "Alignment with the answers, centred", "cosine"),
    ),
    scale="linear",
)

CIRCUIT = ProbeSection(
    probe="circuit",
    slug="circuit",
    title="Circuit",
    lead="Two circuits for modular addition are known. A clock multiplies what it knows of a and b, so that "
    "its logits are cosines of a + b &minus; c. A pizza adds them, and the same cosines come out weaker "
    "where a and b are far apart on the circle.",
    figure="Clock or pizza",
    caption="A pizza has a gradient symmetricity near 1, a low distance irrelevance, and logits that its own "
    "fit explains better than the clock's. A clock has a high distance irrelevance. Circularity says how far "
    "each component of the embedding is one frequency. The two fits need key frequencies: a cell without "
    "any has no such curve.",
    tracked=(
        Tracked("gradient_symmetricity", "Gradient symmetricity", "cosine"),
        Tracked("distance_irrelevance", "Distance irrelevance", "share"),
        Tracked("circularity", "Circularity", "share"),
        Tracked("clock_fve", "Fit of the clock to the logits", "share of variance"),
        Tracked("pizza_fve", "Fit of the pizza to the logits", "share of variance"),
    ),
    scale="common",
)

STABILITY = ProbeSection(
    probe="stability",
    slug="numerical-stability",
    title="Numerical stability",
    lead="Once a network has memorised, the loss falls if all logits merely grow. Where they grow so large "
    "that rounding loses the other classes, the gradient is exactly 0 and learning stops.",
    figure="Softmax collapse and margins",
    caption="Look for a collapse on the training pairs (dashed) while the test pairs are still answered "
    "wrongly, which is a negative margin. The smallest margin is that of the worst pair.",
    tracked=(
        Tracked("softmax_collapse", "Softmax collapse in float32", "share of pairs"),
        Tracked("answer_margin", "Margin of the right answer, mean", "logits"),
        Tracked("answer_margin_min", "Margin of the right answer, smallest", "logits"),
        Tracked("largest_logit", "Largest logit", "logits"),
    ),
)
