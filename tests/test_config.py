"""Configs as values and as YAML 1.2: defaults, overrides, grids, and one line for every mistake."""

import difflib
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mech_grok.config import (
    CellConfig,
    ModelConfig,
    SurgeryConfig,
    TaskConfig,
    TrainingConfig,
)
from mech_grok.config_file import load_cell, read_study, to_yaml
from mech_grok.errors import UserError
from mech_grok.placement import Placement, all_placements
from mech_grok.study_config import StudyConfig, set_dotted

PRESETS = Path(__file__).parents[1] / "configs"

same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)


@pytest.fixture
def study(tmp_path: Path):
    """Write a YAML text (or bytes) to a file and load it."""

    def load(text: str | bytes, *overrides: str) -> StudyConfig:
        path = tmp_path / "example.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_study(path, overrides)

    return load


def test_defaults_are_the_papers_main_setting():
    cell = CellConfig()
    assert cell.task == TaskConfig(operation="add", p=113, test_fraction=0.7)
    assert (cell.task.task.n_train, cell.task.task.n_test) == (3831, 8938)
    assert (cell.model.n_layers, cell.model.d_model, cell.model.n_heads, cell.model.d_mlp) == (1, 128, 4, 512)
    assert (cell.model.activation, cell.model.init, cell.model.placement.specifier) == (
        "relu",
        "lecun",
        "off",
    )
    assert cell.optimiser.model_dump() == {
        "lr": 1e-3,
        "weight_decay": 1.0,
        "beta1": 0.9,
        "beta2": 0.98,
        "eps": 1e-8,
    }
    assert cell.training.seeds == (456, 789, 111, 222, 333)
    assert cell.training.steps == 10_000


def test_off_is_a_placement_and_not_a_boolean(study):
    assert study("model: {placement: off}").model.placement == Placement.of()
    names = list(study("grid: {model.placement: [off, M, 'A^qk', qk+mlp]}").all_cells())
    assert names == ["off", "mlp-pre", "attn-pre-qk", "qk+mlp"]


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("3E-4", 3e-4), ("1e0", 1.0), ("2", 2.0)])
def test_numbers_in_scientific_notation_are_floats(study, text: str, value: float):
    assert study(f"optimiser: {{lr: {text}}}").optimiser.lr == value
    assert study("{}", f"optimiser.lr={text}").optimiser.lr == value


def test_a_study_takes_its_files_name_unless_it_has_one(study):
    assert study("{}").study == "example"
    assert study("study: mine").study == "mine"


def test_overrides(study):
    text = "{model: {placement: pre, d_model: 64}, grid: {model.norm: [ln, rms], optimiser.lr: [1e-3]}}"
    loaded = study(
        text, "model.placement=off", "--training.steps=500", "training.seeds=[1, 2]", "model.norm=rms"
    )
    assert loaded.model.placement == Placement.of()
    assert loaded.model.d_model == 64
    assert (loaded.training.steps, loaded.training.seeds) == (500, (1, 2))
    assert loaded.model.norm == "rms"
    assert list(loaded.grid) == ["optimiser.lr"], "an override of an axis replaces the axis"
    assert list(study(text, "grid.optimiser.lr=[0.5, 0.25]").grid["optimiser.lr"]) == [0.5, 0.25]


def test_cells_are_the_product_of_the_axes_first_axis_slowest(study):
    cells = study("grid: {optimiser.lr: [3e-3, 1e-3], model.placement: [M, off]}").all_cells()
    assert list(cells) == ["mlp-pre_lr=0.003", "off_lr=0.003", "mlp-pre_lr=0.001", "off_lr=0.001"]
    assert cells["off_lr=0.003"].optimiser.lr == 3e-3
    assert cells["off_lr=0.003"].model.placement == Placement.of()
    assert all(type(c) is CellConfig for c in cells.values())


def test_a_study_without_a_grid_has_one_cell(study):
    loaded = study("model: {placement: M}")
    assert list(loaded.all_cells()) == ["mlp-pre"]
    assert loaded.all_cells()["mlp-pre"].model == loaded.model


