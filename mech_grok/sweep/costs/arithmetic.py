"""What a cell's training is made of, by arithmetic: parameters, matrix products, and the work of a step.

Work is counted in floating-point operations of matrix products that take as long.
"""

from collections.abc import Sequence

from mech_grok.config import CellConfig, ModelConfig

Product = tuple[int, int, int]
"""A matrix product [rows, inputs] x [inputs, outputs] as (rows, inputs, outputs)."""

_OPERATIONS_PER_NUMBER = 70
"""What surrounds the products, as operations for every number that a product reads or writes. From steps of
one to four layers, widths 32 to 256 and p from 23 to 257, timed on one thread of an AMD EPYC beside products
alone. Of the paper's step it leaves 0.66 to products that run at their fastest; `benchmarks/results.json` has
0.77 on one thread, where products alone, in turn, take longer than that."""

_PASSES_OVER_PARAMETERS = 10
"""How often a step reads or writes each parameter: AdamW, three norms, a copy."""


def n_parameters(model: ModelConfig, p: int) -> int:
    """Parameters of one model, without the gains and biases of norms, which are a percent or two of them."""
    d, m, classes = model.d_model, model.d_mlp, p + 1
    gates = 2 if model.gated_mlp else 1
    block = 4 * d * d + gates * (d * m + m) + m * d + d
    unembedding = 0 if model.tied_unembed else d * classes
    return classes * d + 3 * d + model.n_layers * block + unembedding


def forward_products(config: CellConfig, n_pairs: int) -> list[Product]:
    """The matrix products of one seed's fast forward pass over `n_pairs` pairs."""
    model, d = config.model, config.model.d_model
    if model.n_layers == 1:  # values, and with QK-norm keys, of 2 p + 1 table rows serve every pair
        tables = [(2 * config.task.p + 1, d, d)] * (2 if model.qk_norm else 1)
        return [*tables, (n_pairs, d, d), *_mlp(model, n_pairs), (n_pairs, d, config.task.p + 1)]
    products: list[Product] = []
    for queries in _queries(model, n_pairs):
        products += [(3 * n_pairs, d, d)] * 2 + [(queries, d, d)] * 2 + _mlp(model, queries)
    return [*products, (n_pairs, d, config.task.p + 1)]


def _queries(model: ModelConfig, n_pairs: int) -> list[int]:
    """Positions that each block computes: all three, in the last block one."""
    return [3 * n_pairs] * (model.n_layers - 1) + [n_pairs]


def _mlp(model: ModelConfig, rows: int) -> list[Product]:
    into = (rows, model.d_model, model.d_mlp)
    return [into] * (2 if model.gated_mlp else 1) + [(rows, model.d_mlp, model.d_model)]


def operations(products: Sequence[Product]) -> int:
    """Floating-point operations of the products: a multiplication and an addition each."""
    return sum(2 * rows * inputs * outputs for rows, inputs, outputs in products)


def pass_work(config: CellConfig, n_pairs: int) -> float:
    """One seed's forward pass."""
    products, model = forward_products(config, n_pairs), config.model
    numbers = sum(rows * (inputs + outputs) for rows, inputs, outputs in products)
    if model.n_layers > 1:  # attention's own: queries, keys, values, and their mix
        numbers += sum((6 * n_pairs + 2 * queries) * model.d_model for queries in _queries(model, n_pairs))
    return float(operations(products) + _OPERATIONS_PER_NUMBER * numbers)


def step_work(config: CellConfig) -> float:
    """One training step of one seed, its tests included. A gradient takes two products for each forward."""
    task, training = config.task.task, config.training
    tested = pass_work(config, task.n_test) / training.evaluate_every
    touched = _PASSES_OVER_PARAMETERS * n_parameters(config.model, config.task.p)
    return 3 * pass_work(config, task.n_train) + tested + _OPERATIONS_PER_NUMBER * touched
