"""Every quantity that the report follows through training as a curve, one function per figure.

Each returns its panels, none where no run has the quantity.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import chain

import numpy as np
import xarray as xr

from mech_grok.generalisation import generalisation_steps
from mech_grok.report.cells import Cell, Run, identify, with_probe
from mech_grok.report.lines import Curve, Lines, curve, same_range
from mech_grok.report.phases import phases_of

LOG_3 = (float(np.log(3)), "ln 3, uniform")


def compute_learning(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """Loss and accuracy, on train at every step, on test at the steps where it was evaluated."""
    cells = list(zip(identify(runs), runs, strict=True))
    loss = [c for cell, run in cells for c in _train_and_test(cell, run, "loss")]
    accuracy = [c for cell, run in cells for c in _train_and_test(cell, run, "accuracy")]
    return (
        Lines("Loss", "loss (nats)", tuple(loss), log=True),
        Lines("Accuracy", "accuracy", tuple(accuracy), y_range=(-0.03, 1.03)),
    )


def _train_and_test(cell: Cell, run: Run, quantity: str) -> tuple[Curve, Curve]:
    named = landmarks(run)
    return (
        curve(cell, run.metrics[f"train_{quantity}"], "train", keep=named),
        curve(cell, evaluated(run)[f"test_{quantity}"], "test", keep=named),
    )


def compute_dynamics(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """L2 norms of all trained weights, of their gradient, and of the update, of every step."""
    data = [(cell, run.metrics, landmarks(run)) for cell, run in zip(identify(runs), runs, strict=True)]
    return tuple(
        Lines(
            title,
            f"{title.lower()} (L2)",
            tuple(curve(cell, metrics[name], keep=named) for cell, metrics, named in data),
            log=True,
        )
        for name, title in (
            ("weight_norm", "Weight norm"),
            ("grad_norm", "Gradient norm"),
            ("update_norm", "Update norm"),
        )
    )


def evaluated(run: Run) -> xr.Dataset:
    """The metrics of a run at the steps where the test set was evaluated."""
    return run.metrics.isel(step=np.flatnonzero(run.metrics["evaluated"].values))


def landmarks(run: Run) -> frozenset[int]:
    """The steps that the page speaks of: when each seed, and the mean, met a rule, and where phases begin."""
    known = generalisation_steps(run.metrics)
    by_seed = [step for rule in (known.memorisation, known.accuracy, known.loss) for step in rule.values()]
    boundaries = [step for phases in phases_of(run).values() for step in astuple(phases)]
    those = (*by_seed, known.mean_accuracy, known.first_perfect, *boundaries)
    return frozenset(step for step in those if step is not None)


def compute_head_averaged_entropy(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """The paper's attention entropy: of the head-averaged pattern, mean over all query rows and pairs."""
    cells = with_probe(runs, "attention")
    curves = [
        curve(cell, d["entropy_headavg_allrows"].sel(split="all").mean("layer", skipna=False))
        for cell, d in cells
    ]
    panel = Lines("Head-averaged pattern, all rows", "entropy (nats)", tuple(curves), levels=(LOG_3,))
    return same_range([panel], include=(0.0, LOG_3[0])) if curves else ()


