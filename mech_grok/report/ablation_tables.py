"""The numbers under the figures of the ablation grid."""

from collections.abc import Sequence

import numpy as np

from mech_grok.report.ablation_arrays import Kind, Quantity
from mech_grok.report.checkpoints import StepArray
from mech_grok.report.tables import Table, number, picked

_MEAN = "Mean over seeds; a dash where the intervention does not apply."


def table_of_grid(quantities: Sequence[Quantity], arrays: Sequence[StepArray]) -> Table:
    """One row per cell, quantity and intervention at the last checkpoint, one column per set of pathways."""
    rows = [
        (a.cell.label, q.name, str(name), *map(number, last[i, j]))
        for a in arrays
        for last in [a.mean[-1]]
        for i, q in enumerate(quantities)
        for j, name in enumerate(a.coords[1])
        if np.isfinite(last[i, j]).any()
    ]
    header = ("cell", "quantity", "intervention", *map(str, arrays[0].coords[2]))
    return Table(header, tuple(rows), f"{_MEAN} Last checkpoint.")


def table_of_history(kind: Kind, quantity: Quantity, arrays: Sequence[StepArray]) -> Table:
    """One row per cell, intervention and set of pathways, of the first quantity; a column per chosen step."""
    picks = picked([a.steps for a in arrays])
    rows = []
    for a in arrays:
        columns, mean = [np.flatnonzero(a.steps == pick) for pick in picks], a.mean[:, 0]
        for j, k in zip(*np.nonzero(np.isfinite(mean).any(0)), strict=True):
            values = (number(float(mean[at[0], j, k])) if at.size else "&ndash;" for at in columns)
            rows.append((a.cell.label, str(a.coords[1][j]), str(a.coords[2][k]), *values))
    header = ("cell", "intervention", "pathways", *(f"step {step:,}" for step in picks))
    return Table(header, tuple(rows), f"{kind.capitalize()} in {quantity.name} ({quantity.units}). {_MEAN}")


def table_of_scales(arrays: Sequence[StepArray]) -> Table:
    """One row per cell, set of pathways and split at the last checkpoint, one column per factor."""
    rows = [
        (a.cell.label, str(name), str(split), *map(number, last[i, j]))
        for a in arrays
        for last in [a.mean[-1]]
        for i, name in enumerate(a.coords[0])
        for j, split in enumerate(a.coords[1])
    ]
    header = ("cell", "input", "split", *(f"times {factor:g}" for factor in map(float, arrays[0].coords[2])))
    return Table(header, tuple(rows), "Change in loss (nats), mean over seeds, last checkpoint.")
