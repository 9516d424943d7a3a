"""A study as one labelled array: what is where, what is nan, and that only what is selected is read."""

import copy
import itertools
import pickle
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import mech_grok
from mech_grok import load_study
from mech_grok.array_store import StepStore
from mech_grok.config import CellConfig
from mech_grok.config_file import to_yaml
from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.study import study_target, train_target
from mech_grok.study_axes import _names
from mech_grok.study_config import StudyConfig, set_dotted

BASE: dict[str, Any] = {
    "study": "s",
    "description": "what it is about",
    "task": {"p": 11},
    "model": {"d_model": 16, "n_heads": 2},
    "training": {"steps": 6, "seeds": [3, 1], "checkpoint_every": 2, "evaluate_every": 3, "threads": 1},
}
CHECKPOINTS = (0, 2, 4, 6)
PLACEMENT_AND_LR = {"model.placement": ["M", "off"], "optimiser.lr": [1e-3, 3e-3]}


def config(**changes: object) -> StudyConfig:
    """`grid`, `cells`, or dotted keys with `__` for the dot."""
    tree = BASE
    for key, value in changes.items():
        tree = set_dotted(tree, key.replace("__", "."), value)
    return StudyConfig.model_validate(tree)


def rng(run: Path, name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{run.name}/{name}".encode()))


ROWS = {"metrics": (("train_loss", "test_loss"), {}), "norms": (("group_norm",), {"group": ["W_E", "W_U"]})}


def write_cell(run: Path, cell: CellConfig, done: int, stores: Collection[str] = ("metrics",)) -> None:
    """A run directory as training leaves it at a checkpoint."""
    (run / "checkpoints").mkdir(parents=True)
    for step in (s for s in cell.checkpoint_steps if s <= done):
        (run / "checkpoints" / f"step_{step:06d}.safetensors").touch()
    (run / "config.yaml").write_text(to_yaml(cell))
    for store in stores:
        write_rows(run, cell, done, store)


def write_rows(run: Path, cell: CellConfig, done: int, store: str) -> None:
    """A row for every step, 99 in those that are not done; two of them are a chunk."""
    names, labels = ROWS[store]
    steps = np.arange(cell.first_step + 1, cell.training.steps + 1)
    shape = (len(cell.training.seeds), len(steps), *map(len, labels.values()))
    rows = xr.Dataset(
        {
            name: (
                ("seed", "step", *labels),
                rng(run, name).normal(size=shape),
                {"long_name": name.replace("_", " "), "units": "nats"},
            )
            for name in names
        },
        {
            "seed": list(cell.training.seeds),
            "step": steps,
            "evaluated": ("step", np.array([cell.training.is_evaluated(int(s)) for s in steps])),
            **{dim: np.array(of_dim, dtype=object) for dim, of_dim in labels.items()},
        },
    )
    rows = rows.where(rows.step <= done, 99.0)
    chunks = {"chunks": (shape[0], 2, *shape[2:])}
    rows.to_zarr(
        run / f"{store}.zarr", encoding=dict.fromkeys(names, chunks), consolidated=False, zarr_format=3
    )


def write_probe(run: Path, steps: Collection[int], name: str = "fourier", **extra: float) -> None:
    """A probe over the frequencies of the task's modulus, recorded at these steps."""
    cell = Run(run).config
    store = StepStore(run / "probes" / f"{name}.zarr", cell.training.seeds, cell.checkpoint_steps)
    draw = rng(run, name)
    n = cell.task.p // 2 + 1
    for step in cell.checkpoint_steps:
        per_seed = [
            xr.Dataset(
                {
                    "power": (("split", "frequency"), draw.normal(size=(2, n)), {"definition": "its power"}),
                    "key": ("frequency", draw.normal(size=n).astype("float32")),
                    **extra,
                },
                {"split": ["train", "test"], "frequency": range(n)},
                {"title": "a probe"},
            )
            for _ in cell.training.seeds
        ]
        if step in steps:
            store.write(step, per_seed)


def write_study(
    root: Path,
    study: StudyConfig,
    done: Callable[[str], int | None] = lambda name: 6,
    stores: Collection[str] = ("metrics",),
) -> Path:
    """A study whose cells have got as far as `done` says by their names; None: not begun."""
    folder = root / study.study
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(to_yaml(study))
    for name, cell in study.all_cells().items():
        steps = done(name)
        if steps is not None:
            write_cell(folder / name, cell, steps, stores)
    return folder


def poison(array: Path) -> None:
    """Make every chunk of an array on disk undecodable."""
    chunks = [path for path in (array / "c").rglob("*") if path.is_file()]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(b"not a chunk")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two placements by two learning rates; all cells done."""
    study = config(grid=PLACEMENT_AND_LR)
    folder = write_study(tmp_path_factory.mktemp("grid"), study, stores=("metrics", "norms"))
    for run in folder.iterdir():
        if run.is_dir():
            write_probe(run, CHECKPOINTS)
    return folder


def test_real_runs_come_back_cell_by_cell(tmp_path: Path) -> None:
    target = study_target(config(grid={"model.placement": ["M", "off"]}), tmp_path)
    train_target(target, resume=False, command="test")
    metrics, norms = mech_grok.load_study(target.folder), load_study(str(target.folder), "norms")
    assert metrics.train_loss.dims == ("placement", "seed", "step")
    assert norms.group_grad_norm.dims == ("placement", "seed", "step", "group")
    for path in target.cells:
        run = Run(path)
        for found, there in ((metrics, run.metrics), (norms, run.norms)):
            here = found.sel({"placement": run.name, **{dim: there[dim] for dim in there.dims}})
            assert here.drop_vars(["placement", "placement_name", "steps_done"]).equals(there)
            assert all(found[name].attrs == there[name].attrs for name in there.data_vars)
    assert set(norms.group.values) - set(Run(target.folder / "off").norms.group.values) == {"0_norms"}
    assert norms.group_grad_norm.sel(placement="off", group="0_norms").isnull().all()
    assert metrics.steps_done.values.tolist() == [6, 6]
    table = metrics.to_dataframe()
    assert table.index.names == ["placement", "seed", "step"]
    assert len(table) == 2 * 2 * 6
    one = Run(target.folder / "off").metrics.train_loss.sel(seed=1, step=4)
    assert table.loc[("off", 1, 4), "train_loss"] == float(one)


def test_labels_and_attributes(grid: Path) -> None:
    data = load_study(grid, "fourier")
    assert list(data.placement.values) == ["mlp-pre", "off"]
    assert list(data.placement_name.values) == ["M", "No LN"]
    assert list(data.lr.values) == [1e-3, 3e-3]
    assert data.lr.attrs == {"long_name": "optimiser.lr"}
    assert list(data.seed.values) == [3, 1]
    assert list(data.step.values) == list(CHECKPOINTS)
    assert data.power.dims == ("placement", "lr", "seed", "step", "split", "frequency")
    assert data.power.attrs == {"definition": "its power"}
    assert data.key.dtype == np.float32
    assert data.attrs == {"title": "a probe", "study": "s", "description": "what it is about"}


@pytest.mark.parametrize(
    ("key", "values", "labels", "kind"),
    [
        ("optimiser.weight_decay", [1, 0.5], [1.0, 0.5], "f"),
        ("model.n_layers", [2, 1], [2, 1], "i"),
        ("model.qk_norm", [True, False], [True, False], "b"),
        ("task.operation", ["multiply", "add"], ["multiply", "add"], "U"),
        ("training.data_seed", [None, 7], ["None", "7"], "U"),
        ("model.attention_factor", [[[1, 2]], 0.5], ["(1.0, 2.0)", "0.5"], "U"),
        ("task.p", [11], [11], "i"),
    ],
)
def test_an_axis_has_the_values_of_the_configs(
    tmp_path: Path, key: str, values: list[Any], labels: list[Any], kind: str
) -> None:
    folder = write_study(tmp_path, config(grid={key: values}))
    data = load_study(folder)
    name = key.rpartition(".")[2]
    assert data[name].dtype.kind == kind
    assert data[name].values.tolist() == labels
    for label, run in zip(labels, config(grid={key: values}).all_cells(), strict=True):
        assert (
            data.sel({name: label}).train_loss.values.tolist()
            == Run(folder / run).metrics.train_loss.values.tolist()
        )


def test_an_axis_whose_name_is_taken_has_its_whole_key(tmp_path: Path) -> None:
    write_study(tmp_path, config(study="t"))
    study = config(grid={"surgery.step": [2, 4]}, surgery={"parent": "../t/off", "step": 2})
    data = load_study(write_study(tmp_path, study))
    assert data.train_loss.dims == ("surgery.step", "seed", "step")
    assert data["surgery.step"].values.tolist() == [2, 4]
    assert _names(["a.every", "b.every", "a.of"], {"step"}) == ["a.every", "b.every", "of"]


def test_seeds_given_as_an_axis_are_joined(tmp_path: Path) -> None:
    study = config(grid={"training.seeds": [[5, 3], [4]], "model.placement": ["M", "off"]})
    done = {"mlp-pre_seeds=5-3": 6, "off_seeds=5-3": 2, "off_seeds=4": 4}
    folder = write_study(tmp_path, study, done.get)
    data = load_study(folder)
    assert data.train_loss.dims == ("placement", "seed", "step")
    assert data.seed.values.tolist() == [5, 3, 4]
    assert data.steps_done.dims == ("placement", "seed")
    assert data.steps_done.values.tolist() == [[6, 6, -1], [2, 2, 4]]
    off = data.train_loss.sel(placement="off")
    for name, seeds, steps in (("off_seeds=5-3", [5, 3], 2), ("off_seeds=4", [4], 4)):
        there = Run(folder / name).metrics.train_loss
        assert there.sizes["step"] == steps
        assert (off.sel(seed=seeds, step=slice(1, steps)).values == there.values).all()
        assert off.sel(seed=seeds, step=slice(steps + 1, None)).isnull().all()
    shutil.rmtree(folder / "off_seeds=5-3")
    assert data.test_loss.sel(placement="off", seed=4).notnull().sum() == 4


def test_seeds_that_overlap_stay_an_axis(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config(grid={"training.seeds": [[1], [2, 1]]}))
    data = load_study(folder)
    assert data.train_loss.dims == ("seeds", "seed", "step")
    assert data.seeds.values.tolist() == ["1", "2-1"]
    for name, text in (("off_seeds=1", "1"), ("off_seeds=2-1", "2-1")):
        there = Run(folder / name).metrics.train_loss
        assert data.train_loss.sel(seeds=text, seed=there.seed).equals(
            there.assign_coords(seeds=text, steps_done=6)
        )
    assert data.train_loss.sel(seeds="1", seed=2).isnull().all()
    assert data.steps_done.values.tolist() == [6, 6]


def test_named_cells_are_one_dimension(tmp_path: Path) -> None:
    """One of them forked from another: its rows begin later."""
    cells = {"off": {}, "later": {"model.placement": "qk+mlp", "surgery": {"parent": "off", "step": 4}}}
    folder = write_study(tmp_path, config(cells=cells))
    data = load_study(folder)
    assert data.train_loss.dims == ("cell", "seed", "step")
    assert data.cell.values.tolist() == ["off", "later"]
    assert data.placement.values.tolist() == ["off", "qk+mlp"]
    assert data.placement_name.values.tolist() == ["No LN", "qk+mlp"]
    later = data.train_loss.sel(cell="later")
    assert later.sel(step=slice(4)).isnull().all()
    assert (later.sel(step=[5, 6]).values == Run(folder / "later").metrics.train_loss.values).all()
    assert data.evaluated.dims == ("step",)


def test_a_study_of_one_cell_has_no_axis(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config())
    data = load_study(folder)
    there = Run(folder / "off").metrics
    assert data.drop_vars("steps_done").drop_attrs(deep=False).equals(there)
    assert data.train_loss.dims == ("seed", "step")
    assert int(data.steps_done) == 6


def test_how_far_each_cell_is(tmp_path: Path) -> None:
    """Rows after the last checkpoint are on disk, but not done."""
    done = {"mlp-pre_lr=0.001": 4, "mlp-pre_lr=0.003": 0, "off_lr=0.001": 2}
    data = load_study(write_study(tmp_path, config(grid=PLACEMENT_AND_LR), done.get))
    assert data.steps_done.dims == ("placement", "lr")
    assert data.steps_done.values.tolist() == [[4, 0], [2, -1]]
    assert data.step.values.tolist() == [1, 2, 3, 4]
    there = data.train_loss.notnull().all("seed").sum("step")
    assert there.values.tolist() == [[4, 0], [2, 0]]
    assert not (data.train_loss == 99).any()
    assert data.train_loss.dtype == float
    assert data.train_loss.where(data.steps_done == 4, drop=True).sizes == {
        "placement": 1,
        "lr": 1,
        "seed": 2,
        "step": 4,
    }


def test_only_cells_that_have_just_begun(tmp_path: Path) -> None:
    data = load_study(write_study(tmp_path, config(grid=PLACEMENT_AND_LR), {"off_lr=0.001": 0}.get))
    assert data.train_loss.shape == (2, 2, 2, 0)
    assert data.step.dtype.kind == "i"
    assert data.steps_done.values.tolist() == [[-1, -1], [0, -1]]


def test_steps_of_a_probe_count_once_wholly_written(tmp_path: Path) -> None:
    """Killed while it wrote a step, it leaves values without the mark, which comes last."""
    folder = write_study(tmp_path, config(grid={"model.placement": ["M", "off", "A*"]}))
    write_probe(folder / "mlp-pre", (0, 4))
    write_probe(folder / "off", CHECKPOINTS)
    for step in (4, 6):
        mark = folder / "off" / "probes" / "fourier.zarr" / "step_done" / "c" / str(CHECKPOINTS.index(step))
        mark.unlink()
    data = load_study(folder, "fourier")
    there = data.power.notnull().all(["seed", "split", "frequency"])
    assert data.step.values.tolist() == [0, 2, 4]
    assert there.values.tolist() == [[True, False, True], [True, True, False], [False] * 3]
    assert data.steps_done.values.tolist() == [6, 6, 6]
    assert "step_done" not in data
    assert "evaluated" not in data.coords


def test_dimensions_of_different_sizes(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config(grid={"task.p": [7, 11]}))
    for run in ("off_p=7", "off_p=11"):
        write_probe(folder / run, CHECKPOINTS)
    data = load_study(folder, "fourier")
    assert data.frequency.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.power.sel(p=7, frequency=[4, 5]).isnull().all()
    small = data.power.sel(p=7, frequency=slice(3)).values
    assert (small == Run(folder / "off_p=7").probe("fourier").power.values).all()
    assert data.power.sel(p=11).notnull().all()


def test_variables_that_only_some_cells_have(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config(grid={"model.placement": ["M", "off"]}))
    write_probe(folder / "mlp-pre", CHECKPOINTS)
    write_probe(folder / "off", CHECKPOINTS, newer=1.5)
    data = load_study(folder, "fourier")
    assert data.newer.sel(placement="mlp-pre").isnull().all()
    assert (data.newer.sel(placement="off") == 1.5).all()


def test_variables_with_other_dimensions_are_refused(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config(grid={"model.placement": ["M", "off"]}))
    for name, dims in (("mlp-pre", ("split",)), ("off", ("layer",))):
        store = StepStore(folder / name / "probes" / "mine.zarr", (3, 1), CHECKPOINTS)
        store.write(0, [xr.Dataset({"x": (dims, [1.0])}, {dims[0]: [0]})] * 2)
    with pytest.raises(
        UserError, match=r"off/probes/mine.zarr: 'x' has dimensions seed, step, layer, but seed"
    ):
        load_study(folder, "mine")


def test_evaluated_where_cells_differ(tmp_path: Path) -> None:
    """Only where two cells have done a step and one did not look has each its own."""
    study = config(grid={"training.evaluate_every": [2, 3]})
    data = load_study(write_study(tmp_path, study))
    assert data.evaluated.dims == ("evaluate_every", "step")
    assert data.evaluated.dtype == bool
    expected = [[cell.training.is_evaluated(s) for s in range(1, 7)] for cell in study.all_cells().values()]
    assert data.evaluated.values.tolist() == expected
    shutil.rmtree(tmp_path / "s")
    apart = load_study(
        write_study(tmp_path, study, {"off_evaluate_every=2": 4, "off_evaluate_every=3": 0}.get)
    )
    assert apart.evaluated.dims == ("step",)
    assert apart.evaluated.values.tolist() == expected[0][:4]


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


AXES: Mapping[str, Sequence[object]] = {
    "model.placement": ["M", "off"],
    "optimiser.lr": [3e-3, 1e-3],
    "task.p": [7, 11],
    "training.checkpoint_every": [2, 3],
    "training.seeds": [[3], [1, 2]],
}


def eager(folder: Path, study: StudyConfig, what: str) -> xr.Dataset:
    """The same from whole cells in memory, put together by xarray."""
    cells = []
    axes = [key.rpartition(".")[2] for key in study.grid]
    values = itertools.product(*study.grid.values())
    for (name, cell), of_cell in zip(study.all_cells().items(), values, strict=True):
        at = {axis: [value] for axis, value in zip(axes, of_cell, strict=True) if axis != "seeds"}
        if "placement" in at:
            at["placement"] = [cell.model.placement.specifier]
        if (folder / name).exists():
            run = Run(folder / name)
            if what == "metrics":
                cells.append(run.metrics.drop_vars("evaluated").expand_dims(at))
            elif what in run.probe_names:
                cells.append(run.probe(what).expand_dims(at))
    return xr.merge(cells, join="outer", compat="no_conflicts", combine_attrs="override")


@settings(max_examples=12, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(AXES)), min_size=1, max_size=2),
    st.sampled_from(["metrics", "fourier"]),
    st.data(),
)
def test_it_is_the_cells_put_together(keys: set[str], what: str, data: st.DataObject) -> None:
    """On any grid, however far each cell is and at whichever checkpoints a probe is recorded."""
    study = config(grid={key: AXES[key] for key in sorted(keys)})
    cells = study.all_cells()
    steps = {name: st.sampled_from(cell.checkpoint_steps) for name, cell in cells.items()}
    done = {name: data.draw(st.none() | of_cell) for name, of_cell in steps.items()}
    recorded = {
        name: data.draw(st.sets(of_cell)) for name, of_cell in steps.items() if done[name] is not None
    }
    first = next(iter(cells))
    done[first], recorded[first] = 6, set(cells[first].checkpoint_steps)
    with tempfile.TemporaryDirectory() as root:
        folder = write_study(Path(root), study, done.get, {what} & {*ROWS})
        for name in recorded if what == "fourier" else ():
            write_probe(folder / name, recorded[name])
        lazy, expected = load_study(folder, what).load(), eager(folder, study, what)
    assert set(lazy.data_vars) == set(expected.data_vars)
    for dim in ("step", "frequency", "split"):
        assert set(lazy.get(dim, np.array([])).data) == set(expected.get(dim, np.array([])).data)
    whole = expected.reindex({dim: lazy[dim] for dim in expected.dims})  # with the cells that have nothing
    for name, values in whole.data_vars.items():
        assert set(lazy[name].dims) == set(values.dims)
        np.testing.assert_array_equal(lazy[name].values, values.transpose(*lazy[name].dims).values)
        assert lazy[name].dtype == values.dtype
        assert lazy[name].attrs == values.attrs


def test_a_name_that_is_not_recorded(grid: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"s: no 'furier' in any cell; did you mean 'fourier'\? recorded: metrics, norms, fourier$",
    ):
        load_study(grid, "furier")
    with pytest.raises(UserError, match=r"no 'ablations' in any cell; recorded: metrics, norms, fourier$"):
        load_study(grid, "ablations")


def test_ablations(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config(grid={"model.placement": ["M", "off"]}))
    write_probe(folder / "off", CHECKPOINTS)
    (folder / "off" / "probes" / "fourier.zarr").rename(folder / "off" / "ablations.zarr")
    data = load_study(folder, "ablations")
    there = Run(folder / "off").ablations
    assert there is not None
    assert (data.power.sel(placement="off").values == there.power.values).all()
    assert data.power.sel(placement="mlp-pre").isnull().all()


def test_a_path_that_is_no_study(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "nowhere", r"nowhere: does not exist; give the folder that a study was trained into"),
        (tmp_path, r": has no study.yaml; give the folder"),
        (tmp_path / "file", r"file: is a file; give the folder"),
        (grid / "off_lr=0.001", r"off_lr=0.001: one run, not a study; load_run opens it"),
    ):
        with pytest.raises(UserError, match=message):
            load_study(path)
    (tmp_path / "study.yaml").write_text("grid: [")
    with pytest.raises(UserError, match=r"study.yaml line 1: not YAML"):
        load_study(tmp_path)


def test_a_study_that_has_not_begun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="s: none of its cells has begun; mech-grok sweep trains them"):
        load_study(write_study(tmp_path, config(), lambda name: None))


def test_a_cell_of_another_config_is_refused(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config())
    (folder / "study.yaml").write_text(to_yaml(config(training__steps=8)))
    with pytest.raises(
        UserError,
        match=r"off holds a run of another config than .*s/study.yaml says \(training.steps: 6 there, 8",
    ):
        load_study(folder)


@pytest.mark.parametrize(
    "damage", ["metrics.zarr/zarr.json", "metrics.zarr/step/c/0", "metrics.zarr/train_loss/zarr.json"]
)
def test_damage_that_shows_when_the_study_is_opened(tmp_path: Path, damage: str) -> None:
    folder = write_study(tmp_path, config())
    (folder / "off" / damage).write_text("{")
    with pytest.raises(UserError, match=r"off/metrics.zarr: damaged, or not a Zarr store"):
        load_study(folder)


def test_metrics_that_are_gone(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config())
    shutil.rmtree(folder / "off" / "metrics.zarr")
    with pytest.raises(UserError, match=r"off/metrics.zarr: damaged, or not a Zarr store"):
        load_study(folder)
