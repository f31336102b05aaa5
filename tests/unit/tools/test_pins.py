"""Test that tools/pins.py reports missing or contradictory pins, pins without a hash, and host names of registries."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ops.stage_outputs import ROOT
from tools import pins


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy the files that the check reads into a temporary folder; return the folder."""
    names = subprocess.check_output(
        ["git", "ls-files", "*pyproject.toml", "*requirements*.in", "*requirements*.txt"], cwd=ROOT, text=True
    ).split()
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_all_pins_of_this_repository_are_complete(tree: Path) -> None:
    assert list(pins.problems(tree)) == []


@pytest.mark.parametrize(
    ("declared", "old", "target"),
    [
        ("pyproject.toml", "dependencies = [", "requirements.txt"),
        ("pyproject.toml", "lambda = [", "requirements-lambda.txt"),
        ("pyproject.toml", "kcl = [", "requirements-test.txt"),
        ("pyproject.toml", "checkov = [", "requirements-checkov.txt"),
        ("localstack/snowflake/pyproject.toml", "dependencies = [", "requirements.txt"),
    ],
)
def test_declared_dependency_without_a_pin_is_reported(
    tree: Path, declared: str, old: str, target: str
) -> None:
    replace(tree / declared, old, f'{old}"left-out",')
    assert f"{target} does not pin left-out of " in "\n".join(pins.problems(tree))


@pytest.mark.parametrize(
    "declared",
    [
        "airflow",
        "glue",
        "localstack",
        "snowpipe/dbt",
        "localstack/lambda_executor",
        "localstack/snowflake/outside",
    ],
)
def test_missing_pin_of_a_separate_environment_is_reported(tree: Path, declared: str) -> None:
    [source] = (tree / declared).glob("*requirements.in")
    source.write_text(source.read_text() + "left-out\n")
    [line] = pins.problems(tree)
    assert line.startswith(f"{declared}/{source.stem}.txt does not pin left-out of {declared}/{source.name};")


def test_pin_outside_the_declared_range_is_reported(tree: Path) -> None:
    replace(tree / "pyproject.toml", '"duckdb==2.0.*"', '"duckdb==9.9.*"')
    [line] = pins.problems(tree)
    assert line.startswith(
        "requirements.txt pins 2.0.0, which does not satisfy duckdb==9.9.* of pyproject.toml [project];"
    )


def test_pinned_package_without_a_hash_is_reported(tree: Path) -> None:
    with (tree / "requirements.txt").open("a") as pinned:
        pinned.write("bare==1.0\n")
    assert list(pins.problems(tree)) == ["requirements.txt: bare has no hash"]


def test_two_versions_of_a_package_in_one_environment_are_reported(tree: Path) -> None:
    replace(tree / "requirements-test.txt", "certifi==20", "certifi==19")
    assert any("certifi has a different version" in line for line in pins.problems(tree))


def test_missing_requirements_file_is_reported(tree: Path) -> None:
    (tree / "requirements-fuzz.txt").unlink()
    assert "requirements-fuzz.txt does not exist" in "\n".join(pins.problems(tree))


def test_file_that_contains_a_registry_host_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("one\nurl = https://files.python" + "hosted.org/packages/x.whl\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "lock"], cwd=tmp_path, check=True)
    assert list(pins.registry_hosts(tmp_path)) == ["lock:2 contains the host name of a package registry"]
