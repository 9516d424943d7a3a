"""The sections of the report in their order, and those that are curves over training only."""

from collections.abc import Sequence

from mech_grok.report import curves, definitions
from mech_grok.report.ablation_sections import ablations, scale_reliance
from mech_grok.report.cells import Run
from mech_grok.report.checkpoint_sections import attention, fourier
from mech_grok.report.headline import Headline, draw_milestones
from mech_grok.report.section import BAND, Figure, Panel, Section, lines_figure
from mech_grok.report.surgery import surgery
from mech_grok.report.tables import number, table_of_milestones


def build_sections(runs: Sequence[Run], headlines: Sequence[Headline]) -> list[Section]:
    """The sections that the runs have data for."""
    sections = (
        _learning(runs, headlines),
        surgery(runs),
        attention(runs),
        _attention_factors(runs),
        fourier(runs),
        _attribution(runs),
        _shortcut(runs),
        _effective_rank(runs),
        ablations(runs),
        scale_reliance(runs),
        _dynamics(runs),
    )
    return [section for section in sections if section]


def _learning(runs: Sequence[Run], headlines: Sequence[Headline]) -> Section:
    return Section(
        slug="learning-curves",
        title="Learning curves",
        lead="Memorising shows in the training curves (dashed), generalising in the test curves (solid); "
        "grokking is the delay between them.",
        figures=(_milestones(headlines), _loss_and_accuracy(runs)),
        definitions=definitions.LEARNING,
    )


def _milestones(headlines: Sequence[Headline]) -> Figure:
    return Figure(
        slug="milestones",
        title="When each seed memorised and generalised",
        caption="One row per cell, one marker per seed and rule. The gap between open and filled markers is "
        "the delay that grokking names. A rule that a seed never met, or met before it was forked, has no "
        "marker.",
        panels=(Panel(draw_milestones(headlines)),),
        table=table_of_milestones(headlines),
        width="full",
        key=("memorisation", "accuracy", "loss", *(["fork"] if any(h.fork for h in headlines) else [])),
    )


def _loss_and_accuracy(runs: Sequence[Run]) -> Figure:
    return lines_figure(
        "learning",
        "Loss and accuracy",
        f"{BAND} Curves are drawn at evaluated steps, at most some 400 of them.",
        curves.compute_learning(runs),
        width="large",
        scale="log",
    )


def _attention_factors(runs: Sequence[Run]) -> Section | None:
    panels = curves.compute_factors(runs)
    if not panels:
        return None
    figure = lines_figure(
        "factors",
        "Attention factors and the entropies that they give",
        "Mean over layers and heads. Dotted: the entropy that the factors were solved for. The farthest that "
        f"any head was from it: {number(curves.farthest_from_target(runs))} nats. {BAND}",
        panels,
        width="large",
        reference="target",
    )
    return Section(
        slug="attention-factors",
        title="Attention factors",
        lead="Some cells were trained with given attention entropies, such as those of another run: each "
        "head's scores are multiplied by the factor at which its entropy is the given one.",
        figures=(figure,),
        definitions=definitions.FACTORS,
    )


def _attribution(runs: Sequence[Run]) -> Section | None:
    panels = curves.compute_attribution(runs)
    if not panels:
        return None
    figure = lines_figure(
        "attribution",
        "Contribution to the right logit",
        f"Heads are interchangeable between seeds. {BAND}",
        panels,
        width="small",
        scale="common",
    )
    return Section(
        slug="logit-attribution",
        title="Direct logit attribution",
        lead="The logits are a sum over what each component writes to the residual stream. This is each "
        "part's share of the right answer's logit, above the mean over the answers.",
        figures=(figure,),
        definitions=definitions.ATTRIBUTION,
    )


def _shortcut(runs: Sequence[Run]) -> Section | None:
    panels = curves.compute_shortcut(runs)
    if not panels:
        return None
    figure = lines_figure(
        "shortcut",
        "Loss without the scale of the MLP's input",
        f"Dotted: the plain loss. Where the two part, the network needs something that it has put into the "
        f"scale. {BAND}",
        panels,
        scale="log",
    )
    return Section(
        slug="scale-shortcut",
        title="The shortcut through scale",
        lead="A network can memorise through the magnitude of its activations. Dividing the MLP's input by "
        "its own length takes that away and leaves the direction.",
        figures=(figure,),
        definitions=definitions.SHORTCUT,
    )


def _effective_rank(runs: Sequence[Run]) -> Section | None:
    panels = curves.compute_effective_rank(runs)
    if not panels:
        return None
    figure = lines_figure("effective-rank", "Effective rank of the features", BAND, panels, width="single")
    return Section(
        slug="compressibility",
        title="Compressibility",
        lead="How many directions the features before the unembedding really use: fewer is simpler.",
        figures=(figure,),
        definitions=definitions.EFFECTIVE_RANK,
    )


def _dynamics(runs: Sequence[Run]) -> Section:
    panels = curves.compute_dynamics(runs)
    figure = lines_figure("dynamics", "Norms of weights, gradient and update", BAND, panels, scale="log")
    return Section(
        slug="dynamics",
        title="Dynamics",
        lead="How large the weights are, how strongly the loss pulls, and how far each step goes.",
        figures=(figure,),
        definitions=definitions.DYNAMICS,
    )