BAD = [
    ("model: {placment: off}", "'model.placement'"),
    ("modle: {}", "'model'"),
    ("optimiser: {learning: 1}", "lr, weight_decay"),
    ("grid: {model.placment: [off]}", "'model.placement'"),
    ("grid: {modle.placement: [off]}", "'model'"),
    ("grid: {study: [a]}", "allowed: task, model, optimiser, training"),
    ("model: {placement: mlp-per}", "did you mean 'mlp-pre'"),
    ("grid: {model.placement: [mlp-per]}", "did you mean 'mlp-pre'"),
    ("grid: {model: [{placement: M}]}", "grid.model is a section"),
    ("model: {n_layers: true}", "model.n_layers: input should be a valid integer (got True)"),
    ("model: {qk_norm: yes}", "model.qk_norm: input should be a valid boolean (got 'yes')"),
    ("model: {placement: false}", "a placement is a name such as mlp-pre or M, not False"),
    ("model: {placement: null}", "not None"),
    ("model: {norm: layer}", "'ln' or 'rms' (got 'layer')"),
    ("model: {n_heads: 3}", "n_heads = 3 does not divide d_model = 128"),
    ("model: {n_layers: 0}", "model.n_layers: input should be greater than 0 (got 0)"),
    ("model: off", "model: this is a section of keys and values, allowed keys: placement, norm"),
    ("task: {p: 2}", "task.p"),
    ("task: {p: 7.5}", "valid integer (got 7.5)"),
    ("task: {operation: divide}", "'add', 'subtract'"),
    ("task: {p: 3, test_fraction: 0.05}", "leaves the test set empty at p = 3 (9 pairs)"),
    ("task: {test_fraction: 1}", "less than 1"),
    ("optimiser: {lr: 0}", "optimiser.lr: input should be greater than 0 (got 0)"),
    ("optimiser: {lr: .inf}", "finite number (got inf)"),
    ("optimiser: {weight_decay: .nan}", "finite number (got nan)"),
    ("optimiser: {beta2: 1}", "less than 1"),
    ("training: {seeds: []}", "at least 1"),
    ("training: {seeds: [1, 1]}", "seeds [1, 1] name one seed twice"),
    ("training: {seeds: [-1]}", "greater than or equal to 0"),
    ("training: {seeds: 5}", "training.seeds"),
    ("grid: {model.placement: off}", "grid.model.placement: input should be a valid list (got 'off')"),
    ("grid: {model.placement: []}", "at least 1 item"),
    ("grid: {model.placement: [off, No LN]}", "names a cell twice: off, off"),
    ("grid: [1]", "grid: input should be a valid dictionary"),
    ("study: ../up", "study"),
    ("study: 2020-13-45", "not YAML"),
    ("1: 2", "unknown key '1'"),
    ("model: {1: 2}", "model.1: keys should be strings"),
    ("- a", "a config is a mapping of keys to values, not list"),
    ("", "a config is a mapping"),
    ("model: [a", "line 1: not YAML"),
    ("a: 1\nb: }", "line 2: not YAML"),
    ("model: {norm: ln, norm: rms}", "duplicate key"),
    ("study: !!python/object:os.system x", "not YAML"),
    ("a: 1\n---\nb: 2", "another document"),
    ("study: \x07", "not YAML"),
    ('"two\\nlines": 1', "unknown key 'two lines'"),
    (b"\xff\xfe\x00", "not UTF-8 text"),
]


@pytest.mark.parametrize(("text", "says"), BAD, ids=[str(t[:40]) for t, _ in BAD])
def test_every_mistake_in_a_file_is_one_line_that_names_it(study, text: str | bytes, says: str):
    with pytest.raises(UserError) as error:
        study(text)
    assert says in str(error.value)
    assert "example.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.placement", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("model.placment=M", "unknown key 'model.placment'; did you mean 'model.placement'"),
        ("model.placement=N", "unknown placement 'N'"),
        ("model.placement=", "not None"),
        ("model=off", "model: this is a section of keys and values, allowed keys: placement, norm"),
        ("optimiser.lr.x=3", "optimiser.lr: input should be a valid number"),
        ("training.seeds=[1", "override 'training.seeds=[1' line 1: not YAML"),
        ("grid.model.placement=off", "valid list"),
        ("model.attention_factor=0", "such as [[1.0, 2.0, 1.0, 1.0]] (got 0)"),
        ("model.attention_factor=[[1, 2, 3, 0]]", "model.attention_factor: allowed: one number above 0"),
        ("model.attention_factor=[1, 2]", "such as [[1.0, 2.0, 1.0, 1.0]] (got [1, 2])"),
        ("model.attention_factor=[[1, 2]]", "one number, or 1 lists (one a layer) of 4 numbers"),
    ],
)
def test_every_mistake_in_an_override_is_one_line_that_names_it(study, override: str, says: str):
    with pytest.raises(UserError) as error:
        study("{}", override)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str):
    with pytest.raises(UserError, match="cannot read the config: "):
        read_study(tmp_path / name)


