"""How much disk a run directory takes, as a file system with blocks of 4 KiB counts it.

Most files of a run are chunks of arrays smaller than a block, in folders of their own that take one each.
"""

from collections.abc import Sequence

from mech_grok.config import CellConfig
from mech_grok.sweep.costs.arithmetic import n_parameters

BLOCK = 4096

_COMPRESSED = 0.93
"""What compression leaves of measured numbers."""

_BLOCKS_PER_ARRAY = 4
_LABEL_ARRAYS = 5
_METRIC_COLUMNS, _NORM_COLUMNS = 7, 3

Array = tuple[int, int]
"""An array of a store: numbers in bytes of one chunk, and its dimensions besides seed and step."""


def training_bytes(config: CellConfig) -> int:
    """Weights, the optimiser states that are kept, metrics and norms, attention factors that are solved."""
    return _checkpoint_bytes(config) + _row_bytes(config) + _factor_bytes(config)


def _checkpoint_bytes(config: CellConfig) -> int:
    training = config.training
    of_number = 4 if training.dtype == "float32" else 8
    weights = blocks(n_parameters(config.model, config.task.p) * of_number * len(training.seeds))
    steps = config.checkpoint_steps
    first = 0 if config.surgery is None else config.surgery.optimiser == "keep"
    kept = [s for s in steps[1:] if s == steps[-1] or s % training.optimiser_state_every == 0]
    return weights * (len(steps) + 2 * (len(kept) + first))


def _row_bytes(config: CellConfig) -> int:
    """Metrics and norms: a chunk holds one checkpoint interval."""
    training, layers = config.training, config.model.n_layers
    rows = training.steps - config.first_step
    rows_per_chunk = min(training.checkpoint_every, rows)
    chunk = 8 * rows_per_chunk * len(training.seeds)
    parts = 3 + 7 * layers  # of the model, for norms by part: see `parameter_group`
    n_chunks = -(-rows // rows_per_chunk)
    metrics = store_bytes([(chunk, 0)] * _METRIC_COLUMNS, n_chunks)
    return metrics + store_bytes([(chunk * parts, 1)] * _NORM_COLUMNS, n_chunks)


def _factor_bytes(config: CellConfig) -> int:
    """`attention_factor.zarr`: factor, target and entropy of every layer and head."""
    follow = config.training.follow_entropy
    if follow is None:
        return 0
    solutions = (config.training.steps - config.first_step) // follow.every + 1
    chunk = 8 * len(config.training.seeds) * config.model.n_layers * config.model.n_heads
    return store_bytes([(chunk, 2)] * 3, solutions)


def store_bytes(arrays: Sequence[Array], n_chunks: int) -> int:
    """A Zarr store of arrays with `n_chunks` chunks each; a further dimension is a folder in every chunk."""
    per_chunk = sum(blocks(int(_COMPRESSED * size)) + BLOCK * dims for size, dims in arrays)
    return n_chunks * per_chunk + BLOCK * _BLOCKS_PER_ARRAY * (len(arrays) + _LABEL_ARRAYS)


def blocks(size: int) -> int:
    """Bytes in whole blocks."""
    return -(-size // BLOCK) * BLOCK
