"""The README is the map: every path it names exists, and every module is on it."""

import re
from pathlib import Path

from mech_grok.paper.claims_table import claims_table
from mech_grok.paper.results import load_results, measured

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def tree_entries() -> dict[str, str]:
    """Path -> description of every line of the tree in the README."""
    block = re.search(r"```text\n(mech_grok/.*?)```", README, re.DOTALL)
    assert block is not None
    entries, folders = {}, []
    for line in block[1].splitlines():
        indent, name, text = re.match(r"( *)(\S+) *(.*)", line).groups()
        folders = folders[: len(indent) // 2]
        entries["".join(folders) + name] = text
        if name.endswith("/"):
            folders.append(name)
    return entries


def test_every_linked_or_quoted_path_exists() -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    quoted = re.findall(r"`((?:mech_grok|tests|configs|benchmarks|reports)/[\w./-]*)`", README)
    named = {*linked, *quoted, *tree_entries()}
    assert len(named) > 40
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_module_is_in_the_tree_with_a_line_on_it() -> None:
    entries = tree_entries()
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "mech_grok").rglob("*.*")
        if path.suffix in (".py", ".js", ".css", ".jinja") and path.name not in ("__init__.py", "__main__.py")
    }
    assert modules - set(entries) == set()
    assert [path for path, text in entries.items() if not text and not path.startswith("mech_grok/")] == []
    assert [path for path in modules if not entries[path]] == []


def test_the_claims_are_what_the_committed_results_say() -> None:
    assert claims_table(measured(load_results(ROOT / "reports" / "paper"))) in README


def test_the_two_commands_come_first() -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    assert commands[0].startswith("make demo")
    assert commands[1].startswith("make test")
