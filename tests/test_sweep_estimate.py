"""What cells will cost, against models, counters and run directories that know nothing of the estimate."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mech_grok.checkpoint_stages import ablate_run, probe_run
from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.model import GrokTransformer
from mech_grok.probes import PROBES
from mech_grok.study_config import STAGES, Work
from mech_grok.sweep.costs import disk, speed, stage_costs
from mech_grok.sweep.costs.arithmetic import forward_products, n_parameters, operations, step_work
from mech_grok.sweep.costs.estimate import costs
from mech_grok.train_stage import train_cell
from mech_grok.training.checkpoints import weights_path
from mech_grok.training.data import examples
from mech_grok.training.forward import fast_logits
from mech_grok.training.parameters import ParameterStack

MODELS: list[dict[str, Any]] = [
    {},
    {"placement": "pre", "shared_affine": False, "final_norm": "on"},
    {"n_layers": 3, "d_model": 64},
    {"activation": "swiglu"},
    {"tied_unembed": True, "mlp_ratio": 2},
]


def cell(p: int = 113, model: dict[str, Any] | None = None, **training: Any) -> CellConfig:
    return CellConfig.model_validate({"task": {"p": p}, "model": model or {}, "training": training})


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_model(model: dict[str, Any]) -> None:
    config = cell(23, model)
    real = GrokTransformer(config.model, 23)
    counted = sum(x.numel() for x in {**real.trained_parameters(), **real.frozen_parameters()}.values())
    assert n_parameters(config.model, 23) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("model", MODELS)
def test_operations_are_those_that_torch_counts(model: dict[str, Any]) -> None:
    """In float64, whose products torch's counter knows."""
    config = cell(23, model, seeds=[1], dtype="float64")
    stack, data = ParameterStack.initial(config), examples(config, "train")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        fast_logits({**stack.named(), **stack.frozen}, data.pairs, config.model)
    ours = operations(forward_products(config, config.task.task.n_train))
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_products_are_the_share_of_a_step_that_the_benchmark_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "product_rate", lambda dtype, threads: 235e9)
    path = Path(__file__).parents[1] / "benchmarks" / "results.json"
    rows = {row["what"]: row["measured"] for row in json.loads(path.read_text())["rows"]}
    untested = cell(seeds=[1], evaluate_every=10**9)
    products = 3 * operations(forward_products(untested, untested.task.task.n_train)) / 235e9
    measured = rows["the step's matrix products alone / the whole step, one thread"]
    share = products / speed.computed_seconds(untested, 1)
    # Measured in turn with the step, products are not at their fastest.
    assert share < measured < 1.25 * share


def test_steps_of_more_seeds_and_with_more_tests_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "product_rate", lambda dtype, threads: 235e9)
    one, five = (speed.computed_seconds(cell(seeds=list(range(n))), 1) for n in (1, 5))
    assert five == pytest.approx(5 * one)
    never, always = (step_work(cell(evaluate_every=n)) for n in (10**9, 1))
    n_train, n_test = 3831, 8938  # a test is one of a step's three passes, over other pairs
    assert always / never == pytest.approx(1 + n_test / n_train / 3, abs=0.03)


def test_a_product_is_timed_and_the_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_TIMING_S", 0.01)
    speed.product_rate.cache_clear()
    before = torch.get_num_threads()
    assert 1e8 < speed.product_rate("float64", before + 1) < 1e14
    assert torch.get_num_threads() == before
    speed.product_rate.cache_clear()


def recorded(run: Path, config: CellConfig, wall: float, threads: int = 1) -> Path:
    """A run that was trained to its last step in `wall` seconds, as far as its directory says."""
    weights = weights_path(run / "checkpoints", config.training.steps)
    weights.parent.mkdir(parents=True)
    weights.touch()
    (run / "config.yaml").write_text(to_yaml(config))
    (run / "environment.json").write_text(json.dumps({"threads": threads, "wall_seconds": wall}))
    return run


