"""How a figure was made: definitions, differences from what was published, hardware, configs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.paper.figures import Figure
from mech_grok.paper.pages.comparison import quantity_title
from mech_grok.paper.pages.onset import STRUCTURES
from mech_grok.paper.pages.quantities import QUANTITIES
from mech_grok.paper.pages.shown import ShownCell, ShownGroup, by_name
from mech_grok.paper.pages.wording import full_label, lowered, sentence, typeset
from mech_grok.paper.published import Published
from mech_grok.paper.results import Result, Training
from mech_grok.report.page import ENVIRONMENT
from mech_grok.report.render import duration

_GELU = (
    "The published runs have GELU: it is the default of the authors' TransformerConfig, which their scripts "
    "never override, and the published losses of the first hundred steps fit it and not ReLU."
)
_ALWAYS = (
    "Our first checkpoint is the untrained model, step 0. The published curves begin at step 1, after the "
    "first update.",
    "Test loss and accuracy are measured every ten steps; the published runs measured them at every step.",
)
_OF_CURVES = {
    "sr_train": "SR-train is the authors' switch, which drops the attention norms together with the MLP's.",
    "attention_entropy": "The published entropy is of examples that are not named; ours is of the training "
    "pairs.",
    "kernel_drift": "Our kernel is over the first 256 training pairs; the published one is over all of them.",
}


def differences(figure: Figure, results: Mapping[str, Result]) -> list[str]:
    """Where a figure here differs from the paper's text, or from what was published; HTML."""
    shown = [results[cell.name] for cell in figure.cells if cell.name in results]
    ours = sorted({t.config.model.activation for result in shown for t in result.trainings})
    gelu = f"{_GELU} So have ours." if ours in ([], ["gelu"]) else f"{_GELU} Ours have {', '.join(ours)}."
    of_curves = (_OF_CURVES[name] for name in figure.curves if name in _OF_CURVES)
    return [typeset(text) for text in (gelu, *_ALWAYS, *of_curves)]


def definitions(figure: Figure, values: Published) -> list[tuple[str, str]]:
    """(term, HTML) of every curve that is drawn, and of every published quantity by the paper's own rule."""
    curves = [(QUANTITIES[name].title, QUANTITIES[name].definition) for name in figure.curves]
    shown = [STRUCTURES[name] for name in figure.curves if name in STRUCTURES]
    onset = [(structure.title.partition(",")[0], structure.definition) for structure in shown]
    quantities = dict.fromkeys(entry.quantity for entry in (*values.numbers, *values.series))
    rules = [(f"{quantity_title(q)}, published", typeset(sentence(values.rules[q]))) for q in quantities]
    terms: dict[str, list[str]] = {}
    for term, text in (*curves, *onset, *rules):
        terms[text] = [*terms[text], lowered(term)] if text in terms else [term]
    return [(", ".join(names), text) for text, names in terms.items()]


# ---- trainings ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """One run of a cell, as the page lists it.

    Attributes:
        label: of the cell, HTML; `colour` its colour.
        environment: of what differs between the trainings of the page.
    """

    label: str
    colour: str
    seeds: str
    wall: str
    diverged: str
    environment: tuple[str, ...]


@dataclass(frozen=True)
class Configured:
    """The config of a cell, as YAML."""

    label: str
    colour: str
    yaml: str


@dataclass(frozen=True)
class Provenance:
    """What the trainings of a page were made with.

    Attributes:
        shared: (name, value) of what is the same for all trainings.
        varying: names of what is not.
    """

    shared: tuple[tuple[str, str], ...]
    varying: tuple[str, ...]
    trainings: tuple[Trained, ...]
    configs: tuple[Configured, ...]


def provenance(groups: Sequence[ShownGroup], results: Mapping[str, Result]) -> Provenance:
    """What the cells that were run were made with, each cell once."""
    cells = [cell for name, cell in by_name(groups).items() if name in results]
    pairs = [(cell, training) for cell in cells for training in results[cell.cell.name].trainings]
    values = {key: [str(t.environment.get(key, "not recorded")) for _, t in pairs] for key in ENVIRONMENT}
    varying = tuple(key for key, found in values.items() if len(set(found)) > 1)
    return Provenance(
        shared=tuple((key, found[0]) for key, found in values.items() if found and key not in varying),
        varying=varying,
        trainings=tuple(_trained(cell, training, varying) for cell, training in pairs),
        configs=tuple(config for cell in cells for config in _configs(cell, results[cell.cell.name])),
    )


def _trained(shown: ShownCell, training: Training, varying: Sequence[str]) -> Trained:
    wall: Any = training.environment.get("wall_seconds")
    return Trained(
        label=full_label(shown.cell),
        colour=shown.drawn.colour,
        seeds=", ".join(map(str, training.config.training.seeds)),
        wall=duration(None if wall is None else float(wall)),
        diverged=", ".join(f"seed {seed} at {step:,}" for seed, step in training.diverged.items()),
        environment=tuple(str(training.environment.get(key, "not recorded")) for key in varying),
    )


def _configs(shown: ShownCell, result: Result) -> list[Configured]:
    """Of trainings that differ in their seeds only, one config with all of the seeds."""
    alike: dict[str, list[Training]] = {}
    for training in result.trainings:
        alike.setdefault(to_yaml(_over(training, (0,))), []).append(training)
    merged = [
        _over(group[0], tuple(s for t in group for s in t.config.training.seeds)) for group in alike.values()
    ]
    return [Configured(full_label(shown.cell), shown.drawn.colour, to_yaml(config)) for config in merged]


def _over(training: Training, seeds: tuple[int, ...]) -> CellConfig:
    config = training.config
    return config.model_copy(update={"training": config.training.model_copy(update={"seeds": seeds})})
