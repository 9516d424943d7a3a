"""Made-up values of the probes that only some runs have, in the shapes that real ones record."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from fake_runs import SPLITS, FakeRun

PARTS = ["embed", "pos_embed", "0_norms", "0_W_Q", "0_mlp_out", "unembed"]
PLACES = ["0_pre", "0_mid", "final_post"]
KEYS = {456: (3, 7, 44), 789: (5, 7)}
"""Seed -> its key frequencies; other seeds have none."""

_QUANTITIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "progress": {
        **dict.fromkeys(
            ("loss_over_answers", "restricted_loss", "excluded_loss", "restricted_accuracy"), ("split",)
        ),
        **dict.fromkeys(("trig_loss", "restricted_variance"), ()),
        "logit_cosine_amplitude": ("split", "frequency"),
    },
    "compressibility": dict.fromkeys(
        ("effective_rank", "stable_rank", "numerical_rank", "power_law_alpha"), ("split",)
    ),
    "dynamics": {
        **dict.fromkeys(("moved_norm", "scaling_cosine"), ()),
        **{f"{of}_norm_by_group": ("group",) for of in ("weight", "gradient", "moved")},
    },
    "kernel": {
        **dict.fromkeys(("ntk_drift", "ntk_alignment_drift"), ("ntk_output",)),
        **dict.fromkeys(("ntk_label_alignment", "ntk_label_alignment_centred"), ()),
    },
    "circuit": dict.fromkeys(
        ("gradient_symmetricity", "distance_irrelevance", "circularity", "clock_fve", "pizza_fve"), ()
    ),
    "stability": dict.fromkeys(
        ("softmax_collapse", "answer_margin", "answer_margin_min", "largest_logit"), ("split",)
    ),
    "logit_lens": {"logit_lens_loss": ("read_from", "split")},
    "attribution": {
        "logit_attribution": ("split", "component"),
        "frequency_attribution": ("split", "frequency"),
    },
}


def add_probes(run: FakeRun, p: int = 113) -> FakeRun:
    """The run with all probes of this module: every value is its own, and positive."""
    rng = np.random.default_rng(len(run.name))
    seeds, steps = run.metrics["seed"].values, run.probes["fourier"]["step"].values
    labels = {
        "split": list(SPLITS),
        "frequency": np.arange((p + 1) // 2),
        "group": PARTS,
        "ntk_output": ["sum", "trace"],
        "read_from": PLACES,
        "component": ["L0H0", "0_mlp_out"],
    }

    def variable(probe: str, name: str, dims: tuple[str, ...]) -> xr.Variable:
        shape = (len(seeds), len(steps), *(len(labels[d]) for d in dims))
        attributes = {
            "long_name": name.replace("_", " "),
            "units": "1",
            "definition": f"What {name} is, as `{probe}` says.",
            "source": "Someone, arXiv 1234.56789",
            "nan": "it is not known",
        }
        return xr.Variable(("seed", "step", *dims), 0.1 + rng.random(shape), attributes)

    base = {"seed": seeds, "step": steps}
    probes = {
        probe: xr.Dataset(
            {name: variable(probe, name, dims) for name, dims in names.items()},
            {**base, **{d: labels[d] for dims in names.values() for d in dims}},
        )
        for probe, names in _QUANTITIES.items()
    }
    keys = np.zeros((len(seeds), len(steps), len(labels["frequency"])))
    for i, seed in enumerate(seeds):
        keys[i, :, list(KEYS.get(int(seed), ()))] = 1
    dims = ("seed", "step", "frequency")
    marked = xr.Dataset({"key_frequency_frozen": (dims, keys)}, {**base, "frequency": labels["frequency"]})
    run.probes = {**run.probes, **probes, "key_frequencies": marked}
    return run
