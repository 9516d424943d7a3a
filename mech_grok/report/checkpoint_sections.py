"""The sections with figures that the checkpoint slider or the seed selector redraws."""

from collections.abc import Sequence
from functools import partial

from mech_grok.report import checkpoints, curves, definitions, tables
from mech_grok.report.cells import Run
from mech_grok.report.checkpoints import StepArray
from mech_grok.report.section import BAND, ColourKey, Figure, Panel, Section, lines_figure, panels_of
from mech_grok.report.style import DIVERGING, SEQUENTIAL
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
        colours=_colour_key(SEQUENTIAL, "0", "0.5", "1"),
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
    top = checkpoints.largest(spectra)
    history = Figure(
        slug="spectrum-history",
        title="Embedding spectrum through training",
        caption="Darker is larger. A network that has found the Fourier solution keeps a few frequencies. "
        "Seeds choose different ones, so select one seed to see clean lines.",
        panels=panels_of(spectra, partial(checkpoints.draw_spectrum_history, top=top), shows="training"),
        table=tables.table_of_spectrum(spectra),
        colours=_colour_key(SEQUENTIAL, "0", number(top / 2), number(top)),
    )
    bars = Figure(
        slug="spectrum",
        title="Embedding spectrum at the selected checkpoint",
        caption="The same numbers, one checkpoint at a time, on one scale.",
        panels=panels_of(spectra, partial(checkpoints.draw_spectrum, top=top), shows="checkpoint"),
        table=tables.table_of_spectrum(spectra),
    )
    return history, bars


_CAPTIONS = {
    "bypass": "The norm is taken out: the pathway reads its unnormalised input.",
    "insert": "A norm is put where there was none, with the layer's own gain and bias if the model has them, "
    "else without.",
}
_COLOURS = "Orange is harm, blue is help; the colours follow the logarithm of the change."
_SPLITS = {"test": "test set", "train": "training set"}


def ablations(runs: Sequence[Run]) -> Section | None:
    """Change in loss when norms are taken off or put on, at every checkpoint."""
    by_name = {name: _both_splits(runs, name) for name in _CAPTIONS}
    if not any(by_name.values()):
        return None
    return Section(
        slug="ablations",
        title="Pathway ablations",
        lead="At every checkpoint, without further training: take the norm off a set of pathways that have "
        "one, or put one on a set that has none, and measure the loss again.",
        figures=tuple(_ablation(name, pairs) for name, pairs in by_name.items() if pairs),
        definitions=definitions.ABLATIONS,
        arrays=tuple(array for pairs in by_name.values() for array, _ in pairs),
    )


def _both_splits(runs: Sequence[Run], name: str) -> list[tuple[StepArray, str]]:
    """Per cell its array on the test set, then on the training set, each with the name of the split."""
    arrays = [(a, split) for split in _SPLITS for a in checkpoints.compute_ablation(runs, name, split)]
    return sorted(arrays, key=lambda pair: pair[0].cell.index)


def _ablation(name: str, pairs: Sequence[tuple[StepArray, str]]) -> Figure:
    limit = checkpoints.largest([array for array, _ in pairs])
    panels = [
        Panel(checkpoints.draw_ablation(a, limit), f"{a.cell.label} · {_SPLITS[split]}", a.cell)
        for a, split in pairs
    ]
    return Figure(
        slug=name,
        title=f"{name.capitalize()}: change in loss (nats)",
        caption=f"{_CAPTIONS[name]} {_COLOURS}",
        panels=tuple(panels),
        table=tables.table_of_ablation(pairs),
        width="large",
        colours=_colour_key(DIVERGING, *map(number, checkpoints.signed_log_ticks(limit))),
    )


def _colour_key(scale: Sequence[Sequence[object]], *labels: str) -> ColourKey:
    return ColourKey(tuple(str(colour) for _, colour in scale), labels)
