"""Wherever a push or a training is cut short, training goes on from what is there, to the same bits."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from mirrored_runs import assert_same, empty_scratch, train, write

from mech_grok import train_stage
from mech_grok.checkpoint_stages import probe_run
from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.sweep.places import copying, mirror
from mech_grok.sweep.places.copying import files_in, held_still, stage
from mech_grok.sweep.places.mirror import mirrored

pytestmark = pytest.mark.whole


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_scratch(tmp_path / "tmp", monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training that nothing happens to."""
    return train(tmp_path_factory.mktemp("undisturbed") / "cell")


def test_every_file_of_a_run_is_of_the_right_kind(undisturbed: Run) -> None:
    probe_run(undisturbed, ["attention"])
    kinds = {name: stage(name) for name in files_in(undisturbed.path)}
    marks = {name for name, kind in kinds.items() if kind}
    assert [kinds.get(name) for name in ("environment.json", "checkpoints/optimiser_000020.safetensors")] == [
        0,
        0,
    ]
    stores = ("attention_factor", "probes/attention")
    assert {name for name in marks if kinds[name] == 1} == {
        f"{store}.zarr/zarr.json" for store in (*stores, "metrics", "norms")
    }
    assert [name for name in marks if kinds[name] == 2] == ["config.yaml"]
    assert {name for name in marks if kinds[name] == 5} == {
        f"checkpoints/step_{step:06d}.safetensors" for step in (0, 5, 10, 15, 20)
    }
    assert {name for name in marks if kinds[name] in (3, 4)} == {
        name for name in kinds if name.startswith(tuple(f"{s}.zarr/step_done/c/" for s in stores))
    }
    assert len(marks) == 4 + 1 + 5 + 2 * 5


@pytest.fixture
def pushed_at_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes happen after every checkpoint, one file at a time, instead of now and then."""
    copies: list[Any] = []
    save = train_stage.save_checkpoint

    def saved(path: Path, trainer: Any) -> None:
        save(path, trainer)
        copies[-1].push()

    monkeypatch.setattr(train_stage, "save_checkpoint", saved)
    monkeypatch.setattr(mirror, "_push_now_and_then", lambda copy, stop: copies.append(copy))
    monkeypatch.setattr(copying, "_AT_ONCE", 1)


def after_each_change(patch: pytest.MonkeyPatch, look: Callable[[], None]) -> None:
    """Call a function after everything that makes a visible difference in a file:// folder."""
    for name in ("mv", "rm_file"):
        method = getattr(LocalFileSystem, name)

        def changed(
            self: object, *args: str, _method: Callable[..., None] = method, **options: object
        ) -> None:
            _method(self, *args, **options)
            look()

        patch.setattr(LocalFileSystem, name, changed)


def states_of_a_push(tmp_path: Path) -> list[Path]:
    """Copies of all that there ever is of a run behind a URL while it is trained, oldest first."""
    states: list[Path] = []

    def keep() -> None:
        states.append(tmp_path / "states" / f"{len(states):04d}")
        shutil.copytree(tmp_path / "s/cell", states[-1] / "cell", copy_function=os.link)

    with pytest.MonkeyPatch.context() as patch:
        after_each_change(patch, keep)
        with mirrored(f"file://{tmp_path}/s/cell") as path:
            train(path)
    return states


def goes_on_from(state: Path, undisturbed: Run) -> int:
    """The step from which a training goes on that finds only this; its results are checked."""
    with mirrored(f"file://{state}/cell") as path:
        step = Run(path).steps_done if (path / "config.yaml").exists() else -1
        train(path)
    assert_same(Run(state / "cell"), undisturbed)
    return step


