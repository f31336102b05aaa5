"""Measure the cost of a cold start: `python -m tests.bench.cold [--json]`.

The results are the CPU time of all imports and of initialisation in a fresh process, and the number of loaded
modules. Our handler is started from its unpacked zip. The peers (naive, and Powertools with and without its Tracer)
use the packages of that zip without bytecode, because default packaging resets modification times and Python then
ignores every `.pyc`. They are also measured with bytecode, to show its effect separately.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import aws_lambda_powertools

from ops.package import MODELS, compile_folder, package
from tests.bench import figures
from tests.bench.figures import Figures, progress

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
sys.path[:0] = [{folder!r}]
{build}
print(json.dumps([time.process_time() - began, len(sys.modules)]))
"""
BUILD = {
    "ours": "import handler.main; handler.main._app()",
    # jwt imports the packages that verify a token. The provider's keys are not fetched: fetching takes hardly any CPU.
    "identity": "import handler.main; handler.main._app(); import jwt",
    "naive": "import peers.naive",
    "powertools": "import peers.powertools",
    "powertools_tracer": "import aws_lambda_powertools, peers.powertools; aws_lambda_powertools.Tracer()",
}
# The packages that the peers need beyond those in the zip; the Tracer of Powertools is based on the X-Ray SDK.
POWERTOOLS = ("aws_lambda_powertools", "aws_xray_sdk", "wrapt", "jmespath", "botocore/data/xray", *MODELS)


def started(peer: str, folder: Path) -> tuple[float, int]:
    """Start a handler in a fresh process; return its CPU seconds and the number of modules that it loaded."""
    code = MEASURE.format(folder=str(folder), build=BUILD[peer])
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    output = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True).stdout
    seconds, count = json.loads(output.splitlines()[-1])
    return seconds, count


def peers_folder(zipped: Path, folder: Path) -> Path:
    """Copy the zip's packages, Powertools and tests/bench/peers into a folder, without bytecode; return the folder."""
    unpack(zipped, folder)
    installed = Path(aws_lambda_powertools.__file__).parents[1]
    for name in POWERTOOLS:
        if not (folder / name).exists():
            shutil.copytree(installed / name, folder / name)
    shutil.copytree(Path(__file__).with_name("peers"), folder / "peers")
    for compiled in folder.rglob("*.pyc"):
        compiled.unlink()
    return folder


def unpack(zipped: Path, folder: Path) -> Path:
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(folder)
    return folder


def measure() -> Figures:
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        progress("building the packages for the cold starts")
        zipped = package("local")["handler"]
        ours, default = unpack(zipped, fresh / "ours"), peers_folder(zipped, fresh / "default")
        compiled = Path(shutil.copytree(default, fresh / "compiled"))
        compile_folder(compiled)
        starts = {"ours": (ours, "ours"), "with identity": (ours, "identity")}
        for peer in ("naive", "powertools", "powertools_tracer"):
            starts |= {peer: (default, peer), f"{peer}, with bytecode": (compiled, peer)}
        runs: dict[str, list[tuple[float, int]]] = {start: [] for start in starts}
        for n in range(ROUNDS):
            progress(f"measuring cold starts, round {n + 1} of {ROUNDS}")
            for start, (folder, peer) in starts.items():
                runs[start].append(started(peer, folder))
    seconds = {start: statistics.median(s for s, _ in each) for start, each in runs.items()}
    found = Figures()
    for start, each in runs.items():
        found.rates |= {
            f"cold_start/ms {start}": seconds[start] * 1e3,
            f"cold_start/modules {start}": each[0][1],
        }
        if start == "with identity":
            found.ratios["cold_start/identity"] = seconds[start] / seconds["ours"]
        elif start != "ours":
            found.ratios[f"cold_start/{start}"] = seconds["ours"] / seconds[start]
    return found


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
