"""The section on what makes the right answer's logit: by component and head, by frequency, and early on."""

from collections.abc import Mapping, Sequence

from mech_grok.report import curves, definitions
from mech_grok.report.by_frequency import Scale, draw_history, table_of_frequencies
from mech_grok.report.cells import Run, with_probe
from mech_grok.report.checkpoints import StepArray, largest, step_array, time_span
from mech_grok.report.key_marks import MARKED, compute_key_frequencies, keys_of
from mech_grok.report.lines import Lines
from mech_grok.report.probe_curves import Tracked, by_label
from mech_grok.report.section import BAND, Figure, Panel, Section, colour_key, lines_figure
from mech_grok.report.style import SEQUENTIAL
from mech_grok.report.tables import number

LENS = Tracked("logit_lens_loss", "", "loss (nats)", log=True)


def attribution(runs: Sequence[Run]) -> Section | None:
    """Direct logit attribution by component and frequency, and the logit lens."""
    by_frequency, keys = compute_frequencies(runs), compute_key_frequencies(runs)
    figures = (*_components(runs), *_frequencies(by_frequency, keys), *_lens(runs))
    if not figures:
        return None
    datasets = [data for name in ("attribution", "logit_lens") for _, data in with_probe(runs, name)]
    return Section(
        slug="logit-attribution",
        title="Direct logit attribution",
        lead="The logits are a sum over what each component writes to the residual stream. This is each "
        "part's share of the right answer's logit, above the mean over the answers.",
        figures=figures,
        definitions=(
            *definitions.ATTRIBUTION,
            *definitions.recorded(datasets, ["frequency_attribution", LENS.variable]),
        ),
        arrays=(*by_frequency, *keys_of(keys, by_frequency)),
    )


def _components(runs: Sequence[Run]) -> list[Figure]:
    panels = curves.compute_attribution(runs)
    if not panels:
        return []
    figure = lines_figure(
        "attribution",
        "Contribution to the right logit, by component and head",
        f"Look for the component that takes over when the network generalises. Heads are interchangeable "
        f"between seeds. {BAND}",
        panels,
        width="small",
        scale="common",
    )
    return [figure]


def compute_frequencies(runs: Sequence[Run]) -> tuple[StepArray, ...]:
    """Logit attribution of the frequencies from 1 on, over test pairs: [seed, step, frequency]; one per cell.

    Frequency 0, which holds all that is on no frequency of the answer, is left out.
    """
    return tuple(
        step_array(
            "frequency_attribution",
            cell,
            data["frequency_attribution"].sel(split="test", drop=True).sel(frequency=slice(1, None)),
        )
        for cell, data in with_probe(runs, "attribution")
        if "frequency_attribution" in data
    )


def _frequencies(arrays: Sequence[StepArray], keys: Mapping[int, StepArray]) -> list[Figure]:
    if not arrays:
        return []
    top = largest([a.values for a in arrays])
    scale = Scale("logit", "logits", top, time_span(arrays))
    marked = MARKED if keys_of(keys, arrays) else ""
    figure = Figure(
        slug="frequency-attribution",
        title="Contribution to the right logit, by frequency",
        caption="How much of the right answer's logit, over the test pairs, lies on the cosine and sine of "
        "the answer at each frequency k. The stronger the colour, the larger; without colour it is nothing, "
        f"or less. A network that generalises puts it all on a few frequencies.{marked} Seeds choose "
        "different ones, so select one seed to see clean lines.",
        panels=tuple(
            Panel(draw_history(a, scale, keys.get(a.cell.index)), a.cell.label, a.cell) for a in arrays
        ),
        table=table_of_frequencies(arrays, keys),
        colours=colour_key(SEQUENTIAL, "0", number(top / 2), f"{number(top)} logits"),
    )
    return [figure]


def _lens(runs: Sequence[Run]) -> list[Figure]:
    panels = compute_lens(runs)
    if not panels:
        return []
    figure = lines_figure(
        "logit-lens",
        "Loss when the residual stream is read early",
        "The unembedding is applied to what the residual stream holds before attention, before the MLP, and "
        "at the end, which is the model itself. Look for where in the model the answer is first there. A "
        f"loss above ln(p + 1) means that the stream so far points to wrong answers. {BAND}",
        panels,
        scale="log",
    )
    return [figure]


def compute_lens(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """Loss of the logit lens, a panel for each place at which the residual stream is read."""
    return by_label(runs, "logit_lens", LENS, "read_from", place_title)


def place_title(name: str) -> str:
    """A place in the residual stream in words: `0_mid` is `Layer 0, before the MLP`."""
    layer, _, place = name.partition("_")
    words = {"pre": "before attention", "mid": "before the MLP"}
    return f"Layer {layer}, {words[place]}" if place in words and layer.isdigit() else "The whole model"
