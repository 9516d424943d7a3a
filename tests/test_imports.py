"""Imports point one way, and importing costs nothing that a command does not use."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = (
    {
        "errors",
        "freed_memory",
        "parallel",
        "placement",
        "task",
        "config",
        "config_difference",
        "config_file",
        "probe_names",
        "study_config",
    },
    {"model"},
    {"training"},
    {
        "factor_record",
        "followed_curve",
        "futures",
        "generalisation",
        "phases",
        "structure",
        "array_store",
        "environment",
        "progress",
        "recorded",
        "signals",
        "run",
        "run_lock",
        "run_writer",
        "surgery",
        "train_stage",
    },
    {"probes", "interventions"},
    {"checkpoint_stages", "patch_stage", "report"},
    {"origins"},
    {"study", "fork_run", "lazy_cells", "study_axes"},
    {"sweep"},
    {"listing", "study_data", "paper"},
    {"cli"},
    {"", "__main__"},
)
"""Modules and packages of mech_grok, lowest first; each imports from its own layer and those before."""
SHORTCUT = ("run", "report.one_figure")
"""`run.figure(name)`, the one way up: what a reader of a run wants to see is drawn above it."""


def modules() -> dict[str, Path]:
    """Dotted name below mech_grok -> file; the package itself is ''."""
    files = (ROOT / "mech_grok").rglob("*.py")
    parts = {path: path.relative_to(ROOT / "mech_grok").with_suffix("").parts for path in files}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}


def imported(path: Path) -> Iterator[str]:
    """The mech_grok modules that a file imports, at its top or in a function."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: a relative import")
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "mech_grok":
                yield rest if rest in known else rest.rpartition(".")[0]


def layer(module: str) -> int:
    top = module.partition(".")[0]
    (index,) = [i for i, names in enumerate(LAYERS) if top in names]
    return index


def test_imports_point_one_way() -> None:
    for module, path in modules().items():
        upwards = [o for o in imported(path) if layer(o) > layer(module) and (module, o) != SHORTCUT]
        assert not upwards, f"mech_grok.{module} imports {upwards}, which are above it"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: {*imported(path)} - {module} for module, path in modules().items()}
    assert list(TopologicalSorter(graph).static_order())


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh Python has loaded after some code."""
    report = "import sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_and_the_package_itself_import_nothing_heavy() -> None:
    loaded = loaded_after("import mech_grok; from mech_grok.cli import main; main(['run', '--help'])")
    assert "cyclopts" in loaded
    assert not loaded & {"torch", "transformer_lens", "xarray", "zarr", "plotly", "pydantic", "numpy"}


def test_reading_and_reporting_runs_need_no_transformer_lens() -> None:
    reading = "from mech_grok import load_run, load_study; import mech_grok.listing, mech_grok.report"
    loaded = loaded_after(f"{reading}; import mech_grok.sweep.study_sweep")
    assert {"xarray", "plotly"} <= loaded
    assert "transformer_lens" not in loaded
