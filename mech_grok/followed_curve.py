"""The entropies that a run is to follow: a number, those of another run's attention, or a CSV file's."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.run import Run, beside
from mech_grok.training.entropy_curve import MOST_ENTROPY, EntropyCurve

_INDEX = ("seed", "layer", "head")
_COLUMNS = (*_INDEX, "step", "entropy")

Index = tuple[int | None, int | None, int | None]
"""Seed, layer and head; None where one curve is for all of them."""

Curves = Mapping[Index, Mapping[int, float]]
"""Whose curve it is -> step -> entropy (nats)."""


def curve_to_follow(path: Path, config: CellConfig) -> EntropyCurve | None:
    """What the config of the run at `path` says that it follows; None if it follows nothing.

    Raises:
        UserError: there is no such run or file, or no entropies for this run's seeds, layers and heads in it.
    """
    follow = config.training.follow_entropy
    if follow is None:
        return None
    if not isinstance(follow.of, str):
        everywhere = (1, len(config.training.seeds), *_size(config))
        return EntropyCurve(np.array([config.first_step]), np.full(everywhere, follow.of))
    source = beside(path, follow.of)
    if source.is_dir():
        return curve_of_run(source, config)
    if source.is_file():
        return curve_of_csv(source, config)
    raise UserError(f"training.follow_entropy.of: {source} is neither a run directory nor a CSV file")


def curve_of_run(source: Path, config: CellConfig) -> EntropyCurve:
    """The entropies at '=' of a run's heads, mean over its training pairs, from its probe `attention`.

    A seed that both runs have follows its own; another one follows the mean over the seeds there.

    Args:
        source: the run directory.
        config: of the run that follows.

    Raises:
        UserError: it is no run, has no such probe, other layers or heads, or an entropy that is nan.
    """
    run = Run(source)
    recorded = run.probe("attention").entropy_per_head.sel(split="train", query="=")
    size, needed = (recorded.sizes["layer"], recorded.sizes["head"]), _size(config)
    if size != needed:
        raise UserError(
            f"{source}: has {size[0]} x {size[1]} layers and heads, this run {needed[0]} x {needed[1]}; "
            "allowed: a run with as many, or a CSV file with one curve for all"
        )
    rows = [
        recorded.sel(seed=seed) if seed in run.seeds else recorded.mean("seed")
        for seed in config.training.seeds
    ]
    values = np.stack([row.transpose("step", "layer", "head").values for row in rows], axis=1)
    try:
        return EntropyCurve(recorded.step.values, values.astype(float))
    except ValueError as error:
        raise UserError(f"{source}: probe attention: {error}") from None


def curve_of_csv(source: Path, config: CellConfig) -> EntropyCurve:
    """Entropies from a file with columns step, entropy (nats) and, if they differ, seed, layer, head.

    Raises:
        UserError: a column, a line or a whole curve is missing, wrong, or there twice; the line is named.
    """
    curves = _read(source, config)
    layers, heads = _size(config)
    wanted = [
        [[_curve_of(curves, (seed, layer, head), source) for head in range(heads)] for layer in range(layers)]
        for seed in config.training.seeds
    ]
    # All curves on all steps: linear in between, so that nothing is lost.
    steps = np.array(sorted({step for curve in curves.values() for step in curve}))
    values = np.array(
        [[[_on(steps, curve) for curve in of_layer] for of_layer in of_seed] for of_seed in wanted]
    )
    return EntropyCurve(steps, np.moveaxis(values, -1, 0))


def _size(config: CellConfig) -> tuple[int, int]:
    return config.model.n_layers, config.model.n_heads


def _on(steps: np.ndarray, curve: Mapping[int, float]) -> np.ndarray:
    known = sorted(curve)
    return np.interp(steps, known, [curve[step] for step in known])


def _curve_of(curves: Curves, index: tuple[int, int, int], source: Path) -> Mapping[int, float]:
    """The curve of one seed, layer and head; all curves leave the same columns out."""
    (given,) = {tuple(x is not None for x in key) for key in curves}
    key = tuple(i if is_given else None for i, is_given in zip(index, given, strict=True))
    if key not in curves:
        missing = ", ".join(f"{n} {i}" for n, i in zip(_INDEX, key, strict=True) if i is not None)
        raise UserError(f"{source}: no entropies for {missing}")
    return curves[key]  # pyright: ignore[reportArgumentType]


def _read(source: Path, config: CellConfig) -> Curves:
    curves: dict[Index, dict[int, float]] = defaultdict(dict)
    for line, row in _rows(source):
        at = f"{source} line {line}"
        step, entropy = _whole(row, "step", at), _entropy(row, at)
        seed, layer, head = (_whole(row, name, at) if name in row else None for name in _INDEX)
        _check_index(at, layer, head, config)
        curve = curves[seed, layer, head]
        if step in curve:
            raise UserError(f"{at}: step {step} is there twice for the same seed, layer and head")
        curve[step] = entropy
    if not curves:
        raise UserError(f"{source}: no line with an entropy in it")
    return curves


def _check_index(at: str, layer: int | None, head: int | None, config: CellConfig) -> None:
    for name, value, n in zip(("layer", "head"), (layer, head), _size(config), strict=True):
        if value is not None and not 0 <= value < n:
            raise UserError(f"{at}: {name} {value}; allowed: 0 to {n - 1}")


def _rows(source: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of every line after the header."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot read it as CSV ({error})") from None
    reader = csv.reader(text.splitlines())
    columns = [name.strip() for name in next(reader, [])]
    _check_columns(source, columns)
    for row in reader:
        if any(cell.strip() for cell in row):
            if len(row) != len(columns):
                raise UserError(
                    f"{source} line {reader.line_num}: {len(row)} values for {len(columns)} columns"
                )
            yield reader.line_num, dict(zip(columns, (cell.strip() for cell in row), strict=True))


def _check_columns(source: Path, columns: Sequence[str]) -> None:
    wrong = [name for name in columns if name not in _COLUMNS or columns.count(name) > 1]
    missing = {"step", "entropy"} - set(columns)
    if wrong or missing:
        problem = f"column '{wrong[0]}'" if wrong else f"no column '{min(missing)}'"
        raise UserError(
            f"{source} line 1: {problem}; it has step, entropy and, if they differ, seed, layer, head"
        )


def _whole(row: Mapping[str, str], name: str, at: str) -> int:
    if not row[name].isdecimal():
        raise UserError(f"{at}: {name} '{row[name]}' is not a whole number from 0 on")
    return int(row[name])


def _entropy(row: Mapping[str, str], at: str) -> float:
    try:
        value = float(row["entropy"])
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UserError(f"{at}: entropy '{row['entropy']}' is not a number")
    if not 0 <= value <= MOST_ENTROPY + 1e-6:
        raise UserError(f"{at}: entropy {value:g}; allowed: 0 to log 3 = {MOST_ENTROPY:.6g} nats")
    return value
