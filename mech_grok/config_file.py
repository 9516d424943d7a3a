"""Studies as YAML 1.2 files, with overrides, and errors that fit on one line.

YAML 1.1 would read the placement `off` as False and `1e-3` as a string, so files are read as YAML 1.2.
"""

import difflib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from mech_grok.config import CellConfig
from mech_grok.errors import UserError
from mech_grok.study_config import StudyConfig, set_dotted

C = TypeVar("C", bound=CellConfig)

_EITHER = {
    "model.attention_factor": "allowed: one number above 0, or for each layer a list with one for each head, "
    "such as [[1.0, 2.0, 1.0, 1.0]]",
}
"""Keys whose values may be of several kinds -> what is allowed."""


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a YAML file, with `key=value` overrides applied (`training.steps=500`, values in YAML).

    An override of a grid axis replaces the axis. A file without a `study:` name takes the file's.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown, or a value is not allowed.
    """
    path = Path(path)
    tree = _read_mapping(path)
    tree.setdefault("study", path.stem)
    return _validate(StudyConfig, _overridden(tree, overrides), str(path))


def override_study(study: StudyConfig, overrides: Sequence[str]) -> StudyConfig:
    """A study with `key=value` overrides applied, as `read_study` does.

    Raises:
        UserError: a key is unknown, or a value is not allowed.
    """
    return _validate(StudyConfig, _overridden(study.model_dump(mode="json"), overrides), study.study)


def override_key(override: str) -> str:
    """The dotted key of an override.

    Raises:
        UserError: it is not of the form key=value.
    """
    key, equals, _ = override.partition("=")
    key = key.strip().lstrip("-")
    if not equals or not key:
        raise UserError(f"override '{override}': write it as key=value, for example training.steps=500")
    return key


def load_cell(path: str | Path) -> CellConfig:
    """The cell config that a run directory starts with.

    Raises:
        UserError: the file is missing, not YAML, or not a cell config.
    """
    return validate_cell(_read_mapping(Path(path)), str(path))


def validate_cell(tree: dict[str, Any], where: str) -> CellConfig:
    """The cell config of a mapping.

    Args:
        tree: its keys and values.
        where: what an error's message begins with.

    Raises:
        UserError: it is not a cell config.
    """
    return _validate(CellConfig, tree, where)


def to_yaml(config: CellConfig) -> str:
    """The effective config, every default spelled out, as YAML that reads back to the same config."""
    stream = io.StringIO()
    _yaml().dump(config.model_dump(mode="json"), stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.width = 100
    return yaml


def _parse(text: str, where: str) -> object:
    try:
        return _yaml().load(text)
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}{line}: not YAML: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:  # control characters, 2020-13-45, deep nesting
        raise UserError(f"{where}: not YAML: {str(error).splitlines()[0]}") from None


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot read the config: {reason}") from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values, not {type(tree).__name__}")
    return {str(key): value for key, value in tree.items()}


def _overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        tree = _override(tree, override)
    return tree


def _override(tree: dict[str, Any], override: str) -> dict[str, Any]:
    key = override_key(override)
    value = _parse(override.partition("=")[2], f"override '{override}'")
    grid = tree.get("grid")
    if key.startswith("grid."):
        axes = grid if isinstance(grid, dict) else {}
        return {**tree, "grid": {**axes, key.removeprefix("grid."): value}}
    if isinstance(grid, dict) and key in grid:
        tree = {**tree, "grid": {k: v for k, v in grid.items() if k != key}}
    return set_dotted(tree, key, value)


def _validate(kind: type[C], tree: dict[str, Any], where: str) -> C:
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        # A cell of the grid is validated inside its study, and its error names itself.
        failed = CellConfig if error.title == CellConfig.__name__ else kind
        raise UserError(f"{where}: {'; '.join(_lines(failed, error))}") from None


def _lines(kind: type[pydantic.BaseModel], error: pydantic.ValidationError) -> list[str]:
    # A list whose items are wrong is also called too short, which says nothing more.
    errors = [e for e in error.errors() if e["type"] != "too_short" or len(error.errors()) == 1]
    lines: dict[str | int, str] = {}
    for i, e in enumerate(errors):
        value, key = e.get("input"), ".".join(map(str, e["loc"][:2]))
        if key in _EITHER:  # an error for each kind that the value may be of; the first has all of the value
            lines.setdefault(key, f"{key}: {_EITHER[key]} (got {value!r})")
        else:
            lines[i] = _line(kind, e["type"], e["loc"], e["msg"], value)
    return list(lines.values())


def _line(
    kind: type[pydantic.BaseModel], code: str, loc: tuple[int | str, ...], message: str, value: object
) -> str:
    name = ".".join(map(str, loc))
    if code == "extra_forbidden":
        allowed = _fields_at(kind, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f"did you mean '{'.'.join([*map(str, loc[:-1]), near[0]])}'? " if near else ""
        return f"unknown key '{name}'; {hint}allowed: {', '.join(allowed)}"
    if code == "model_type":
        message = f"this is a section of keys and values, allowed keys: {', '.join(_fields_at(kind, loc))}"
    if loc == ("study",) and code == "string_pattern_mismatch":
        message = "a name has letters, digits, '.', '_', '-' only; give one as study: NAME or study=NAME"
    if code == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{name}: {message}" if name else message
    got = "" if code == "missing" or isinstance(value, dict) else f" (got {value!r})"
    return f"{name}: {message[:1].lower()}{message[1:]}{got}"


def _fields_at(kind: type[pydantic.BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        annotation = kind.model_fields[str(part)].annotation
        inner = [annotation, *get_args(annotation)]
        kind = next(a for a in inner if isinstance(a, type) and issubclass(a, pydantic.BaseModel))
    return list(kind.model_fields)
