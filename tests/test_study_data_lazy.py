"""Of a study only what is selected is read, and it is what the same gives in memory."""

import copy
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xarray as xr
from fake_studies import config, write_grid, write_study
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok import load_study
from mech_grok.errors import UserError


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"))


def poison(array: Path) -> None:
    """Make every chunk of an array on disk undecodable."""
    chunks = [path for path in (array / "c").rglob("*") if path.is_file()]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(b"not a chunk")


def test_only_what_is_selected_is_read(grid: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(grid, tmp_path / "s")
    whole = load_study(grid).load()
    for store in folder.glob("*/*.zarr"):
        for array in (array for array in store.iterdir() if array.name in {*whole.data_vars, "group_norm"}):
            if (store.parent.name, array.name) != ("off_lr=0.001", "train_loss"):
                poison(array)
    rest = [path for path in folder.glob("off_lr=0.001/metrics.zarr/train_loss/c/*/*") if path.name != "1"]
    assert len(rest) == 2
    for chunk in rest:  # two rows are a chunk
        chunk.write_bytes(b"not a chunk")
    data = load_study(folder)
    load_study(folder, "norms")
    here = {"placement": "off", "lr": 1e-3}
    rows = {**here, "step": [3, 4]}
    assert data.sel(rows).train_loss.identical(whole.sel(rows).train_loss)
    assert data.train_loss.isel(placement=[1], lr=0, step=2).mean("seed").notnull().all()
    for other in ({"placement": "mlp-pre"}, {"lr": 3e-3, "placement": "off"}):
        with pytest.raises(UserError, match=r"metrics.zarr: damaged"):
            data.sel({**other, "step": 3}).train_loss.load()
    with pytest.raises(UserError, match=r"off_lr=0.001/metrics.zarr: damaged"):
        data.sel({**here, "step": 1}).train_loss.load()
    with pytest.raises(UserError, match=r"off_lr=0.001/metrics.zarr: damaged"):
        data.sel({**here, "step": 3}).test_loss.load()


def test_values_are_read_once(grid: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(grid, tmp_path / "s")
    data = load_study(folder)
    first = data.train_loss.values.copy()
    shutil.rmtree(folder)
    assert (data.train_loss.values == first).all()
    with pytest.raises(UserError, match=r"metrics.zarr: damaged.*deleted after the study had been opened"):
        data.test_loss.load()


def test_assignments_stay_in_memory(grid: Path) -> None:
    data = load_study(grid)
    data.train_loss[{"seed": 0}] = 0.0
    assert (data.train_loss.isel(seed=0) == 0).all()
    assert (load_study(grid).train_loss != 0).all()


def test_what_is_written_meanwhile_is_not_seen(tmp_path: Path) -> None:
    study = config(grid={"model.placement": ["M", "off"]})
    folder = write_study(tmp_path, study, {"off": 2, "mlp-pre": 6}.get)
    data = load_study(folder)
    (folder / "off" / "checkpoints" / "step_000004.safetensors").touch()
    assert data.train_loss.sel(placement="off").notnull().sum("step").values.tolist() == [2, 2]
    again = load_study(folder)
    assert again.train_loss.sel(placement="off").notnull().sum("step").values.tolist() == [4, 4]
    assert again.steps_done.values.tolist() == [6, 4]


def test_usual_operations(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(grid.parent)
    lazy, whole = load_study("s"), load_study("s").load()
    assert all(coordinate.variable._in_memory for coordinate in lazy.coords.values())
    assert not any(array.variable._in_memory for array in lazy.data_vars.values())
    monkeypatch.chdir("/")  # what is read later is read from where it was
    number = dict.fromkeys(lazy.train_loss.dims, 0)
    assert lazy.train_loss.isel(number).identical(whole.train_loss.isel(number))
    assert lazy.copy(deep=True).identical(whole)
    assert copy.deepcopy(lazy).identical(whole)
    assert pickle.loads(pickle.dumps(lazy)).identical(whole)
    assert pickle.loads(pickle.dumps(lazy.sel(placement="off"))).identical(whole.sel(placement="off"))
    assert lazy.compute().identical(whole)
    assert lazy.mean("seed").identical(whole.mean("seed"))
    assert lazy.train_loss.to_dataframe().equals(whole.train_loss.to_dataframe())
    assert lazy.transpose("step", ...).train_loss[2].identical(whole.transpose("step", ...).train_loss[2])
    backwards = {"step": slice(None, None, -1)}
    assert lazy.isel(backwards).identical(whole.isel(backwards))
    assert lazy.where(lazy.evaluated, drop=True).step.values.tolist() == [1, 3, 6]
    assert (lazy - lazy.sel(placement="off")).identical(whole - whole.sel(placement="off"))
    pointwise = {"lr": xr.DataArray([0, 1, 1], dims="at"), "step": xr.DataArray([5, 0, 2], dims="at")}
    assert lazy.isel(pointwise).identical(whole.isel(pointwise))
    assert lazy.groupby("placement").mean().identical(whole.groupby("placement").mean())


def test_threads_read_at_once(grid: Path) -> None:
    lazy, whole = load_study(grid, "fourier"), load_study(grid, "fourier").load()
    picks = [{"placement": i, "lr": j, "step": k} for i in range(2) for j in range(2) for k in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda pick: lazy.isel(pick).load(), picks))
    assert all(data.identical(whole.isel(pick)) for data, pick in zip(found, picks, strict=True))


@st.composite
def indexers(draw: st.DrawFn, size: int) -> int | slice | list[int]:
    """No negative steps: xarray itself gets some of those wrong, whatever it reads from."""
    ends = st.none() | st.integers(-size - 1, size + 1)
    return draw(
        st.integers(-size, size - 1)
        | st.builds(slice, ends, ends, st.sampled_from([None, 1, 2]))
        | st.lists(st.integers(-size, size - 1), max_size=3)
    )


@pytest.fixture(scope="module")
def power(grid: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """The same array, on disk and in memory."""
    return load_study(grid, "fourier").power, load_study(grid, "fourier").power.load()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_index_gives_what_it_gives_in_memory(
    power: tuple[xr.DataArray, xr.DataArray], data: st.DataObject
) -> None:
    lazy, whole = power
    assert not lazy.variable._in_memory
    for _ in range(2):  # an index of an index
        index = data.draw(
            st.fixed_dictionaries({}, optional={d: indexers(n) for d, n in lazy.sizes.items() if n})
        )
        lazy, whole = lazy.isel(index), whole.isel(index)
    assert lazy.identical(whole)
