"""Time and error of the exact tangent kernels, against per-example gradients that are written out.

    python benchmarks/kernel.py

p = 113, one layer, width 128, 1,024 training pairs; both sides on the same threads. The written-out trace
kernel would take minutes, all of it the same for each class: a few classes are timed, and their time is
multiplied. The error is measured in float64, for the trace kernel over those classes' readout only.
"""

import copy
import time
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, grad, vmap

from mech_grok.config import CellConfig
from mech_grok.model import GrokTransformer
from mech_grok.probes.ntk import ntk

N, ROUNDS, TIMED_CLASSES, EXAMPLES_FOR_ERROR = 1_024, 3, 1, 64


def written_out(
    model: GrokTransformer, tokens: Int[Tensor, "n 3"], readout: Float[Tensor, " classes"]
) -> Float[Tensor, "n n"]:
    """The kernel of one weighted sum of the logits, from the gradient of every example."""
    theta = {name: x.detach() for name, x in model.trained_parameters().items()}

    def output(theta: dict[str, Tensor], example: Tensor) -> Tensor:
        return functional_call(model, theta, (example[None],))[0, -1] @ readout

    gradients = vmap(grad(output), in_dims=(None, 0), chunk_size=128)(theta, tokens)
    rows = torch.cat([x.flatten(1) for x in gradients.values()], dim=1)
    return rows @ rows.T


def seconds(work: Callable[[], object]) -> float:
    """The shortest of a few rounds: what others do on the machine can only add to it."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def compare() -> dict[str, dict[str, float]]:
    """For both kernels: seconds of ours and of the written-out one, ratio, largest relative difference."""
    config = CellConfig()
    model = GrokTransformer(config.model, config.task.p, seed=456)
    task = config.task.task
    tokens = torch.as_tensor(task.tokens(task.pairs()))[task.split_indices(456)["train"]][:N]
    classes = torch.eye(task.p + 1)
    ours = {output: seconds(lambda o=output: ntk(model, tokens, o)) for output in ("sum", "trace")}
    one_class = seconds(lambda: [written_out(model, tokens, classes[c]) for c in range(TIMED_CLASSES)])
    theirs = {
        "sum": seconds(lambda: written_out(model, tokens, classes.sum(0))),
        "trace": one_class * len(classes) / TIMED_CLASSES,
    }
    errors = _errors(model, tokens)
    return {
        output: {
            "seconds": ours[output],
            "written out": theirs[output],
            "ratio": theirs[output] / ours[output],
            "largest relative difference": errors[output],
        }
        for output in ("sum", "trace")
    }


def _errors(model: GrokTransformer, tokens: Int[Tensor, "n 3"]) -> dict[str, float]:
    """Largest difference over the largest entry, in float64: sum on all pairs, trace on the first few."""
    model = copy.deepcopy(model).double()
    model.cfg.dtype = torch.float64
    classes = torch.eye(model.W_U.shape[1], dtype=torch.float64)
    few = tokens[:EXAMPLES_FOR_ERROR]
    pairs = {
        "sum": (ntk(model, tokens, "sum"), written_out(model, tokens, classes.sum(0))),
        "trace": (ntk(model, few, "trace"), sum(written_out(model, few, row) for row in classes)),
    }
    return {output: float((x - y).abs().max() / y.abs().max()) for output, (x, y) in pairs.items()}


def main() -> None:
    """Print the table."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {N} pairs at p = 113")
    for output, numbers in compare().items():
        print(f"{output:6}", "  ".join(f"{name} {x:.3g}" for name, x in numbers.items()))


if __name__ == "__main__":
    main()
