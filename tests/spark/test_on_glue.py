"""Test that the published scripts run as on Glue: with only the zip on the path, and with Glue's own arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glue.archive import Folder
from glue.compact import manifest_of
from glue.publish import JOBS, main
from tests.unit.glue.sample_archives import HOUR, archived, line

ROOT = Path(__file__).parents[2]
GLUE_ARGUMENTS = [
    "--JOB_NAME",
    "milkrun-dev-compact",
    "--JOB_ID",
    "j_1",
    "--TempDir",
    "s3://b/glue/tmp/",
    "--enable-metrics",
    "true",
]


def run_like_glue(folder: Path, job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, folder / f"{job}.py", *arguments, *GLUE_ARGUMENTS],
        cwd=folder.parent, env=environment | {"PYTHONPATH": str(folder / "milkrun.zip")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> Path:
    assert main(["--archive", str(tmp_path)]) == 0
    return tmp_path / "glue"


def test_zip_contains_every_module_that_the_scripts_import(published: Path) -> None:
    for job in JOBS:
        (published / "try.py").write_text(f"import importlib; importlib.import_module('glue.{job}')")
        ended = run_like_glue(published, "try")
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("job", [*JOBS, "beam"])
def test_each_glue_command_prints_its_help(job: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"glue.{job}", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "--archive" in ended.stdout


def test_published_script_compacts_the_archive_and_ignores_glue_arguments(
    published: Path, tmp_path: Path
) -> None:
    archived(tmp_path / "archive", [line(f"e{n}") for n in range(50)])
    range_ = [
        "--from",
        "2026-11-16T08:00Z",
        "--to",
        "2026-11-16T09:00Z",
        "--engine",
        "spark",
        "--master",
        "local[1]",
    ]
    ended = run_like_glue(published, "compact", "--archive", str(tmp_path / "archive"), *range_)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["lines"] == 50
    manifest = manifest_of(Folder(tmp_path / "archive"), HOUR)
    assert manifest is not None
    assert manifest["engine"] == "spark"
