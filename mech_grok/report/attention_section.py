"""The sections with figures that the checkpoint slider or the seed selector redraws."""

from collections.abc import Sequence
from functools import partial

from mech_grok.report import checkpoints, curves, definitions, tables
from mech_grok.report.cells import Run
from mech_grok.report.checkpoints import StepArray
from mech_grok.report.section import BAND, Figure, Section, colour_key, lines_figure, panels_of
from mech_grok.report.style import SEQUENTIAL
from mech_grok.report.tables import number


def attention(runs: Sequence[Run]) -> Section | None:
    """Entropies through training, and the patterns of the selected checkpoint."""
    patterns = checkpoints.compute_patterns(runs)
    if not patterns:
        return None
    return Section(
        slug="attention",
        title="Attention",
        lead="Entropy says how widely a query spreads its attention over the three tokens: ln 3 ≈ 1.0986 "
        "nats is uniform, 0 is all on one. A head-averaged pattern can be uniform although every head is "
        "sharp, so both are shown.",
        figures=(*_entropies(runs), _patterns(patterns)),
        definitions=definitions.ATTENTION,
        arrays=patterns,
    )


def _entropies(runs: Sequence[Run]) -> tuple[Figure, Figure]:
    averaged = lines_figure(
        "entropy",
        "Entropy of the head-averaged pattern",
        "As in the paper: heads averaged first, then the mean over all three query rows and all pairs. "
        f"{BAND}",
        curves.compute_head_averaged_entropy(runs),
        width="single",
    )
    heads = lines_figure(
        "head-entropy",
        "Entropy per head, at “=”",
        "The row that the answer is read from. Heads are interchangeable: head 0 of one seed need not do "
        f"what head 0 of another does. {BAND}",
        curves.compute_head_entropies(runs),
        width="small",
    )
    return averaged, heads


def _patterns(patterns: Sequence[StepArray]) -> Figure:
    return Figure(
        slug="patterns",
        title="Attention patterns at the selected checkpoint",
        caption="Rows are queries, columns keys; each row sums to 1. Mean over all pairs, and over seeds "
        "unless one is selected.",
        panels=panels_of(patterns, checkpoints.draw_patterns, shows="checkpoint"),
        table=tables.table_of_patterns(patterns),
        width="maps",
        colours=colour_key(SEQUENTIAL, "0", "0.5", "1"),
    )


def fourier(runs: Sequence[Run]) -> Section | None:
    """Concentration through training, and the embedding's spectrum over and at checkpoints."""
    spectra = checkpoints.compute_spectrum(runs)
    if not spectra:
        return None
    concentration = lines_figure(
        "concentration",
        "Fourier concentration of the embedding",
        f"C<sub>Fourier</sub> is the ratio of the other two. {BAND}",
        curves.compute_concentration(runs),
        scale="linear",
    )
    return Section(
        slug="fourier",
        title="Fourier structure",
        lead="Networks that generalise on modular addition embed a number n as cosines and sines of 2πkn/p "
        "for a few frequencies k.",
        figures=(concentration, *_spectra(spectra)),
        definitions=definitions.FOURIER,
        arrays=spectra,
    )


def _spectra(spectra: Sequence[StepArray]) -> tuple[Figure, Figure]:
    top, span = checkpoints.largest([a.values for a in spectra]), checkpoints.time_span(spectra)
    history = Figure(
        slug="spectrum-history",
        title="Embedding spectrum through training",
        caption="Darker is larger. A network that has found the Fourier solution keeps a few frequencies. "
        "Seeds choose different ones, so select one seed to see clean lines.",
        panels=panels_of(
            spectra, partial(checkpoints.draw_spectrum_history, top=top, span=span), shows="training"
        ),
        table=tables.table_of_spectrum(spectra),
        colours=colour_key(SEQUENTIAL, "0", number(top / 2), number(top)),
    )
    bars = Figure(
        slug="spectrum",
        title="Embedding spectrum at the selected checkpoint",
        caption="The same numbers, one checkpoint at a time, on one scale.",
        panels=panels_of(spectra, partial(checkpoints.draw_spectrum, top=top), shows="checkpoint"),
        table=tables.table_of_spectrum(spectra),
    )
    return history, bars
