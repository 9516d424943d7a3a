"""The section on Fourier structure: embedding, neurons, circles, and the logits by frequencies of a and b."""

from collections.abc import Mapping, Sequence
from functools import partial

import plotly.graph_objects as go

from mech_grok.report import curves, definitions
from mech_grok.report.by_frequency import (
    Scale,
    compute_clusters,
    compute_spectrum,
    draw_bars,
    draw_history,
    table_of_frequencies,
)
from mech_grok.report.byte_arrays import ByteArray, rounding_note
from mech_grok.report.cells import Run, with_probe
from mech_grok.report.checkpoints import StepArray, largest, time_span
from mech_grok.report.circles import Circles, compute_circles, draw_circles, table_of_circles
from mech_grok.report.fourier_maps import (
    CHOICES,
    compute_fourier_maps,
    draw_fourier_map,
    table_of_fourier_maps,
)
from mech_grok.report.key_marks import MARKED, compute_key_frequencies, keys_of
from mech_grok.report.section import BAND, Figure, Panel, Section, Shows, colour_key, lines_figure
from mech_grok.report.style import CYCLIC, SEQUENTIAL
from mech_grok.report.tables import number

Keys = Mapping[int, StepArray]


def fourier(runs: Sequence[Run]) -> Section | None:
    """Concentration and spectrum of the embedding, and what the network does with its key frequencies."""
    spectra, clusters = compute_spectrum(runs), compute_clusters(runs)
    circles, maps = compute_circles(runs), compute_fourier_maps(runs)
    keys = compute_key_frequencies(runs)
    figures = (
        *((_concentration(runs), *_spectra(spectra, keys)) if spectra else ()),
        *(_clusters(clusters, keys) if clusters else ()),
        *((_circles(circles),) if circles else ()),
        *((_maps(maps, keys),) if maps else ()),
    )
    if not figures:
        return None
    return Section(
        slug="fourier",
        title="Fourier structure",
        lead="Networks that generalise on modular addition embed a number n as cosines and sines of 2πkn/p "
        "for a few frequencies k.",
        figures=figures,
        definitions=(*(definitions.FOURIER if spectra else ()), *_definitions(runs)),
        arrays=(
            *spectra,
            *clusters,
            *(array for c in circles for array in (c.points, c.summary)),
            *maps,
            *keys_of(keys, [*spectra, *clusters, *maps]),
        ),
    )


def _definitions(runs: Sequence[Run]) -> definitions.Terms:
    shown = {
        "key_frequencies": ["key_frequency_frozen", "key_frequency"],
        "neurons": ["neuron_cluster_size", "neuron_frequency", "neuron_fve"],
        "embedding_circles": ["embedding_circle", "embedding_circle_frequency", "embedding_circle_share"],
        "fourier2d": ["logit_fourier", "neuron_fourier", "attention_fourier"],
    }
    recorded = [([d for _, d in with_probe(runs, probe)], names) for probe, names in shown.items()]
    return tuple(term for data, names in recorded for term in definitions.recorded(data, names))


def _concentration(runs: Sequence[Run]) -> Figure:
    return lines_figure(
        "concentration",
        "Fourier concentration of the embedding",
        f"C<sub>Fourier</sub> is the ratio of the other two. {BAND}",
        curves.compute_concentration(runs),
        scale="linear",
    )


def _spectra(spectra: Sequence[StepArray], keys: Keys) -> tuple[Figure, Figure]:
    top, span = largest([a.values for a in spectra]), time_span(spectra)
    scale = Scale("‖W<sub>E</sub> at k‖", "norm", top, span)
    marked = MARKED if keys_of(keys, spectra) else ""
    history = Figure(
        slug="spectrum-history",
        title="Embedding spectrum through training",
        caption="The stronger the colour, the larger. A network that has found the Fourier solution keeps a "
        "few frequencies. "
        f"Seeds choose different ones, so select one seed to see clean lines.{marked}",
        panels=_by_frequency(spectra, keys, partial(draw_history, scale=scale), "training"),
        table=table_of_frequencies(spectra, keys),
        colours=colour_key(SEQUENTIAL, "0", number(top / 2), number(top)),
    )
    bars = Figure(
        slug="spectrum",
        title="Embedding spectrum at the selected checkpoint",
        caption=f"The same numbers, one checkpoint at a time, on one scale.{marked}",
        panels=_by_frequency(spectra, keys, partial(draw_bars, scale=scale), "checkpoint"),
        table=table_of_frequencies(spectra, keys),
    )
    return history, bars


