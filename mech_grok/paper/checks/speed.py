"""How soon networks generalise: the claims on placements, and on settings of the optimiser."""

from collections.abc import Callable, Sequence
from itertools import chain

from mech_grok.paper.cells import (
    FOUR,
    WITHOUT_EPS,
    PaperCell,
    Setting,
    learning_rates,
    placed,
    readout_scales,
    weight_decays,
)
from mech_grok.paper.checks.evidence import Need, Part, by_majority, finding, listed
from mech_grok.paper.checks.marks import GENERALISED, slingshots
from mech_grok.paper.checks.onsets import (
    Naming,
    full_label,
    happens,
    never_part,
    onset,
    order_part,
    published_text,
)
from mech_grok.paper.claims import Finding, Verdict
from mech_grok.paper.measures import Measured, last_step
from mech_grok.paper.published import published

Check = Callable[[Measured], Finding]

MANY_SLINGSHOTS = 3
"""Of one network, on average over seeds."""

WITHOUT_PREDICTION: tuple[tuple[str, Setting], ...] = (("training.subtract_initial_prediction", True),)


def named(word: str, key: str, base: float) -> Naming:
    """Names cells by one setting: `weight decay 0.1`."""
    return lambda cell: f"{word} {dict(cell.settings).get(key, base):g}"


by_alpha = named("alpha", "model.readout_scale", 1.0)
by_lr = named("lr", "optimiser.lr", 1e-3)
by_decay = named("weight decay", "optimiser.weight_decay", 1.0)


def published_order(figure: str, cells: Sequence[PaperCell]) -> list[list[PaperCell]]:
    """These cells of a figure in the order in which they are published to generalise.

    Those that were published not to are one group at the end.
    """
    by_name = {cell.name: cell for cell in cells}
    orders = [order.first_to_last for order in published().of(figure).orders]
    (order,) = (groups for groups in orders if set(chain(*groups)) == set(by_name))
    return [[by_name[name] for name in group] for group in order]


def generalise_in_published_order(
    figure: str, cells: Sequence[PaperCell], label: Naming = full_label
) -> Check:
    """A check of cells that are claimed to generalise in the order in which they did."""

    def check(measured: Measured) -> Finding:
        order = published_order(figure, cells)
        part = order_part(order, measured, label=label)
        needs = [Need(tuple(cells), "test_accuracy")]
        return finding(
            measured, needs, [part], [published_text(figure, list(chain(*order)), measured, label)]
        )

    return check


RMS = (*placed(FOUR[:-1], model__norm="rms"), *placed(FOUR[-1:]))
DEEP = placed(FOUR, model__n_layers=3, model__d_model=64)

placements = generalise_in_published_order("fig2", placed(FOUR))
rms_placements = generalise_in_published_order("fig7", RMS)
larger_learning_rates = generalise_in_published_order("fig4", learning_rates(), by_lr)
smaller_scales_with_falling_rate = generalise_in_published_order("fig5", readout_scales(True), by_alpha)
larger_scales_with_held_rate = generalise_in_published_order("fig5", readout_scales(False), by_alpha)


def norm_of_values(measured: Measured) -> Finding:
    """A^v comes before M+A*, A*, No LN and A^qk; M+A^v comes before M."""
    both, mlp, values, *others = cells = placed(("M+A^v", "M", "A^v", "M+A*", "A*", "No LN", "A^qk"))
    parts = [order_part([[both], [mlp]], measured), order_part([[values], others], measured)]
    return finding(measured, [Need(cells, "test_accuracy")], parts, [published_text("fig3", cells, measured)])


def more_weight_decay(measured: Measured) -> Finding:
    """More of it comes first, and too little never."""
    cells = weight_decays()
    groups = published_order("fig4", cells)
    parts = [order_part(groups, measured, label=by_decay), never_part(groups[-1], measured, by_decay)]
    steps = published_text("fig4", list(chain(*groups)), measured, by_decay)
    return finding(measured, [Need(cells, "test_accuracy")], parts, [steps])


def without_epsilon_or_prediction(measured: Measured) -> Finding:
    """Both orders of readout scales stay without epsilon, and with the initial prediction subtracted, too."""
    settings = {"eps = 0": WITHOUT_EPS, "prediction subtracted too": WITHOUT_EPS + WITHOUT_PREDICTION}
    parts, cells = [], []
    for name, others in settings.items():
        for rate, falls in (("lr falling", True), ("lr held", False)):
            changed = dict(zip(readout_scales(falls), readout_scales(falls, *others), strict=True))
            order = published_order("fig5", list(changed))
            groups = [[changed[cell] for cell in group] for group in order]
            verdict = order_part(groups, measured).verdict
            parts.append(Part(verdict, _sweep_text(f"{name}, {rate}", verdict, groups, measured)))
            cells += changed.values()
    return finding(measured, [Need(tuple(cells), "test_accuracy")], parts)


def _sweep_text(
    which: str, verdict: Verdict, groups: Sequence[Sequence[PaperCell]], measured: Measured
) -> str:
    """The verdict on one order, and the steps of the means; empty if none was run."""
    times = [(cell, onset(cell, GENERALISED, measured)) for group in groups for cell in group]
    steps = [f"{by_alpha(cell)} {when.text}" for cell, when in times if when is not None]
    return f"{which}: {verdict} ({', '.join(steps)})." if steps else ""


def three_layers(measured: Measured) -> Finding:
    """The order of one layer, and at every placement that generalises at least three slingshots a network."""
    slung = [x for cell in DEEP for x in _slings_often(cell, measured)]
    curves = [(cell, measured.get((cell.name, "test_accuracy"))) for cell in DEEP]
    counts = [(cell.label, None if curve is None else slingshots(curve)) for cell, curve in curves]
    text = listed("Slingshots of a network (its test accuracy falls by over 0.1 after 0.995)", counts)
    parts = [order_part(published_order("fig8", DEEP), measured), Part(by_majority(slung), text)]
    return finding(measured, [Need(DEEP, "test_accuracy")], parts)


def _slings_often(cell: PaperCell, measured: Measured) -> list[bool | None]:
    """Empty for a cell that does not generalise."""
    curve = measured.get((cell.name, "test_accuracy"))
    if curve is None:
        return [None]
    if slingshots(curve) >= MANY_SLINGSHOTS:
        return [True]
    if last_step(curve) < published().steps:
        return [None]
    return [False] if happens(onset(cell, GENERALISED, measured)) else []
