"""Test that a cold start imports no unused modules, and no more modules than its budget allows.

The duration of a cold start is not tested, because it depends on the machine.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Modules that a valid request does not use if the function runs without SnapStart
IDLE = {
    "boto3",
    "botocore.session",
    "botocore.client",
    "botocore.credentials",
    "contract.reasons",
    "pydantic",
    "urllib3",
    "handler.redrive",
}
# The maximum number of imported modules besides those that structlog imports. Those are not counted, because structlog
# imports more of them if rich is installed, as it is here but not in the zip.
BUDGET = 94
REDRIVE_BUDGET = 90


def imported_by(module: str) -> tuple[int, set[str]]:
    code = f"import json, sys; import structlog; n = len(sys.modules); import {module}; "
    code += "print(json.dumps([len(sys.modules) - n, sorted(sys.modules)]))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    count, names = json.loads(output)
    return count, {*names}


def test_ingest_imports_no_unused_module_and_stays_within_its_import_budget() -> None:
    count, names = imported_by("handler.main")
    assert not IDLE & names
    assert count <= BUDGET


def test_redrive_imports_no_unused_module_and_stays_within_its_import_budget() -> None:
    count, names = imported_by("handler.redrive")
    assert not {"handler.main", "handler.signature", "boto3"} & names
    assert count <= REDRIVE_BUDGET
