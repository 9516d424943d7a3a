"""Arrays that grow step by step: labels come back, and only whole steps are ever read."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from mech_grok import array_store
from mech_grok.array_store import StepStore, read_steps
from mech_grok.errors import UserError

SEEDS, STEPS = (456, 3), (0, 10, 15)


def arrays(step: int, seed: int) -> xr.Dataset:
    """What a probe gives for one seed at one step: two variables, labels of text and of numbers."""
    values = np.arange(6.0).reshape(2, 3) + 100 * step + seed
    return xr.Dataset(
        {
            "loss": (("split", "frequency"), values, {"long_name": "loss", "units": "nats"}),
            "total": ((), values.sum(), {"units": "1"}),
        },
        coords={"split": ["train", "test"], "frequency": [1, 2, 3]},
        attrs={"title": "a probe"},
    )


def write(store: StepStore, *steps: int) -> None:
    for step in steps:
        store.write(step, [arrays(step, seed) for seed in SEEDS])


@pytest.fixture
def store(tmp_path: Path) -> StepStore:
    return StepStore(tmp_path / "probes" / "probe.zarr", SEEDS, STEPS)


def test_values_labels_and_attributes_come_back(store: StepStore) -> None:
    write(store, *STEPS)
    data = read_steps(store.path)
    assert data.loss.dims == ("seed", "step", "split", "frequency")
    assert list(data.seed.values) == list(SEEDS)
    assert list(data.step.values) == list(STEPS)
    assert data.split.dtype.kind == "U"
    assert data.attrs["title"] == "a probe"
    assert data.loss.attrs == {"long_name": "loss", "units": "nats"}
    for seed in SEEDS:
        for step in STEPS:
            there = data.sel(seed=seed, step=step).drop_vars(["seed", "step"])
            assert there.identical(arrays(step, seed))


def test_steps_can_be_written_in_any_order_and_resumed(store: StepStore) -> None:
    assert store.missing_steps() == list(STEPS)
    write(store, 15)
    assert store.missing_steps() == [0, 10]
    assert list(read_steps(store.path).step.values) == [15]
    write(StepStore(store.path, SEEDS, STEPS), 0, 10)
    assert StepStore(store.path, SEEDS, STEPS).missing_steps() == []
    assert read_steps(store.path).sel(seed=3, step=10).total == arrays(10, 3).total


@pytest.mark.parametrize("last_array", ["loss", "total", "step_done"])
def test_killed_in_the_middle_of_a_step_leaves_whole_steps(
    store: StepStore, monkeypatch: pytest.MonkeyPatch, last_array: str
) -> None:
    write(store, 0)
    before = read_steps(store.path)
    array = array_store._array

    def killed_at(group: zarr.Group, name: str) -> zarr.Array:
        if name == last_array:
            raise KeyboardInterrupt
        return array(group, name)

    with monkeypatch.context() as patched:
        patched.setattr(array_store, "_array", killed_at)
        with pytest.raises(KeyboardInterrupt):
            write(store, 10)
    assert read_steps(store.path).identical(before)
    assert store.missing_steps() == [10, 15]
    write(store, 10, 15)
    assert list(read_steps(store.path).step.values) == list(STEPS)


def test_killed_while_laying_out_leaves_nothing_that_counts(
    store: StepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write(store, 0)
    assert not store.path.exists()
    assert store.missing_steps() == list(STEPS)
    write(store, 0)
    assert list(read_steps(store.path).step.values) == [0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damaged", ["zarr.json", "loss/zarr.json", "loss/c/0/0/0/0", "step_done/c/0"])
def test_a_damaged_store_is_named(store: StepStore, damaged: str) -> None:
    write(store, 0)
    cut(store.path / damaged)
    with pytest.raises(UserError, match=r"probe\.zarr: damaged, or not a Zarr store"):
        read_steps(store.path)


def test_a_store_without_its_metadata_is_named(store: StepStore) -> None:
    write(store, 0)
    (store.path / "zarr.json").unlink()
    for use in (store.missing_steps, lambda: write(store, 10), lambda: read_steps(store.path)):
        with pytest.raises(UserError, match="damaged, or not a Zarr store"):
            use()


def test_an_interrupt_waits_until_the_step_is_whole(
    store: StepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr writes in threads, which would go on after an exception and complain at exit."""
    array = array_store._array

    def interrupted_at(group: zarr.Group, name: str) -> zarr.Array:
        if name == "loss":
            signal.raise_signal(signal.SIGINT)
        return array(group, name)

    monkeypatch.setattr(array_store, "_array", interrupted_at)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with pytest.raises(KeyboardInterrupt):
        write(store, 0, 10)
    assert list(read_steps(store.path).step.values) == [0]


def relabelled(data: xr.Dataset) -> xr.Dataset:
    return data.assign_coords(split=["test", "train"])


def narrower(data: xr.Dataset) -> xr.Dataset:
    return data.isel(frequency=[0])


def without_a_variable(data: xr.Dataset) -> xr.Dataset:
    return data.drop_vars("total")


@pytest.mark.parametrize("changed", [relabelled, narrower, without_a_variable])
def test_arrays_of_another_layout_are_refused(store: StepStore, changed: Callable[..., xr.Dataset]) -> None:
    """Numpy would broadcast the narrower ones, and swap the relabelled ones, without a word."""
    write(store, 0)
    with pytest.raises(UserError, match="holds other arrays than these; delete it"):
        store.write(10, [changed(arrays(10, seed)) for seed in SEEDS])
    assert store.missing_steps() == [10, 15]


def test_a_store_of_other_steps_is_refused(store: StepStore) -> None:
    write(store, 0)
    with pytest.raises(UserError, match="holds other arrays"):
        write(StepStore(store.path, SEEDS, (0, 5, 10)), 5)
