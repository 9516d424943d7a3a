"""The section on progress measures: the circuit in the logits before the accuracy shows it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mech_grok.report import definitions
from mech_grok.report.cells import Run, with_probe
from mech_grok.report.key_amplitudes import AMPLITUDE, amplitude_figures
from mech_grok.report.lines import Lines, curve
from mech_grok.report.probe_curves import Tracked, both_splits, compute_tracked
from mech_grok.report.section import BAND, Section, lines_figure

SHARES = (
    Tracked("trig_loss", "Trigonometric loss", "loss (nats)"),
    Tracked(
        "restricted_variance", "Logits on the key frequencies", "share of variance", y_range=(-0.03, 1.03)
    ),
    Tracked("restricted_accuracy", "Accuracy of the restricted logits", "accuracy", y_range=(-0.03, 1.03)),
)

MEASURES = (("restricted_loss", "test"), ("excluded_loss", "train"))
"""Each on the pairs on which it says something: what generalises on test, what memorises on train."""


def progress(runs: Sequence[Run]) -> Section | None:
    """Restricted, excluded and trigonometric loss, and the amplitudes of the key frequencies."""
    panels = compute_progress(runs)
    if not panels:
        return None
    figures = [
        lines_figure(
            "progress",
            "Restricted and excluded loss, beside train and test loss",
            "In grey: train loss (dashed) and test loss (solid). In colour: excluded loss on the training "
            "pairs (dashed) and restricted loss on the test pairs (solid). While a network memorises, the "
            "excluded loss falls with the train loss. While the circuit forms, the restricted loss falls and "
            "the excluded loss rises, although the test loss is still high. At the end the test loss comes "
            f"down to the restricted loss.{_without(runs, panels)} {BAND}",
            panels,
            width="large",
            scale="log",
        ),
        lines_figure(
            "key-frequency-logits",
            "What the key frequencies alone achieve",
            "The trigonometric loss is that of ideal cosines of a + b &minus; c with the network's own "
            "amplitudes; the restricted accuracy is that of all that the logits have on the key frequencies. "
            f"Look for how early they are good, compared with the test accuracy. {BAND}",
            compute_tracked(runs, "progress", SHARES),
        ),
        *amplitude_figures(runs),
    ]
    measures = (name for name, _ in MEASURES)
    names = ["loss_over_answers", *measures, *(t.variable for t in SHARES), AMPLITUDE]
    return Section(
        slug="progress-measures",
        title="Progress measures",
        lead="A circuit for modular addition forms before the test accuracy shows it. The restricted loss "
        "keeps only the key frequencies of a + b in the logits; the excluded loss takes just them away. Key "
        "frequencies are those of the last checkpoint, all along.",
        figures=tuple(figures),
        definitions=definitions.recorded([data for _, data in with_probe(runs, "progress")], names),
    )


def compute_progress(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """A panel for each cell with key frequencies: its losses in grey, its progress measures in colour."""
    panels = []
    for cell, data in with_probe(runs, "progress"):
        if np.isfinite(data["restricted_loss"]).any():
            plain = [
                replace(c, quantity="loss", grey=True) for c in both_splits(cell, data["loss_over_answers"])
            ]
            own = [
                replace(curve(cell, data[name].sel(split=s), s), quantity=name.replace("_", " "))
                for name, s in MEASURES
            ]
            panels.append(Lines(cell.label, "loss (nats)", (*plain, *own), log=True, cell=cell))
    return tuple(panels)


def _without(runs: Sequence[Run], panels: Sequence[Lines]) -> str:
    """Which cells have no panel, in words."""
    shown = {panel.cell for panel in panels}
    lacking = [cell.label for cell, _ in with_probe(runs, "progress") if cell not in shown]
    return f" Without key frequencies, and so not shown: {', '.join(lacking)}." if lacking else ""
