"""What a cold start costs: CPU of importing and building everything, from the zip, in a fresh process.

    python -m tests.bench.cold [--json]

Against the naive peer packaged by default, which means from its zip too, but with the bytecode thrown away:
a zip that resets modification times makes Python take every `.pyc` for stale.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ops.package import package

ROOT = Path(__file__).parents[2]
ROUNDS = 7
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "ARCHIVE_BUCKET": "archive",
    "STREAM_NAME": "stream",
    "REDRIVE_QUEUE_URL": "http://127.0.0.1:9/queue",
    "PYTHONDONTWRITEBYTECODE": "1",
    "POWERTOOLS_SERVICE_NAME": "bench",
    "POWERTOOLS_METRICS_NAMESPACE": "bench",
    "POWERTOOLS_TRACE_DISABLED": "true",
}
MEASURE = """
import json, sys, time
began = time.process_time()
sys.path[:0] = {paths!r}
{build}
print(json.dumps([time.process_time() - began, len(sys.modules), sorted(sys.modules)]))
"""
BUILD = {
    "ours": "import handler.main; handler.main._app()",
    "naive": "import tests.bench.peers.naive",
    "powertools": "import tests.bench.peers.powertools",
    "powertools_tracer": "import aws_lambda_powertools.tracing, tests.bench.peers.powertools;"
    " aws_lambda_powertools.tracing.Tracer()",
}


def started(peer: str, *paths: Path) -> tuple[float, int, list[str]]:
    """CPU seconds, modules, and their names, in a process that has nothing else."""
    code = MEASURE.format(paths=[str(path) for path in paths], build=BUILD[peer])
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    output = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True).stdout
    seconds, count, names = json.loads(output.splitlines()[-1])
    return seconds, count, names


def unpacked(zip_path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(zip_path) as archive:
        archive.extractall(folder)
    return folder


def without_bytecode(folder: Path) -> Path:
    for compiled in folder.rglob("*.pyc"):
        compiled.unlink()
    return folder


def figures() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        zipped = package("local")["handler"]
        ours = unpacked(zipped, fresh / "ours")
        peers = without_bytecode(unpacked(zipped, fresh / "default"))
        for own in ("handler", "contract"):
            assert (peers / own).is_dir()
        runs: dict[str, list[tuple[float, int, list[str]]]] = {}
        for _ in range(ROUNDS):
            runs.setdefault("ours", []).append(started("ours", ours))
            runs.setdefault("naive", []).append(started("naive", peers, ROOT))
        milliseconds = {peer: statistics.median(run[0] for run in each) * 1e3 for peer, each in runs.items()}
        return {
            "cold_start_ms": milliseconds["ours"],
            "cold_start_modules": runs["ours"][0][1],
            "naive_cold_start_ms": milliseconds["naive"],
            "naive_cold_start_modules": runs["naive"][0][1],
            "cold_start/naive": milliseconds["ours"] / milliseconds["naive"],
        }


if __name__ == "__main__":
    measured = figures()
    print(json.dumps(measured) if "--json" in sys.argv else measured)
