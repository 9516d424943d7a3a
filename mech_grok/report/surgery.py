"""The section on forked runs: both futures of every one, and who generalised first."""

from collections.abc import Sequence

from markupsafe import Markup

from mech_grok.futures import Comparison
from mech_grok.report import definitions
from mech_grok.report.cells import Cell, Run
from mech_grok.report.curves import evaluated, landmarks
from mech_grok.report.forks import Fork, compute_forks, with_parents
from mech_grok.report.lines import Lines, curve, draw_lines, thinning_note
from mech_grok.report.section import BAND, Figure, Panel, Section
from mech_grok.report.tables import Table
from mech_grok.report.theme import dark
from mech_grok.report.verdicts import difference, lapsed, retained


def surgery(runs: Sequence[Run]) -> Section | None:
    """Both futures of every forked run whose parent is there."""
    forks = compute_forks(runs)
    if not forks:
        return None
    panels = compute_both_futures(runs)
    return Section(
        slug="surgery",
        title="Surgery",
        lead="A run that goes on from another one's checkpoint under another placement, beside that one "
        "going on as it was: the same weights at the fork, and two futures.",
        figures=tuple(_figure(fork, lines) for fork, lines in zip(forks, panels, strict=True)),
        definitions=definitions.SURGERY,
    )


def compute_both_futures(runs: Sequence[Run]) -> tuple[tuple[Lines, Lines], ...]:
    """Per forked run, test loss and test accuracy of its parent, all along, and of itself."""
    return tuple(
        (
            _lines("Test loss", "loss (nats)", "test_loss", pair, fork=run.config.first_step, log=True),
            _lines("Test accuracy", "accuracy", "test_accuracy", pair, fork=run.config.first_step),
        )
        for cell, run, parent_cell, parent in with_parents(runs)
        for pair in [((parent_cell, parent), (cell, run))]
    )


def _lines(
    title: str, unit: str, name: str, pair: Sequence[tuple[Cell, Run]], *, fork: int, log: bool = False
) -> Lines:
    return Lines(
        title,
        unit,
        tuple(curve(cell, evaluated(run)[name], "test", keep={fork, *landmarks(run)}) for cell, run in pair),
        log=log,
        y_range=None if log else (-0.03, 1.03),
        marks=((fork, "fork"),),
    )


def _figure(fork: Fork, panels: Sequence[Lines]) -> Figure:
    return Figure(
        slug=f"surgery-{fork.cell.index}",
        title=Markup(fork.cell.label) + f": {fork.verdict}",
        caption=f"{_swatch(fork.parent)} goes on as it was, {_swatch(fork.cell)} goes on changed. {BAND} "
        f"{thinning_note(panels)}",
        panels=tuple(Panel(draw_lines(p).update_layout(height=300), p.title, fork.cell) for p in panels),
        table=table_of_futures(fork),
        width="large",
    )


def _swatch(cell: Cell) -> str:
    colours = f"--light:{cell.colour};--dark:{dark(cell.colour)}"
    return f'<span class="swatch" style="{colours}"></span>{cell.label}'


def table_of_futures(fork: Fork) -> Table:
    """One row per seed: by both rules when parent and child generalised and what lies between, then whether
    a network that had generalised stayed so, and what its parent did in the same steps."""
    rows = []
    for seed, accuracy in fork.futures.accuracy.items():
        kept = fork.futures.retention.get(seed)
        words = (retained(kept), lapsed(kept.parent)) if kept else ("&ndash;", "&ndash;")
        rows.append((str(seed), *_compared(accuracy), *_compared(fork.futures.loss[seed]), *words))
    rules = ("test accuracy ≥ 0.995", "test loss ≤ 0.01")
    columns = (f"{rule}: {who}" for rule in rules for who in ("parent", "child", "difference"))
    after = (f"test accuracy after the fork: {who}" for who in ("child", "parent"))
    note = (
        f"First evaluated step; {fork.cell.label}. The last two columns: seeds that had generalised before."
    )
    return Table(("seed", *columns, *after), tuple(rows), Markup(note))


def _compared(c: Comparison) -> tuple[str, str, str]:
    child = "&ndash;" if c.before_fork else _step(c.child, c.child_last)
    return _step(c.parent, c.parent_last), child, difference(c)


def _step(step: int | None, last: int) -> str:
    return f"not by {last:,}" if step is None else f"{step:,}"
