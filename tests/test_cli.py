"""The command line: what it prints, where it writes, and that every mistake is one line and exit code 2."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mech_grok import load_run
from mech_grok.cli import main
from mech_grok.training.checkpoints import optimiser_path, weights_path

pytestmark = pytest.mark.whole

CONFIG = """
study: tiny
task: {p: 11}
model: {d_model: 16, n_heads: 2}
training: {steps: 12, seeds: [3, 1], checkpoint_every: 6, evaluate_every: 5, threads: 1}
grid:
  model.placement: [mlp-pre, off]
"""
COMMANDS = ("run", "train", "probe", "ablate", "report", "surgery", "ls")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with a config in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the main job was run: `runs/tiny` and its config."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(CONFIG)
    main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "runs")])
    return folder


def files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr of a command that ends with code 2."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("mech-grok: ")
    return lines[0].removeprefix("mech-grok: ")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert all(f"│ {name} " in text for name in COMMANDS)
    for name in COMMANDS:
        main([name, "--help"])
        assert f"Usage: mech-grok {name}" in capsys.readouterr().out


def test_the_main_job_writes_runs_and_a_report(finished: Path) -> None:
    study = finished / "runs" / "tiny"
    assert {p.name for p in study.iterdir()} == {"mlp-pre", "off", "report", "study.yaml"}
    assert (study / "report" / "index.html").stat().st_size > 10_000
    for name in ("mlp-pre", "off"):
        run = load_run(study / name)
        assert run.steps == (0, 6, 12)
        assert set(run.probe_names) >= {"attention", "fourier"}
        assert run.ablations is not None
        command = f"mech-grok run {finished}/tiny.yaml --out {finished}/runs"
        assert run.environment["command"] == command


def test_running_again_changes_nothing_but_the_report(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = finished / "runs" / "tiny"
    before = [files(runs / name) for name in ("mlp-pre", "off")]
    main(["run", str(finished / "tiny.yaml"), "--out", str(finished / "runs")])
    out = capsys.readouterr().out
    assert out.count("trained already (12 steps)") == 2
    assert out.splitlines()[-1] == f"report: {runs}/report/index.html"
    assert before == [files(runs / name) for name in ("mlp-pre", "off")]


def test_stages_on_runs_on_a_folder_and_on_a_config(
    here: Path, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    main(["train", "tiny.yaml"])
    assert capsys.readouterr().out.splitlines()[-2:] == ["run: runs/tiny/mlp-pre", "run: runs/tiny/off"]
    main(["probe", "runs/tiny/off", "--probes", "attention"])
    main(["probe", "tiny.yaml", "--probes", "shortcut", "attention"])
    assert load_run("runs/tiny/off").probe_names == ("attention", "shortcut")
    main(["ablate", "runs"])
    main(["report", "runs/tiny/off"])
    assert capsys.readouterr().out.splitlines()[-1] == "report: runs/tiny/off/report/index.html"
    assert load_run("runs/tiny/off").metrics.identical(load_run(finished / "runs/tiny/off").metrics)


def test_ls_says_what_is_there(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ls", str(finished)])
    study, heading, first, second, _, rule = capsys.readouterr().out.splitlines()
    assert study == f"study tiny in {finished}/runs/tiny: 2 cells: 2 complete"
    assert heading.split()[:5] == ["run", "placement", "seeds", "steps", "state"]
    assert ("M" in first, "No LN" in second) == (True, True)
    assert "12/12" in first
    assert "3: not yet, 1: not yet" in first
    assert "0.995" in rule


def test_a_plan_and_a_config_are_shown_without_touching_anything(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", "tiny.yaml", "training.steps=500", "--dry-run"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "runs/tiny/mlp-pre: M, p = 11, 37 training pairs, 2 seeds x 500 steps, 85 checkpoints [new]"
    )
    assert second.startswith("runs/tiny/off: No LN")
    main(["train", "tiny.yaml", "training.steps=500", "--print-config"])
    shown = capsys.readouterr().out
    (here / "shown.yaml").write_text(shown)
    main(["train", "shown.yaml", "--print-config"])
    assert capsys.readouterr().out == shown
    assert "steps: 500" in shown
    assert {p.name for p in here.iterdir()} == {"tiny.yaml", "shown.yaml"}


def test_a_dry_run_on_runs_is_dry_too(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(finished)
    main(["train", str(finished / "runs"), "--dry-run"])
    assert capsys.readouterr().out.count("[trained]") == 2
    main(["train", str(finished / "runs/tiny/off"), "--print-config"])
    assert "placement: off" in capsys.readouterr().out
    assert before == files(finished)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle.placement=M", "unknown key 'modle'; did you mean 'model'?"),
        ("model.d_modle=3", "unknown key 'model.d_modle'; did you mean 'model.d_model'?"),
        ("model.placement=mlp-pree", "unknown placement 'mlp-pree'; did you mean 'mlp-pre'? allowed: off"),
        ("task.p=2", "task.p: input should be greater than or equal to 3"),
        ("task.p=11.5", "task.p: input should be a valid integer"),
        ("task.p=abc", "task.p: input should be a valid integer"),
        ("task.test_fraction=0.001", "leaves the test set empty at p = 11"),
        ("model.n_heads=3", "n_heads = 3 does not divide d_model = 16"),
        ("training.seeds=[1, 1]", "name one seed twice"),
        ("study=../x", "study: "),
        ("training.steps", "write it as key=value"),
    ],
)
def test_mistakes_in_the_config(
    here: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert message in mistake(capsys, "run", "tiny.yaml", override)
    assert {p.name for p in here.iterdir()} == {"tiny.yaml"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rnu tiny.yaml", 'Unknown command "rnu". Did you mean "run"?'),
        ("run", "See mech-grok run --help."),
        ("run tiny.yaml --resum", "Unknown option: --resum"),
        ("run nope.yaml", "nope.yaml: cannot read the config: No such file or directory"),
        ("run folder", "folder: cannot read the config: Is a directory"),
        ("run empty.yaml", "empty.yaml: a config is a mapping of keys to values"),
        ("run text.yaml", "text.yaml line 1: not YAML"),
        ("run tiny.yaml --out empty.yaml", "empty.yaml/tiny: Not a directory"),
        ("train folder", "folder: no runs in it"),
        ("probe nowhere", "nowhere: no such file or folder"),
        ("probe tiny.yaml", "runs/tiny/mlp-pre: not trained yet"),
        ("report tiny.yaml", "runs/tiny/mlp-pre: not trained yet"),
        ("ls tiny.yaml", "tiny.yaml: is a file"),
    ],
)
def test_mistakes_in_the_command(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    (here / "empty.yaml").write_text("")
    (here / "text.yaml").write_text("a: [b: {")
    (here / "folder").mkdir()
    before = {*here.rglob("*")}
    assert message in mistake(capsys, *arguments.split())
    assert before == {*here.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{config}", "optimiser.lr=0.01"], "optimiser.lr: 0.001 there, 0.01 asked for"),
        (["probe", "{config}", "optimiser.lr=0.01"], "optimiser.lr: 0.001 there, 0.01 asked for"),
        (["probe", "{runs}", "--probes", "fourrier"], "unknown probe 'fourrier'; did you mean 'fourier'?"),
        (["ablate", "{runs}", "a=b"], "overrides go with a config file"),
    ],
)
def test_mistakes_about_runs_that_are_there(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"config": finished / "tiny.yaml", "runs": finished / "runs"}
    where = [] if "{runs}" in arguments else ["--out", str(finished / "runs")]
    before = files(finished)
    assert message in mistake(capsys, *(a.format(**places) for a in arguments), *where)
    assert before == files(finished)


@pytest.fixture
def copied(finished: Path, here: Path) -> Path:
    """The finished study in the current directory, without what was probed."""
    ignored = shutil.ignore_patterns("probes", "ablations.zarr", "report")
    return shutil.copytree(finished / "runs", here / "runs", ignore=ignored) / "tiny" / "off"


def test_surgery_trains_on_and_reports_both_futures(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["surgery", "runs/tiny/off", "--at", "6", "--to", "M+A*", "--match-scale"]
    path = Path("runs/tiny/pre_from=off_at=6_match_scale=True")
    main([*arguments, "--dry-run"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: M+A* from off at 6, p = 11")
    assert "2 seeds x 6 steps, 2 checkpoints [new]" in line
    assert not path.exists()
    main(arguments)
    assert capsys.readouterr().out.splitlines()[-2:] == [f"run: {path}", f"report: {path}/report/index.html"]
    child = load_run(path)
    assert child.steps == (6, 12)
    assert child.surgery["gains"].keys() == {"3", "1"}
    assert child.environment["command"] == (
        "mech-grok surgery runs/tiny/off --at 6 --to 'M+A*' --optimiser keep --match-scale"
    )
    page = (path / "report" / "index.html").read_text()
    assert all(f'{{"name":"{name}","specifier"' in page for name in ("off", path.name))
    before = [files(path / folder) for folder in ("checkpoints", "metrics.zarr")]
    main(arguments)
    assert "trained already (12 steps)" in capsys.readouterr().out
    assert before == [files(path / folder) for folder in ("checkpoints", "metrics.zarr")]
    main(["ls", "runs"])
    assert "No LN -> M+A* at 6" in capsys.readouterr().out


def test_surgery_from_inside_the_run_for_more_steps(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    arguments = ["surgery", ".", "--at", "12", "--to", "mlp-pre", "--optimiser", "reset"]
    message = mistake(capsys, *arguments)
    assert "nothing to train from --at 12 to step 12, the last of" in message
    assert "give --steps above 12" in message
    main([*arguments, "--steps", "15"])
    capsys.readouterr()
    child = load_run(copied.parent / "mlp-pre_from=off_at=12_optimiser=reset")
    assert child.steps == (12, 15)
    assert child.parent is not None
    message = mistake(capsys, *arguments, "--steps", "20")
    assert "done with other settings (training.steps: 15 there, 20 asked for)" in message
    main(["probe", str(child.path), "--probes", "attention"])
    main(["ablate", str(child.path)])
    main(["report", str(child.path)])
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {child.path}/report/index.html"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("runs/tiny/of --at 6 --to M", "runs/tiny/of: not a run directory"),
        ("runs/tiny --at 6 --to M", "runs/tiny: not a run directory"),
        ("runs/tiny/off --at 7 --to M", "runs/tiny/off: no checkpoint at step 7; nearest: 6 and 12"),
        (
            "runs/tiny/off --at 1000 --to M",
            "runs/tiny/off: no checkpoint at step 1,000; nearest: 12 (the last)",
        ),
        (
            "runs/tiny/off --at 1000 --to M --steps 2000",
            "off: no checkpoint at step 1,000; nearest: 12 (the last)",
        ),
        ("runs/tiny/off --at -6 --to M", "surgery.step: input should be greater than or equal to 0"),
        ("runs/tiny/off --at six --to M", 'unable to convert "six" into int'),
        ("runs/tiny/off --at 6 --to mpl", "--to: unknown placement 'mpl'; did you mean 'mlp-pre'?"),
        ("runs/tiny/off --at 6", "--to requires an argument"),
        ("--at 6 --to M", "RUN requires an argument"),
        ("runs/tiny/off --at 6 --to off --match-scale", "off -> off adds none that has a gain of its own"),
        ("runs/tiny/off --at 6 --to M --optimiser rest", 'Did you mean "reset"?'),
        (
            "runs/tiny/off --at 6 --to M --steps 6",
            "nothing to train from --at 6 to --steps 6; give --steps above 6",
        ),
        ("runs/tiny/off --at 6 --to M --matchscale", "Unknown option"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_mistakes_in_surgery(
    copied: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str, dry: list[str]
) -> None:
    before = {*Path().rglob("*")}
    assert message in mistake(capsys, "surgery", *arguments.split(), *dry)
    assert before == {*Path().rglob("*")}


def test_surgery_interrupted_then_resumed(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["surgery", "runs/tiny/off", "--at", "6", "--to", "off"]
    with monkeypatch.context() as patched:
        stop_at(patched, 8, signal.SIGINT)
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
    assert stopped.value.code == 130
    assert "continue with --resume: runs/tiny/off_from=off_at=6" in capsys.readouterr().err
    assert "unfinished at step 8; continue with --resume" in mistake(capsys, *arguments)
    main([*arguments, "--resume"])
    assert "off_from=off_at=6: continues from step 8" in capsys.readouterr().out
    parent, child = load_run(copied), load_run("runs/tiny/off_from=off_at=6")
    assert child.metrics.identical(parent.metrics.sel(step=slice(7, None)))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal during an update."""
    from mech_grok.training.trainer import Trainer

    update = Trainer._update

    def update_then_signal(self: Trainer) -> object:
        measured = update(self)
        if self.step == step:
            os.kill(os.getpid(), number)
        return measured

    monkeypatch.setattr(Trainer, "_update", update_then_signal)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_training_then_resumed(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    finished: Path,
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 8, number)
        with pytest.raises(SystemExit) as stopped:
            main(["train", "tiny.yaml"])
    assert stopped.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert "continue with --resume: runs/tiny/mlp-pre" in line
    before = files(here)
    assert "runs/tiny/mlp-pre: unfinished at step 8; continue with --resume" in mistake(
        capsys, "run", "tiny.yaml"
    )
    assert before == files(here)
    main(["train", "tiny.yaml", "--resume"])
    assert "mlp-pre: continues from step 8\n" in capsys.readouterr().out
    assert load_run("runs/tiny/mlp-pre").metrics.identical(load_run(finished / "runs/tiny/mlp-pre").metrics)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_a_later_stage(
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    """A checkpoint request finds nothing to write there; the other two signals end the command."""
    from mech_grok import study

    def slow_report(target: object) -> Path:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), number)
        time.sleep(5)
        raise AssertionError("the signal was not delivered")

    monkeypatch.setattr(study, "report_target", slow_report)
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(finished / "runs")])
    assert stopped.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def interrupted_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run stopped at step 8 of 12, with checkpoints at 0, 6 and 8."""
    with monkeypatch.context() as patched:
        stop_at(patched, 8, signal.SIGTERM)
        with pytest.raises(SystemExit):
            main(["train", "tiny.yaml", "model.placement=M"])
    capsys.readouterr()
    return Path("runs/tiny/mlp-pre")


def test_resuming_on_another_setup_is_said_and_recorded(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = interrupted_run(monkeypatch, capsys)
    recorded = json.loads((path / "environment.json").read_text())
    (path / "environment.json").write_text(json.dumps({**recorded, "torch": "1.0"}))
    main(["train", "runs", "--resume"])
    out = capsys.readouterr().out
    assert (
        f"not what it began on (torch is now {recorded['torch']}): from here on, last bits may differ" in out
    )
    after = load_run(path).environment
    assert after["torch"] == "1.0"
    assert after["continued"] == [{"step": 8, "torch": recorded["torch"]}]
    assert after["wall_seconds"] >= recorded["wall_seconds"]


def test_resuming_without_the_last_optimiser_state_goes_further_back(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    path = interrupted_run(monkeypatch, capsys)
    optimiser_path(path / "checkpoints", 8).unlink()
    main(["train", "runs", "--resume"])
    assert "continues from step 0 (no optimiser state at step 8)" in capsys.readouterr().out
    assert load_run(path).metrics.identical(load_run(finished / "runs/tiny/mlp-pre").metrics)


def test_damaged_checkpoints_are_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted_run(monkeypatch, capsys) / "checkpoints"
    weights, optimiser = weights_path(folder, 8), optimiser_path(folder, 8)
    whole = weights.read_bytes()
    optimiser_whole = optimiser.read_bytes()
    for path, content, message in (
        (weights, whole[: len(whole) // 2], "step_000008.safetensors: not a whole safetensors file"),
        (weights, b"hello", "step_000008.safetensors: not a whole safetensors file"),
        (weights, optimiser_whole, "this run's model has"),
        (optimiser, optimiser_whole[:-1], "optimiser_000008.safetensors: not a whole safetensors file"),
        (optimiser, whole, "optimiser_000008.safetensors: "),
    ):
        before = path.read_bytes()
        path.write_bytes(content)
        assert message in mistake(capsys, "train", "runs", "--resume")
        path.write_bytes(before)
    main(["train", "runs", "--resume"])


def test_a_run_whose_config_is_gone_is_not_trained_over(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = interrupted_run(monkeypatch, capsys)
    (path / "config.yaml").unlink()
    before = files(here)
    assert "config.yaml is gone" in mistake(capsys, "train", "tiny.yaml", "model.placement=M")
    assert before == files(here)


def test_other_exceptions_are_not_swallowed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mech_grok import study

    monkeypatch.setattr(study, "plan", lambda target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["run", "tiny.yaml"])


def test_as_a_module_into_a_pipe_that_closes(here: Path) -> None:
    """`python -m mech_grok run tiny.yaml --dry-run | true`: no traceback, and SIGPIPE's code."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "mech_grok", "run", "tiny.yaml", "--dry-run"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_interrupted_while_modules_load(here: Path) -> None:
    """The process ends at once: torch aborts with a C++ error if KeyboardInterrupt reaches its imports."""
    (here / "slow.py").write_text("import signal; signal.raise_signal(signal.SIGINT); print('went on')")
    code = "from mech_grok.signals import unwinding\nwith unwinding():\n    import slow"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mech-grok: interrupted\n")
