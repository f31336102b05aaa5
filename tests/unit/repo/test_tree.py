"""What the tree promises: imports point one way, and the README's commands exist."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAY_IMPORT = {
    "contract": set(),
    "handler": {"contract"},
    "consumer": {"contract"},
    "snowpipe": {"contract"},
    "glue": {"contract", "consumer", "snowpipe"},
    "ops": {"contract", "handler", "consumer", "snowpipe", "glue"},
}


def imported_folders(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names & set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in (ROOT / folder).rglob("*.py")
        if "dbt" not in path.relative_to(ROOT).parts
        and (bad := imported_folders(path) - MAY_IMPORT[folder] - {folder})
    }
    assert wrong == {}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("page", [p for p in ("README.md", "CONTRIBUTING.md") if (ROOT / p).exists()])
def test_every_make_command_on_a_page_is_a_target(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)\b", "\n".join(code_of((ROOT / page).read_text()))))
    assert named
    assert named <= make_targets()


def code_of(markdown: str) -> list[str]:
    """Fenced and indented blocks and inline code: prose may say "make it so"."""
    blocks = re.findall(r"```.*?```", markdown, re.S) + re.findall(r"^    .*$", markdown, re.M)
    return blocks + re.findall(r"`[^`\n]+`", markdown)


def test_nothing_python_lies_directly_in_localstack() -> None:
    """A module there would shadow one of the installed namespace package `localstack`."""
    assert list((ROOT / "localstack").glob("*.py")) == []


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "package-lock.json").read_text()


def test_a_file_for_the_demo_may_have_any_name(tmp_path: Path) -> None:
    """What make would run, run with a Python that says how it was called."""
    (tmp_path / "ops").mkdir()
    for program in ("ops/setup.sh", "python"):
        (tmp_path / program).write_text('#!/bin/sh\nfor word; do echo "[$word]"; done\n')
        (tmp_path / program).chmod(0o755)
    name = "../it's 7 o'clock; \"rounds\".ndjson"
    told = subprocess.run(
        ["make", "--no-print-directory", "-f", ROOT / "Makefile", "demo", f"EVENTS={name}", "PY=./python"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.splitlines()[-2:] == ["[--events]", f"[{name}]"]
