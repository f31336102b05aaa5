"""Test that imports follow the rules of docs/architecture.md and are not circular, that the make targets named in
README.md and CONTRIBUTING.md exist, that `make demo` accepts any file name, that scripts ignore CDPATH, and that the
files that name the Python version agree.
"""

import ast
import os
import re
import shutil
import subprocess
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PRODUCT = {"contract", "aws", "handler", "consumer", "snowpipe"}
STAND_ALONE = {"local_snowflake", "localstack_lambda_executor", "milkrun_conformance"}
# From the table in docs/architecture.md: the packages that each package may import besides itself.
MAY_IMPORT = {
    "contract": set(),
    "aws": {"contract"},
    "handler": {"contract", "aws"},
    "consumer": {"contract", "aws"},
    "kcl": {"contract", "aws", "consumer"},
    "cli": {"contract", "aws"},
    "snowpipe": {"contract", "aws", "cli"},
    "glue": {*PRODUCT, "cli"},
    "ops": {*PRODUCT, "cli", "glue"},
    "tools.stack": {*PRODUCT, "cli", "glue", "ops", *STAND_ALONE},
    "tools.console": {*PRODUCT, "cli", "ops", "tools.stack"},
    "tools.fleet": {*PRODUCT, "cli", "ops", "tools.stack"},
    "tools.outage_simulation": {"ops"},
}
PACKAGES = {*MAY_IMPORT, *STAND_ALONE, "tools", "tests"}
FOLDERS = {
    "local_snowflake": "localstack/snowflake/src/local_snowflake",
    "localstack_lambda_executor": "localstack/lambda_executor/src/localstack_lambda_executor",
    "milkrun_conformance": "tools/conformance/src/milkrun_conformance",
}
# `python -m ops`, the previous name of `milkrun`, runs tools/milkrun.py.
EXEMPT = {"ops/__main__.py"}


def package_of(module: str) -> str | None:
    """Return the project's package that contains a module; None if the module is not part of the project."""
    parts = module.split(".")
    return next((name for n in (2, 1) if (name := ".".join(parts[:n])) in PACKAGES), None)


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {package for name in names if (package := package_of(name))}


@pytest.mark.parametrize("package", [*MAY_IMPORT, *sorted(STAND_ALONE)])
def test_package_imports_only_packages_that_the_architecture_page_allows(package: str) -> None:
    allowed = {package, *MAY_IMPORT.get(package, ())}
    sources = [
        path
        for path in (ROOT / FOLDERS.get(package, package.replace(".", "/"))).rglob("*.py")
        if "dbt" not in path.relative_to(ROOT).parts
    ]
    assert sources
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in sources
        if str(path.relative_to(ROOT)) not in EXEMPT and (bad := imported_packages(path) - allowed)
    }
    assert wrong == {}


def test_modules_have_no_circular_imports() -> None:
    """Consider only module-level imports, not imports inside functions or under `if TYPE_CHECKING`."""
    graph = {
        name: {target for target in imported_modules(tree) if target != name}
        for name, tree in modules().items()
    }
    with_cycles = TopologicalSorter(graph)
    with_cycles.prepare()  # raises CycleError, which names the cycle


@cache
def modules() -> dict[str, ast.Module]:
    found: dict[str, ast.Module] = {}
    for package in (*MAY_IMPORT, *STAND_ALONE, "tools"):
        folder = ROOT / FOLDERS.get(package, package.replace(".", "/"))
        for path in folder.glob("*.py") if package == "tools" else folder.rglob("*.py"):
            inner = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *inner]).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


def imported_modules(tree: ast.Module) -> set[str]:
    known = modules().keys()
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {
                full if (full := f"{node.module}.{alias.name}") in known else node.module
                for alias in node.names
            }
    return names & known


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("page", [p for p in ("README.md", "CONTRIBUTING.md") if (ROOT / p).exists()])
def test_every_make_command_in_readme_and_contributing_has_a_makefile_target(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)\b", "\n".join(code_of((ROOT / page).read_text()))))
    assert named
    assert named <= make_targets()


def code_of(markdown: str) -> list[str]:
    """Return the code blocks and inline code on a page. Prose is omitted, because "make" is often a verb there."""
    blocks = re.findall(r"```.*?```", markdown, re.S) + re.findall(r"^    .*$", markdown, re.M)
    return blocks + re.findall(r"`[^`\n]+`", markdown)


def test_top_level_localstack_folder_contains_no_python_module() -> None:
    """A module in this folder would shadow a module of the installed namespace package `localstack`."""
    assert list((ROOT / "localstack").glob("*.py")) == []


@pytest.mark.parametrize("command", ["tools/lock.sh", "tools/packages.sh tools/conformance", ".ci/run"])
def test_script_runs_in_its_clone_despite_a_cdpath_with_a_folder_of_the_same_name(
    tmp_path: Path, command: str
) -> None:
    script, *arguments = command.split()
    clone, home = tmp_path / "clone", tmp_path / "home"
    (home / script).parent.mkdir(parents=True)
    (clone / script).parent.mkdir(parents=True)
    shutil.copy(ROOT / script, clone / script)
    shutil.copy(ROOT / ".python-version", clone)
    for program in ("clone/.venv/bin/uv", "programs/git", "programs/make"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text(f"#!/bin/sh\npwd >>{tmp_path}/seen\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}/programs:{os.environ['PATH']}", "CDPATH": str(home)}
    subprocess.run([script, *arguments], cwd=clone, env=environment, capture_output=True, check=False)
    assert (tmp_path / "seen").read_text() == f"{clone}\n"
    assert [path.name for path in home.iterdir()] == [Path(script).parts[0]]


def test_make_demo_accepts_an_events_file_with_any_name(tmp_path: Path) -> None:
    """Scripts that print their arguments replace setup.sh and Python."""
    (tmp_path / "tools").mkdir()
    for program in ("tools/setup.sh", "python"):
        (tmp_path / program).write_text('#!/bin/sh\nfor word; do echo "[$word]"; done\n')
        (tmp_path / program).chmod(0o755)
    name = "../it's 7 o'clock; \"rounds\".ndjson"
    output = subprocess.run(
        ["make", "--no-print-directory", "-f", ROOT / "Makefile", "demo", f"EVENTS={name}", "PY=./python"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.splitlines()[-2:] == ["[--events]", f"[{name}]"]


def test_files_that_name_the_python_version_agree_with_dot_python_version() -> None:
    version = (ROOT / ".python-version").read_text().strip()
    for name, text in {
        "serverless.yml": f"  runtime: python{version}\n",
        "pyproject.toml": f'python_version = "{version}"\n',
        "kcl/worker.py": f'"processingLanguage": "python/{version}"',
        "localstack/lambda_executor/src/localstack_lambda_executor/executor.py": f'RUNTIME = "python{version}"\n',
    }.items():
        assert text in (ROOT / name).read_text(), name