@given(st.text() | st.binary().filter(lambda b: b"\r" not in b), st.text())
@same_folder
def test_any_text_is_a_study_or_one_line_of_complaint(study, text: str | bytes, override: str):
    try:
        study(text, override)
    except UserError as error:
        complaint = str(error)
    else:
        complaint = "none"
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize("section", ["task", "model", "optimiser", "training"])
def test_a_slip_in_any_key_is_told_the_right_one(study, section: str):
    fields = list(type(getattr(CellConfig(), section)).model_fields)
    for field in fields:
        slip = field + "z"
        assert difflib.get_close_matches(slip, fields, n=1) == [field]
        with pytest.raises(
            UserError, match=f"unknown key '{section}.{slip}'; did you mean '{section}.{field}'"
        ):
            study(f"{section}: {{{slip}: 1}}")


cells = st.builds(
    CellConfig,
    task=st.builds(TaskConfig, p=st.integers(5, 113)),
    model=st.builds(
        ModelConfig,
        placement=st.sampled_from(all_placements()),
        norm=st.sampled_from(["ln", "rms"]),
        final_norm=st.sampled_from(["off", "on", "frozen"]),
        readout_scale=st.floats(1e-6, 1e6),
        qk_norm=st.booleans(),
    ),
    training=st.builds(
        TrainingConfig, seeds=st.lists(st.integers(0, 2**40), min_size=1, unique=True).map(tuple)
    ),
)


@given(cells)
@same_folder
def test_a_cell_reads_back_from_its_yaml(tmp_path: Path, cell: CellConfig):
    path = tmp_path / "cell.yaml"
    path.write_text(to_yaml(cell))
    assert load_cell(path) == cell


def test_a_study_reads_back_from_its_yaml(study):
    loaded = study(
        "{description: 'a: b # c', grid: {model.placement: [off, M], optimiser.lr: [1e-8, 3e-3],"
        " training.data_seed: [null, 3]}, training: {seeds: [1, 2]}}"
    )
    again = study(to_yaml(loaded))
    assert again == loaded
    assert again.all_cells() == loaded.all_cells()


def test_the_yaml_spells_out_every_default_with_off_as_it_is_written():
    text = to_yaml(CellConfig())
    for name, section in CellConfig():
        for field in [name] if section is None else type(section).model_fields:
            assert f"{field}:" in text
    assert "placement: off" in text or "placement: 'off'" in text


def test_configs_are_frozen_and_refuse_unknown_keys():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        CellConfig().model.d_model = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        ModelConfig(width=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("steps", "fork", "expected"),
    [
        (250, None, (0, 100, 200, 250)),
        (200, None, (0, 100, 200)),
        (5, None, (0, 5)),
        (300, 200, (200, 300)),
        (300, 150, (150, 200, 300)),
    ],
)
def test_checkpoints_at_the_first_step_regularly_and_at_the_end(steps: int, fork: int | None, expected):
    surgery = None if fork is None else SurgeryConfig(parent="off", step=fork)
    cell = CellConfig(training=TrainingConfig(steps=steps, checkpoint_every=100), surgery=surgery)
    assert cell.checkpoint_steps == expected


def test_set_dotted_copies():
    tree: dict[str, Any] = {"a": {"b": 1, "c": 2}, "d": 3}
    assert set_dotted(tree, "a.b", 9) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert set_dotted(tree, "x.y", 9)["x"] == {"y": 9}
    assert set_dotted(tree, "d.e", 9)["d"] == {"e": 9}
    assert tree == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_a_valid_study_named_after_its_file(preset: Path):
    loaded = read_study(preset)
    assert loaded.study == preset.stem
    assert loaded.description
    assert loaded.all_cells()