def _clusters(clusters: Sequence[StepArray], keys: Keys) -> tuple[Figure, Figure]:
    top, span = largest([a.values for a in clusters]), time_span(clusters)
    scale = Scale("neurons", "neurons", top, span)
    marked = MARKED if keys_of(keys, clusters) else ""
    history = Figure(
        slug="neuron-clusters-history",
        title="Neurons by frequency through training",
        caption="How many neurons one frequency of a and b explains more than 85% of. Before generalisation "
        f"hardly any; afterwards clusters at the key frequencies and nowhere else.{marked}",
        panels=_by_frequency(clusters, keys, partial(draw_history, scale=scale), "training"),
        table=table_of_frequencies(clusters, keys),
        colours=colour_key(SEQUENTIAL, "0", number(top / 2), number(top)),
    )
    bars = Figure(
        slug="neuron-clusters",
        title="Neurons by frequency at the selected checkpoint",
        caption="The same numbers, one checkpoint at a time, on one scale. Neurons in no bar mix "
        f"frequencies, or are constant.{marked}",
        panels=_by_frequency(clusters, keys, partial(draw_bars, scale=scale), "checkpoint"),
        table=table_of_frequencies(clusters, keys),
    )
    return history, bars


def _by_frequency(
    arrays: Sequence[StepArray], keys: Keys, draw: partial[go.Figure], shows: Shows
) -> tuple[Panel, ...]:
    return tuple(Panel(draw(a, keys=keys.get(a.cell.index)), a.cell.label, a.cell, shows) for a in arrays)


def _circles(circles: Sequence[Circles]) -> Figure:
    return Figure(
        slug="embedding-circles",
        title="The embedding's circles",
        caption="A dot for each number n, in the plane of the embedding that belongs to a key frequency k of "
        "the training; the strongest frequencies at its end. The colour is the angle that n has if the "
        "embedding is a clock, 2πkn/p: the clean circle of a network that has found it is a colour wheel, "
        "and a cloud of mixed colours has nothing of it. The percentage is the share of the variance in "
        "the plane that frequency k holds; the plane is chosen for k, so that even an untrained embedding "
        f"has about half. {rounding_note([c.points for c in circles])}",
        panels=tuple(
            Panel(draw_circles(c), c.points.cell.label, c.points.cell, "checkpoint") for c in circles
        ),
        table=table_of_circles(circles),
        width="maps",
        colours=colour_key(CYCLIC, "angle 0", "π", "2π"),
    )


def _maps(maps: Sequence[ByteArray], keys: Keys) -> Figure:
    marked = " Triangles mark the key frequencies of that seed." if keys_of(keys, maps) else ""
    return Figure(
        slug="fourier-maps",
        title="Logits, neurons and attention by the frequencies of a and b",
        caption="The share of the variance over all pairs that each frequency of a holds together with each "
        "of b, on a logarithmic scale. The answer's waves cos 2πk(a + b)/p are on the diagonal: logits "
        "with a few dots there, at the key frequencies, are those of a network that adds. The edges k = 0 "
        "are what depends on one number alone, a grey corner the mean, and an even haze is what is "
        f"learnt pair by pair, as in memorising.{marked} {rounding_note(maps)}",
        panels=tuple(
            Panel(draw_fourier_map(a, keys.get(a.cell.index)), a.cell.label, a.cell, "checkpoint")
            for a in maps
        ),
        table=table_of_fourier_maps(maps),
        width="maps",
        choices=CHOICES,
    )