def train_cost(root: Path, config: CellConfig, threads: int = 1) -> float | None:
    path = root / "study" / "new"
    return costs({path: config}, {path: Work(stages=("train",))}, threads)[path].train


def test_training_takes_as_long_as_like_runs_took(tmp_path: Path) -> None:
    for study, wall in (("study", 30.0), ("other", 20.0), ("third", 80.0)):
        recorded(tmp_path / study / "run", cell(steps=100), wall)
    again = cell(steps=400).model_copy(update={"optimiser": cell().optimiser.model_copy(update={"lr": 0.1})})
    assert train_cost(tmp_path, again) == 400 * 30.0 / 100


def test_a_fork_is_timed_by_its_own_steps(tmp_path: Path) -> None:
    fork = CellConfig.model_validate(
        {"training": {"steps": 100}, "surgery": {"parent": "../x/y", "step": 80}}
    )
    recorded(tmp_path / "study" / "fork", fork, 40.0)
    assert train_cost(tmp_path, fork) == 40.0
    assert train_cost(tmp_path, cell(steps=100)) == 200.0


OTHERS: list[dict[str, Any]] = [
    {"p": 59},
    {"model": {"placement": "pre"}},
    {"seeds": [1]},
    {"evaluate_every": 1},
    {"dtype": "float64"},
]


@pytest.mark.parametrize("other", OTHERS)
def test_runs_of_another_shape_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    monkeypatch.setattr(speed, "product_rate", lambda dtype, threads: 235e9)
    recorded(tmp_path / "study" / "run", cell(steps=100), 1e9)
    found = train_cost(tmp_path, cell(**{"steps": 100, **other}))
    assert found is not None
    assert found < 1e3
    assert (train_cost(tmp_path, cell(steps=100), threads=2) or 1e9) < 1e3
    assert train_cost(tmp_path, cell(steps=100)) == 1e9


def test_runs_that_tell_no_time_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "product_rate", lambda dtype, threads: 235e9)
    config = cell(steps=100)
    killed = recorded(tmp_path / "study" / "killed", config, 1e9)
    os.utime(weights_path(killed / "checkpoints", 100), (2e9, 2e9))  # after its time was last written down
    recorded(tmp_path / "study" / "running", config, 0.0)
    damaged = recorded(tmp_path / "study" / "damaged", config, 1e9)
    (damaged / "environment.json").write_text("{")
    strange = recorded(tmp_path / "study" / "strange", config, 1e9)
    (strange / "config.yaml").write_text("model: {width: 3}")
    empty = recorded(tmp_path / "study" / "empty", config, 1e9)
    weights_path(empty / "checkpoints", 100).unlink()
    assert (train_cost(tmp_path, config) or 1e9) < 1e3


def test_a_gpu_is_not_guessed(tmp_path: Path) -> None:
    config = cell(steps=100, device="cuda")
    assert train_cost(tmp_path, config) is None
    recorded(tmp_path / "study" / "run", config, 5.0)
    assert train_cost(tmp_path, config) == 5.0


def test_a_cell_with_its_own_threads(tmp_path: Path) -> None:
    recorded(tmp_path / "study" / "run", cell(steps=100, threads=3), 7.0, threads=3)
    assert train_cost(tmp_path, cell(steps=100, threads=3), threads=1) == pytest.approx(7.0)


def test_only_the_stages_that_are_asked_for_cost() -> None:
    path, config = Path("nowhere/study/cell"), cell(11, {"d_model": 16}, steps=10)
    of = {
        stage: costs({path: config}, {path: Work(stages=(stage,), probes=("fourier",))}, 1)[path]
        for stage in STAGES
    }
    for stage, cost in of.items():
        seconds = {"train": cost.train, "probe": cost.probe, "ablate": cost.ablate}
        assert {name for name, s in seconds.items() if s} == {stage}
    together = costs({path: config}, {path: Work(probes=("fourier",))}, 1)[path]
    assert together.disk == sum(cost.disk for cost in of.values())