def compute_head_entropies(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """Entropy of each head's row at '=', the only row that the answer is read from; one panel a head."""
    panels: dict[str, list[Curve]] = {}
    for cell, data in with_probe(runs, "attention"):
        entropy = data["entropy_per_head"].sel(split="all").isel(query=-1)
        for layer, head in np.ndindex(entropy.sizes["layer"], entropy.sizes["head"]):
            name = f"Layer {layer}, head {head}"
            panels.setdefault(name, []).append(curve(cell, entropy.isel(layer=layer, head=head)))
    lines = [Lines(name, "entropy (nats)", tuple(c), levels=(LOG_3,)) for name, c in panels.items()]
    return same_range(lines, include=(0.0, LOG_3[0]))


def compute_concentration(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """C_Fourier of the embedding, and the two variances that it is the ratio of."""
    cells = with_probe(runs, "fourier")
    panels = (
        ("c_fourier", "C<sub>Fourier</sub>", "C<sub>Fourier</sub>"),
        ("c_fourier_between", "Between frequencies", "variance"),
        ("c_fourier_within", "Within a frequency", "variance"),
    )
    return _panels(
        Lines(title, unit, tuple(curve(cell, d[name]) for cell, d in cells)) for name, title, unit in panels
    )


def compute_attribution(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """Direct logit attribution to the right answer; one panel a component, all on one scale."""
    panels: dict[str, list[Curve]] = {}
    for cell, data in with_probe(runs, "attribution"):
        for component in data["component"].values:
            attribution = data["logit_attribution"].sel(component=component)
            panels.setdefault(str(component), []).extend(_both_splits(cell, attribution))
    lines = [Lines(component_title(name), "logit", tuple(c)) for name, c in panels.items()]
    return same_range(lines, include=(0.0,))


def component_title(name: str) -> str:
    """A TransformerLens component label in words: `L0H1` is `Layer 0, head 1`."""
    if name.startswith("L") and "H" in name:
        layer, _, head = name[1:].partition("H")
        return f"Layer {layer}, head {head}"
    if name.endswith("_mlp_out"):
        return f"Layer {name.removesuffix('_mlp_out')}, MLP"
    return {"embed": "Token embedding", "pos_embed": "Position embedding", "bias": "Biases"}.get(name, name)


def compute_shortcut(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """Loss without the MLP input's scale, beside the plain loss (dotted); one panel a split."""
    cells = with_probe(runs, "shortcut")
    titles = {"test": "Test set", "train": "Training set"}
    panels = [
        Lines(
            title,
            "loss (nats)",
            tuple(chain.from_iterable(_sr_pair(*cell, split) for cell in cells)),
            log=True,
        )
        for split, title in titles.items()
    ]
    switch = [
        c
        for cell, data in cells
        if "sr_loss_reference_switch" in data
        for c in _both_splits(cell, data["sr_loss_reference_switch"])
    ]
    panels.append(Lines("All other norms removed too", "loss (nats)", tuple(switch), log=True))
    return _panels(panels)


def _sr_pair(cell: Cell, data: xr.Dataset, split: str) -> tuple[Curve, Curve]:
    return (
        curve(cell, data["loss"].sel(split=split), split, reference=True),
        curve(cell, data["sr_loss"].sel(split=split), split),
    )


def compute_factors(runs: Sequence[Run]) -> tuple[Lines, ...]:
    """Attention factors solved for in training; entropies reached and (dotted) aimed at; means of heads."""
    data = [
        (cell, run.attention_factors.mean(("layer", "head"), skipna=False))
        for cell, run in zip(identify(runs), runs, strict=True)
        if run.attention_factors is not None and run.attention_factors.sizes["step"]
    ]
    factors = [curve(cell, d["factor"]) for cell, d in data]
    entropies = [
        c for cell, d in data for c in (curve(cell, d["target"], reference=True), curve(cell, d["entropy"]))
    ]
    return _panels(
        [
            Lines("Factor", "factor", tuple(factors), log=True),
            Lines("Entropy", "entropy (nats)", tuple(entropies), levels=(LOG_3,)),
        ]
    )


def farthest_from_target(runs: Sequence[Run]) -> float:
    """The largest difference (nats) between an entropy reached and its target, of any head, seed and step."""
    known = [run.attention_factors for run in runs if run.attention_factors is not None]
    misses = [np.abs((d["entropy"] - d["target"]).values).ravel() for d in known]
    finite = [m[np.isfinite(m)] for m in misses]
    return float(np.concatenate(finite).max(initial=0.0)) if finite else 0.0


def _both_splits(cell: Cell, data: xr.DataArray) -> list[Curve]:
    return [curve(cell, data.sel(split=split), split) for split in ("train", "test")]


def _panels(panels: Iterable[Lines]) -> tuple[Lines, ...]:
    return tuple(p for p in panels if p.curves)
