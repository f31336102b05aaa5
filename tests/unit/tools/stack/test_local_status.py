"""Test that `milkrun status` reports a full disk that holds a folder of the local stack."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from ops.status_findings import Finding
from tools.stack.local_status import laptop_source
from tools.stack.settings import Settings

Usage = namedtuple("Usage", "total used free")


def disk(environment: dict[str, str]) -> Finding:
    [found] = [each for each in laptop_source(environment).look() if each.part == "disk"]
    return found


def test_full_disk_that_holds_one_of_the_stacks_folders_is_reported_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"MILKRUN_LOCAL": str(tmp_path / "stack")}
    assert disk(environment).level == "OK"  # no stack exists yet
    warehouse = Settings.of(environment).snowflake_folder
    warehouse.mkdir(parents=True)
    free = {warehouse: 3_000_000}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, free.get(folder, 10**10)))
    found = disk(environment)
    assert (found.level, found.cause) == (
        "FAIL",
        f"almost full: 3 MB free on the disk of {warehouse}; free some space on it",
    )
    free.clear()
    assert disk(environment).level == "OK"