def test_seconds_of_the_reference_are_the_measured_ones() -> None:
    one_checkpoint = {"steps": 1, "checkpoint_every": 1, "seeds": [1]}  # the first and the last: two
    assert stage_costs.ablation_seconds(cell(**one_checkpoint), 1) / 2 == pytest.approx(3.4, rel=0.08)
    deep = cell(model={"n_layers": 3, "d_model": 64}, **one_checkpoint)
    assert stage_costs.ablation_seconds(deep, 1) / 2 == pytest.approx(13, rel=0.08)
    declared = sum(probe.seconds for probe in PROBES.values())
    assert stage_costs.probe_seconds(cell(**one_checkpoint), (), 1) / 2 == pytest.approx(declared, rel=0.4)
    assert stage_costs.probe_seconds(cell(**one_checkpoint), ("fourier",), 1) < 0.1


def test_threads_share_the_checkpoints() -> None:
    long = cell(steps=1000)
    one, two = (stage_costs.ablation_seconds(long, threads) for threads in (1, 2))
    assert one / two == pytest.approx(2, rel=0.05)
    assert stage_costs.probe_seconds(long, (), 8) == stage_costs.probe_seconds(long, (), 64)


def whole_blocks(folder: Path) -> int:
    """What a folder takes where every file and every folder has whole blocks of 4 KiB."""
    entries = [Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files)]
    return sum(4096 if e.is_dir() else -(-e.stat().st_size // 4096) * 4096 for e in entries)


def test_disk_is_that_of_a_real_run(tmp_path: Path) -> None:
    config = cell(
        11, {"d_model": 16, "placement": "pre"}, steps=40, seeds=[1, 2], checkpoint_every=20, threads=1
    )
    run = train_cell(tmp_path / "run", config, resume=False, command="test")
    trained = whole_blocks(run.path)
    assert disk.training_bytes(config) == pytest.approx(trained, rel=0.1)
    names = ("attention", "attention_map", "neurons", "kernel")
    probe_run(run, names)
    probed = whole_blocks(run.path)
    assert stage_costs.probe_bytes(config, names) == pytest.approx(probed - trained, rel=0.15)
    ablate_run(run)
    assert stage_costs.ablation_bytes(config) == pytest.approx(whole_blocks(run.path) - probed, rel=0.35)


def test_optimiser_states_that_are_kept_count() -> None:
    """Weights of 11 checkpoints; two moments at steps 500 and 1,000, or at the last step only."""
    few, many = (
        disk.training_bytes(cell(steps=1000, optimiser_state_every=every, seeds=[1])) for every in (1000, 500)
    )
    weights = 4 * n_parameters(cell().model, 113)
    assert many - few == pytest.approx(2 * weights, rel=0.01)
    double = disk.training_bytes(cell(steps=1000, dtype="float64", seeds=[1]))
    assert double - few == pytest.approx(13 * weights, rel=0.01)


def test_solved_attention_factors_are_kept_on_disk() -> None:
    tree = {"model": {"attention_factor": 1.0}, "training": {"follow_entropy": {"of": 0.5, "every": 50}}}
    extra = disk.training_bytes(CellConfig.model_validate(tree)) - disk.training_bytes(CellConfig())
    assert extra > 3 * 201 * 4096, "three arrays at 201 steps, a block each at least"


@pytest.mark.slow
def test_a_study_of_trainings_is_estimated_without_transformer_lens() -> None:
    code = (
        "import sys; from pathlib import Path; from mech_grok.config import CellConfig;"
        "from mech_grok.study_config import Work; path = Path('no/study/cell');"
        "from mech_grok.sweep.costs.estimate import costs; import mech_grok.sweep.display.plan;"
        "print(costs({path: CellConfig()}, {path: Work(stages=('train',))}, 1));"
        "sys.exit('transformer_lens' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
