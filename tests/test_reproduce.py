"""`mech-grok reproduce`: what it trains and what not, what it says, and what it leaves behind."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from paper_runs import diverged, make_run

import mech_grok.paper.reproduce
import mech_grok.sweep.study_sweep
from mech_grok.cli import main
from mech_grok.config_file import read_study
from mech_grok.paper.figures import FIGURES
from mech_grok.paper.results import Result, load_results, result_path
from mech_grok.paper.study import paper_study
from mech_grok.signals import Interrupted
from mech_grok.study_config import StudyConfig
from mech_grok.sweep.asked import Asked

pytestmark = pytest.mark.whole

SHORT = ("task.p=7", "training.steps=20", "training.checkpoint_every=10")
FIG7 = (
    *(f"{placement}_norm=rms_seeds=456-789" for placement in ("mlp-pre", "pre", "attn-pre")),
    "off_seeds=456-789",
)


class FakeSweep:
    """In place of `sweep_cells`: complete runs with made-up numbers; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.commands: list[str] = []
        self.made: list[str] = []
        self.fails: set[str] = set()
        self.stops_after: int | None = None

    def __call__(self, study: StudyConfig, root: str, asked: Asked, command: str) -> bool:
        self.asked.append(asked)
        self.commands.append(command)
        assert asked.only is not None
        names = [name for name in study.cells if name in asked.only and name not in self.fails]
        for name in names[: self.stops_after]:
            make_run(Path(root) / study.study / name, study.all_cells()[name], study.work_of(name).probes)
            self.made.append(name)
        if self.stops_after is not None:
            raise Interrupted(signal.SIGINT, "the same command")
        return not self.fails & set(asked.only)


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> FakeSweep:
    fake = FakeSweep()
    monkeypatch.setattr(mech_grok.sweep.study_sweep, "sweep_cells", fake)
    return fake


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory; pages are one line each."""

    def write(results: Path) -> None:
        results.mkdir(parents=True, exist_ok=True)
        found = load_results(results)
        for figure in FIGURES:
            (results / f"{figure.name}.html").write_text(f"{len(found)} results")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mech_grok.paper.reproduce, "write_all_pages", write)
    return tmp_path


Say = Callable[..., list[str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Say:
    """What `mech-grok reproduce ...` prints, and that it ends with a code."""

    def run(*arguments: str, code: int = 0) -> list[str]:
        try:
            main(["reproduce", *arguments])
            ended = 0
        except SystemExit as stop:
            ended = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return (out + err).splitlines()

    return run


def found() -> dict[str, Result]:
    return load_results(Path("reports/paper"))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_what_is_missing_is_trained_gathered_and_shown(sweep: FakeSweep, said: Say) -> None:
    lines = said("fig7", *SHORT, "--two-seeds", "--workers", "3", "--cpus", "2", "--gpus", "0.5")
    assert sweep.asked == [Asked("local", 3, 2, 0.5, only=frozenset(FIG7))]
    assert sweep.commands == [f"mech-grok reproduce fig7 {' '.join(SHORT)} --two-seeds"]
    assert lines[0] == "reports/paper: 0 of 4 runs are there"
    assert lines[-3:] == [
        "reports/paper: all 4 runs are there, and nothing is left to train",
        "page: reports/paper/fig7.html",
        "page: reports/paper/index.html",
    ]
    assert set(found()) == {name.removesuffix("_seeds=456-789") for name in FIG7}
    assert Path("reports/paper/fig7.html").read_text() == "4 results"


def test_a_second_time_there_is_nothing_to_do(sweep: FakeSweep, said: Say, here: Path) -> None:
    said("fig7", *SHORT, "--two-seeds")
    before = files(here)
    assert said("fig7", *SHORT, "--two-seeds") == [
        "reports/paper: all 4 runs are there, and nothing is left to train",
        "page: reports/paper/fig7.html",
        "page: reports/paper/index.html",
    ]
    assert len(sweep.asked) == 1
    assert files(here) == before


def test_committed_results_are_gone_on_from_without_runs(sweep: FakeSweep, said: Say) -> None:
    """A clone has results and no runs: only cells and seeds that are not in them are trained."""
    said("fig7", *SHORT, "--two-seeds")
    shutil.rmtree("runs")
    result_path(Path("reports/paper"), "pre_norm=rms").unlink()
    kept = result_path(Path("reports/paper"), "off").read_bytes()
    sweep.made.clear()
    said("fig7", *SHORT, "--two-seeds")
    assert sweep.made == ["pre_norm=rms_seeds=456-789"]
    assert result_path(Path("reports/paper"), "off").read_bytes() == kept
    shutil.rmtree("runs")
    sweep.made.clear()
    said("fig7", *SHORT)
    assert sweep.made == [name.replace("456-789", "111-222-333") for name in FIG7]
    assert found()["off"].curves.seed.values.tolist() == [456, 789, 111, 222, 333]


def test_another_figure_needs_more_of_the_same_cells(sweep: FakeSweep, said: Say) -> None:
    said("fig2", *SHORT, "--two-seeds")
    sweep.made.clear()
    said("fig3", *SHORT, "--two-seeds")
    assert len(sweep.made) == 7
    curves = {name: set(map(str, result.curves.data_vars)) for name, result in found().items()}
    assert {"c_fourier", "sr_train", "attention_entropy"} <= curves["mlp-pre"]
    assert "c_fourier" not in curves["attn-pre-qk"]
    sweep.made.clear()
    said("fig2", "fig3", *SHORT, "--two-seeds")
    assert sweep.made == []


def test_all_figures_if_none_is_named(sweep: FakeSweep, said: Say) -> None:
    lines = said(*SHORT, "training.evaluate_every=20", "--two-seeds", "--as-is")
    assert lines[0] == "reports/paper: 0 of 73 runs are there"
    pages = [*(figure.name for figure in FIGURES), "index"]
    assert lines[1:] == [f"page: reports/paper/{page}.html" for page in pages]


def test_as_is_trains_nothing_and_takes_what_is_complete(sweep: FakeSweep, said: Say) -> None:
    cells = read_study(_written(said("fig7", *SHORT, "--print-config"))).all_cells()
    first, second, *_ = cells
    make_run(Path("elsewhere/paper") / first, cells[first])
    make_run(Path("elsewhere/paper") / second, cells[second], done=10)
    lines = said("fig7", *SHORT, "--as-is", "--out", "elsewhere", "--results", "mine")
    assert lines == [
        "mine/cells/mlp-pre_norm=rms.zarr.zip: train_loss, test_loss, test_accuracy, update_norm of seeds "
        "456 and 789",
        "mine: 1 of 8 runs are there",
        "page: mine/fig7.html",
        "page: mine/index.html",
    ]
    assert sweep.asked == []
    assert set(load_results(Path("mine"))) == {"mlp-pre_norm=rms"}


def _written(lines: list[str]) -> Path:
    path = Path("printed.yaml")
    path.write_text("\n".join(lines))
    return path


def test_the_printed_config_is_the_study(said: Say) -> None:
    printed = read_study(_written(said("fig2", "fig7", *SHORT, "--print-config")))
    assert printed.cells == paper_study(["fig2", "fig7"]).cells
    assert (printed.study, printed.task.p, printed.training.steps) == ("paper", 7, 20)
    assert printed.work_of("mlp-pre_seeds=456-789").probes == ("fourier",)
    assert printed.work_of("mlp-pre_norm=rms_seeds=456-789").stages == ("train",)


def test_what_finished_before_ctrl_c_is_kept(sweep: FakeSweep, said: Say) -> None:
    sweep.stops_after = 3
    lines = said("fig7", *SHORT, "--two-seeds", code=130)
    assert lines[-2:] == [
        "reports/paper: 3 of 4 runs are there",
        "mech-grok: stopped by SIGINT; continue with the same command",
    ]
    assert len(found()) == 3
    assert Path("reports/paper/fig7.html").read_text() == "3 results"
    sweep.stops_after = None
    said("fig7", *SHORT, "--two-seeds")
    assert sweep.asked[-1].only == {FIG7[-1]}


def test_a_cell_that_fails_keeps_the_others_and_the_pages(sweep: FakeSweep, said: Say) -> None:
    sweep.fails = {FIG7[0]}
    lines = said("fig7", *SHORT, "--two-seeds", code=1)
    assert lines[-3:] == [
        "reports/paper: 3 of 4 runs are there",
        "page: reports/paper/fig7.html",
        "page: reports/paper/index.html",
    ]
    assert Path("reports/paper/fig7.html").read_text() == "3 results"


def test_a_damaged_run_keeps_no_other_out(sweep: FakeSweep, said: Say) -> None:
    said("fig7", *SHORT, "--two-seeds")
    shutil.rmtree("reports")
    (Path("runs/paper") / FIG7[0] / "metrics.zarr" / "zarr.json").write_text("{")
    (Path("runs/paper") / FIG7[1] / "config.yaml").write_text("junk")
    lines = said("fig7", *SHORT, "--two-seeds", "--as-is")
    assert lines[0].startswith(f"not added: runs/paper/{FIG7[0]}/metrics.zarr: damaged")
    assert lines[1].startswith(f"not added: runs/paper/{FIG7[1]}/config.yaml: ")
    assert "reports/paper: 2 of 4 runs are there" in lines


def test_a_seed_that_diverged_is_not_trained_again(sweep: FakeSweep, said: Say) -> None:
    """Also where nothing of it could be measured."""
    said("fig7", *SHORT, "--two-seeds")
    shutil.rmtree("reports")
    for seed in (456, 789):
        diverged(Path("runs/paper") / FIG7[0], seed, step=1)
    assert said("fig7", *SHORT, "--two-seeds")[-3].endswith("nothing is left to train")
    assert len(sweep.asked) == 1
    result = found()["mlp-pre_norm=rms"]
    assert result.trainings[0].diverged == {456: 1, 789: 1}
    assert result.curves.test_loss.isnull().all()


def test_a_plan_is_of_what_is_missing_and_touches_nothing(sweep: FakeSweep, said: Say, here: Path) -> None:
    said("fig7", *SHORT, "--two-seeds")
    before = files(here)
    lines = said("fig7", *SHORT, "--plan")
    assert [line.partition(": ")[0] for line in lines[:4]] == [
        f"runs/paper/{name.replace('456-789', '111-222-333')}" for name in FIG7
    ]
    assert "paper: 4 of 8 cells, 0 complete; 80 steps to train" in lines
    assert said("fig7", *SHORT, "--two-seeds", "--plan") == [
        "reports/paper: all 4 runs are there, and nothing is left to train"
    ]
    assert files(here) == before


def test_the_list_says_what_there_is(sweep: FakeSweep, said: Say) -> None:
    said("fig7", *SHORT, "--two-seeds")
    lines = said("--list")
    assert lines[0].split() == ["figure", "cells", "runs", "there", "title"]
    rows = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines[1:]}
    assert list(rows) == [figure.name for figure in FIGURES]
    assert rows["fig7"] == ["4", "8", "4", "RMSNorm in place of LayerNorm"]
    assert rows["fig2"][:3] == ["4", "8", "0"]  # No LN is in both, but without its Fourier modes
    assert rows["fig4"][:3] == ["9", "18", "1"]
    assert said("--list", "fig7", "--results", "nowhere")[1].split()[1:4] == ["4", "8", "0"]


def test_a_result_under_the_name_of_another_cell_is_refused(sweep: FakeSweep, said: Say) -> None:
    said("fig7", *SHORT, "--two-seeds")
    cells = Path("reports/paper/cells")
    shutil.copy(cells / "mlp-pre_norm=rms.zarr.zip", cells / "pre.zarr.zip")
    lines = said("fig8", *SHORT, "--as-is", code=2)
    assert lines[-1].endswith(
        "pre.zarr.zip: is of another cell than its name says (model.placement); remove the file"
    )
    (cells / "pre.zarr.zip").rename(cells / "mine.zarr.zip")
    assert "no figure has a cell of this name" in said("fig8", *SHORT, "--as-is", code=2)[-1]


def test_the_list_counts_the_seeds_that_are_asked_for(sweep: FakeSweep, said: Say) -> None:
    said("fig7", *SHORT, "--two-seeds")
    assert said("--list", "fig7", "--two-seeds")[1].split()[1:4] == ["4", "4", "4"]


def test_claims_are_printed_from_the_results_alone(
    sweep: FakeSweep, said: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mech_grok.paper.claims_table

    said("fig7", *SHORT, "--two-seeds")
    shutil.rmtree("runs")
    monkeypatch.setattr(
        mech_grok.paper.claims_table,
        "claims_table",
        lambda m, figures: f"| {sorted({cell for cell, _ in m})} {len(figures)} |",
    )
    cells = "['attn-pre_norm=rms', 'mlp-pre_norm=rms', 'off', 'pre_norm=rms']"
    assert said("--claims") == [f"| {cells} {len(FIGURES)} |"]
    assert said("fig7", "--claims") == [f"| {cells} 1 |"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fig10",), "unknown figure 'fig10'; did you mean 'fig"),
        (("--list", "--claims"), "--list and --claims are different things to do; give one of them"),
        (("--plan", "--as-is"), "--plan and --as-is are different things to do; give one of them"),
        (("fig4", "optimiser.lr=0.01"), "the figures' cells say themselves what optimiser.lr is"),
        (("fig2", "--results", "a-file"), "--results a-file: Not a directory; give a folder"),
        (("fig2", "figure7"), "unknown figure 'figure7'; did you mean 'fig7'"),
        (("--list", "fug2"), "unknown figure 'fug2'; did you mean 'fig2'"),
        (("training.stepz=3",), "paper: unknown key 'training.stepz'; did you mean 'training.steps'?"),
        (("fig2", "training.steps=-1"), "paper: training.steps: input should be greater than 0 (got -1)"),
        (("=3",), "override '=3': write it as key=value"),
        (("training.steps=[1",), "override 'training.steps=[1' line 1: not YAML"),
        (
            ("training.seeds=[1]",),
            "override 'training.seeds=[1]': the figures' cells say themselves what training.",
        ),
        (
            ("model.placement=M",),
            "override 'model.placement=M': the figures' cells say themselves what model.place",
        ),
        (("stages=[train]",), "the figures' cells say themselves what stages is"),
        (("grid.optimiser.lr=[1]",), "the figures' cells say themselves what grid.optimiser.lr is"),
        (("study=a/b",), "a name has letters, digits, '.', '_', '-' only"),
        (("fig2", "--workers", "0"), "--workers 0: allowed: 1 and more"),
        (("fig2", "--gpus", "0.5"), "--gpus 0.5: these cells train on the CPU"),
        (("fig2", "--out", "a::b"), "'::' has a meaning in URLs"),
        (("fig2", "--resume"), "Unknown option: --resume"),
    ],
)
def test_mistakes_are_one_line(said: Say, here: Path, arguments: tuple[str, ...], message: str) -> None:
    (here / "a-file").touch()
    (line,) = [line for line in said(*arguments, code=2) if line.startswith("mech-grok: ")]
    assert message in line
    assert not (here / "runs").exists()


def test_results_and_runs_of_another_config_are_refused(sweep: FakeSweep, said: Say) -> None:
    said("fig7", *SHORT, "--two-seeds")
    path = "reports/paper/cells/mlp-pre_norm=rms.zarr.zip"
    assert said("fig7", code=2) == [
        f"mech-grok: {path} holds another config (task.p: 7 there, 113 asked for); give another --results"
    ]
    for mode in ("--plan", "--as-is"):
        (line,) = said("fig7", "training.steps=20", mode, code=2)
        assert "give another --results" in line
    (line,) = said("fig7", "--results", "others", code=2)
    assert line == (
        f"mech-grok: runs/paper/{FIG7[0]} holds a run of another config (task.p: 7 there, 113 asked for); "
        "choose another study=NAME or --out"
    )
    assert len(sweep.asked) == 1


def test_a_damaged_result_is_refused(sweep: FakeSweep, said: Say) -> None:
    said("fig7", *SHORT, "--two-seeds")
    Path("reports/paper/cells/off.zarr.zip").write_bytes(b"PK")
    for mode in ((), ("--list",), ("--claims",), ("--plan",), ("--as-is",)):
        (line,) = said("fig7", *SHORT, *mode, code=2)
        assert "reports/paper/cells/off.zarr.zip: damaged, or not a result" in line
    assert len(sweep.asked) == 1


@pytest.mark.workers
def test_from_nothing_to_a_page(here: Path, said: Say) -> None:
    """Four cells are really trained and measured, one after the other by one worker."""
    lines = said("fig2", *SHORT, "--two-seeds", "--workers", "1")
    assert "cells: 4 of 4 complete, 0 failed" in lines
    assert lines[-2:] == ["page: reports/paper/fig2.html", "page: reports/paper/index.html"]
    for name in ("mlp-pre", "pre", "attn-pre", "off"):
        result = found()[name]
        assert result.curves.c_fourier.dropna("step").step.values.tolist() == [0, 10, 20]
        assert result.curves.test_loss.dropna("step").step.values.tolist() == [1, 10, 20]
        assert result.trainings[0].environment["wall_seconds"] > 0
        recorded = json.loads(Path(f"runs/paper/{name}_seeds=456-789/environment.json").read_text())
        assert recorded["command"].startswith("mech-grok reproduce fig2 task.p=7")
    assert not Path("runs/paper/report").exists()
    before = files(here)
    assert said("fig2", *SHORT, "--two-seeds")[0].endswith("nothing is left to train")
    assert files(here) == before
