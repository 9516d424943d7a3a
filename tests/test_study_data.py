"""A study as one labelled array: what is where, what is nan, and that only what is selected is read."""

import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from fake_studies import CHECKPOINTS, PLACEMENT_AND_LR, ROWS, config, write_grid, write_probe, write_study
from hypothesis import given, settings
from hypothesis import strategies as st

import mech_grok
from mech_grok import load_study
from mech_grok.array_store import StepStore
from mech_grok.errors import UserError
from mech_grok.run import Run
from mech_grok.study import study_target, train_target
from mech_grok.study_axes import _names
from mech_grok.study_config import StudyConfig


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"))


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


def test_ablations(tmp_path: Path) -> None:
    folder = write_study(tmp_path, config(grid={"model.placement": ["M", "off"]}))
    write_probe(folder / "off", CHECKPOINTS)
    (folder / "off" / "probes" / "fourier.zarr").rename(folder / "off" / "ablations.zarr")
    data = load_study(folder, "ablations")
    there = Run(folder / "off").ablations
    assert there is not None
    assert (data.power.sel(placement="off").values == there.power.values).all()
    assert data.power.sel(placement="mlp-pre").isnull().all()
