"""Test that the wheel contains all required files of the packages, and runs with only the pinned dependencies."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
UV = Path(sys.executable).parent / "uv"
PACKAGES = ("contract", "aws", "cli", "handler", "consumer", "kcl", "snowpipe", "glue", "ops", "tools")
# The wheel omits another package, the console's TypeScript, scripts, and requirements files other than dbt's pins.
EXCLUDED = ("tools/conformance/", "tools/console/web/", ".sh", "requirements.in", "glue/requirements.txt")


def tracked(*folders: str) -> list[str]:
    """Return the files in the folders, both tracked and new ones, except those that git ignores."""
    found = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        text=True,
    )
    return [name for name in found.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the source, and return its path.

    In the checkout, setuptools would also add files from an old build folder that the source no longer contains.
    """
    folder = tmp_path_factory.mktemp("source")
    for name in ["pyproject.toml", "README.md", "LICENSE", *tracked(*PACKAGES)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-deps", "-w", "dist"], cwd=folder, check=True
    )
    [built] = (folder / "dist").glob("milkrun-*.whl")
    return built


def test_wheel_contains_every_file_of_the_packages_that_is_not_excluded(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        n for n in tracked(*PACKAGES) if not n.startswith(EXCLUDED[:2]) and not n.endswith(EXCLUDED[2:])
    }
    assert expected - inside == set()
    assert {name.split("/")[0] for name in inside} - set(PACKAGES) == {"milkrun-0.1.0.dist-info"}


@pytest.mark.slow
def test_wheel_runs_with_only_the_pinned_dependencies(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "environment/bin/python"
    for command in (
        ["venv", "-q", "--python", sys.executable, str(tmp_path / "environment")],
        ["pip", "sync", "-q", "--python", str(python), "--require-hashes", str(ROOT / "requirements.txt")],
        ["pip", "install", "-q", "--python", str(python), "--no-deps", str(wheel)],
    ):
        subprocess.run([UV, *command], check=True, cwd=tmp_path)
    milkrun = python.parent / "milkrun"
    shown = subprocess.run(
        [milkrun, "--help"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert "reconcile" in shown
