"""What a cold start may import: counted in modules, since milliseconds are the machine's."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
IDLE = {
    "boto3",
    "botocore.session",
    "botocore.client",
    "contract.models",
    "handler.redrive",
    "handler.openapi",
}
BUDGET = 298  # beyond what structlog pulls in where rich is installed, as it is here and not in the zip


def test_nothing_is_imported_that_a_sound_request_does_not_use() -> None:
    code = "import json, sys; import structlog; n = len(sys.modules); import handler.main; "
    code += "print(json.dumps([len(sys.modules) - n, sorted(sys.modules)]))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    count, names = json.loads(output)
    assert not IDLE & {*names}
    assert count <= BUDGET