@pytest.mark.usefixtures("pushed_at_checkpoints")
def test_training_goes_on_from_some_states_that_a_push_can_leave(tmp_path: Path, undisturbed: Run) -> None:
    states = states_of_a_push(tmp_path)
    steps = [goes_on_from(states[i], undisturbed) for i in (-2, -9, -20, len(states) // 8)]
    assert steps == sorted(steps, reverse=True)
    assert len({*steps}) > 2


@pytest.mark.slow
@pytest.mark.usefixtures("pushed_at_checkpoints")
def test_training_goes_on_from_every_state_that_a_push_can_leave(tmp_path: Path, undisturbed: Run) -> None:
    steps = [goes_on_from(state, undisturbed) for state in states_of_a_push(tmp_path)]
    assert steps == sorted(steps)
    assert {*steps} == {-1, 0, 5, 10, 15, 20}


def dies_at(patch: pytest.MonkeyPatch, operation: int) -> list[str]:
    """The machine's last sign is this operation on a file:// folder; returns what it does."""
    done: list[str] = []

    def dying(name: str) -> None:
        method = getattr(LocalFileSystem, name)

        def called(self: object, *args: str, **options: object) -> object:
            if len(done) >= operation:
                raise OSError("dead")
            done.append(name)
            return method(self, *args, **options)

        patch.setattr(LocalFileSystem, name, called)

    for name in ("makedirs", "put_file", "mv", "rm_file"):
        dying(name)
    return done


@pytest.mark.parametrize(
    "operation", [pytest.param(n, marks=[] if n == 305 else pytest.mark.slow) for n in range(5, 310, 20)]
)
def test_training_goes_on_after_a_death_while_pushes_and_training_go_side_by_side(
    tmp_path: Path, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    monkeypatch.setattr(mirror, "PUSH_EVERY_S", 0.001)
    monkeypatch.setattr(copying, "_AT_ONCE", 3)
    place = f"file://{tmp_path}/s/cell"
    with monkeypatch.context() as patch:
        done = dies_at(patch, operation)
        with pytest.raises(UserError, match="OSError: dead"), mirrored(place) as path:
            train(path)
        assert len(done) == operation
    with mirrored(place) as path:
        train(path)
    assert_same(Run(tmp_path / "s/cell"), undisturbed)


def training(folder: Path) -> Iterator[None]:
    """What a training writes and deletes, one file at a time, in the order in which it does."""
    for step in itertools.count():
        if not step:
            write(folder, {"metrics.zarr/zarr.json": ""})
            yield
            write(folder, {"config.yaml": ""})
            yield
        files = (
            f"metrics.zarr/loss/c/0/{step}",
            f"attention_factor.zarr/factor/c/0/{step}",
            f"attention_factor.zarr/final_step/c/0/{step}",
            f"attention_factor.zarr/step_done/c/{step}",
            f"checkpoints/optimiser_{step:06d}.safetensors",
            f"checkpoints/step_{step:06d}.safetensors",
        )
        for name in files:
            write(folder, {name: ""})
            yield
        if step:
            (folder / f"checkpoints/optimiser_{step - 1:06d}.safetensors").unlink()
            yield


@pytest.mark.parametrize("seed", range(40))
def test_a_run_is_held_still_as_a_kill_would_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is written while it is looked at: what is noted has all that was written before it."""
    random, writer = np.random.default_rng(seed), training(tmp_path)

    def meanwhile(_: object = None) -> bool:
        """Up to a whole checkpoint, now and then."""
        for _ in range(random.choice([0, 1, 7], p=[0.97, 0.02, 0.01])):
            next(writer)
        return True

    def listed(folder: Path) -> list[str]:
        return [name for name in files_in(folder) if meanwhile()]

    for _ in range(random.integers(16, 40)):
        next(writer)
    monkeypatch.setattr(copying, "files_in", listed)
    with held_still(tmp_path, {}) as now:
        names = now.names
        assert all(path.exists() for path in now.changed.values())
    weights = [step for step in range(1000) if f"checkpoints/step_{step:06d}.safetensors" in names]
    assert weights == [*range(max(weights) + 1)]
    assert any(f"checkpoints/optimiser_{step:06d}.safetensors" in names for step in weights)
    done = [step for step in range(1000) if f"attention_factor.zarr/step_done/c/{step}" in names]
    assert done == [*range(max(done) + 1)]
    assert done[-1] >= weights[-1]
    for step in done:
        assert f"attention_factor.zarr/final_step/c/0/{step}" in names
        assert f"attention_factor.zarr/factor/c/0/{step}" in names
        assert f"metrics.zarr/loss/c/0/{step}" in names
    assert {"config.yaml", "metrics.zarr/zarr.json"} <= names
    assert not (tmp_path / ".held").exists()


def test_a_state_that_training_deletes_while_it_is_noted_is_followed_by_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = training(tmp_path)
    calls = itertools.count()

    def listed(folder: Path) -> list[str]:
        """All but the second listing are out of date at once."""
        names = [*files_in(folder)]
        for _ in range(0 if next(calls) == 1 else 7):
            next(writer)
        return names

    for _ in range(30):
        next(writer)
    monkeypatch.setattr(copying, "files_in", listed)
    with held_still(tmp_path, {}) as now:
        states = {name.replace("optimiser", "step") for name in now.names if "optimiser" in name}
        assert states & now.names


def test_what_is_held_still_can_be_copied_after_it_is_deleted(tmp_path: Path) -> None:
    write(tmp_path, {"a": "1", "b": "2"})
    with held_still(tmp_path, {"b": copying.signature(tmp_path / "b") or []}) as now:
        (tmp_path / "a").unlink()
        assert now.names == {"a", "b"}
        assert {name: path.read_text() for name, path in now.changed.items()} == {"a": "1"}


@pytest.mark.parametrize("changed_first", [False, True])
def test_marks_come_after_what_they_mark_and_go_before_it(changed_first: bool) -> None:
    run = [
        "a/step_done/c/1",
        "checkpoints/step_000001.safetensors",
        "a/x/c/1",
        "config.yaml",
        "a.zarr/zarr.json",
        "a/final_step/c/1",
    ]
    events: list[str] = []
    changed, gone = (run, []) if changed_first else ([], run)
    copying.in_order(changed, gone, events.append, events.append)
    order = [stage(name) for name in events]
    assert sorted(order) == [0, 1, 2, 3, 4, 5]
    assert order == sorted(order) if changed_first else order[-1] == 0
