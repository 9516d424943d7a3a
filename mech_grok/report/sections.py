"""The sections of the report in their order, and those that are curves over training only."""

from collections.abc import Sequence

from mech_grok.report import curves, definitions
from mech_grok.report.ablation_sections import ablations, scale_reliance
from mech_grok.report.attention_section import attention
from mech_grok.report.attribution_section import attribution
from mech_grok.report.cells import Run
from mech_grok.report.dynamics_section import dynamics
from mech_grok.report.fourier_section import fourier
from mech_grok.report.headline import Headline, draw_milestones
from mech_grok.report.onset_section import onsets
from mech_grok.report.probe_sections import CIRCUIT, COMPRESSIBILITY, KERNEL, STABILITY, probe_section
from mech_grok.report.progress_section import progress
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
        attribution(runs),
        _shortcut(runs),
        ablations(runs),
        scale_reliance(runs),
        progress(runs),
        probe_section(COMPRESSIBILITY, runs),
        dynamics(runs),
        probe_section(STABILITY, runs),
        probe_section(KERNEL, runs),
        probe_section(CIRCUIT, runs),
        onsets(runs),
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
        "marker. The bars are the phases of the selected seed, or of the mean.",
        panels=(Panel(draw_milestones(headlines)),),
        table=table_of_milestones(headlines),
        width="full",
        key=("memorisation", "accuracy", "loss", *(["fork"] if any(h.fork for h in headlines) else [])),
    )


def _loss_and_accuracy(runs: Sequence[Run]) -> Figure:
    return lines_figure(
        "learning",
        "Loss and accuracy",
        f"{BAND} The train set is measured at every step, the test set at evaluated ones.",
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
