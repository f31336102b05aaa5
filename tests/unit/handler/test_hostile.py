"""Test that the handler keeps its contract and its CPU limit for hostile requests.

One test runs the fuzzer for a few seconds; `make fuzz` runs it for longer.
"""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.handler import costly
from tests.unit.handler.conftest import Phone

SECONDS = os.environ.get("MILKRUN_FUZZ_SECONDS", "5")


@pytest.mark.slow
def test_fuzzer_finds_no_input_that_breaks_the_contract(tmp_path: Path) -> None:
    limits = [f"-max_total_time={SECONDS}", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.handler", *limits], capture_output=True, text=True, check=False
    )
    broken = [path.read_bytes()[:500] for path in tmp_path.iterdir()]
    assert ran.returncode == 0, f"{broken}\n{ran.stderr[-3000:]}"
    assert "Done " in ran.stderr, "the fuzzer stopped early"


@pytest.mark.parametrize("name", [*costly.TEXTS, *costly.MEMBERS])
def test_costly_body_stays_within_its_cpu_limit(name: str) -> None:
    body, headers, size = costly.requests()[name]
    assert costly.excess(body, headers, max(size, len(body))) == ""


def test_batch_above_the_inflation_ratio_is_accepted_after_it_is_split(phone: Phone) -> None:
    """500 events with the same 6.5 KB of metadata get a 413. A client that splits the batch delivers all of them."""
    rng = random.Random(1)
    metadata = {"note": rng.randbytes(3250).hex()}
    events = [
        json.loads(costly.SOUND + b"}") | {"_id": f"{n:024x}", "metadata": metadata} for n in range(500)
    ]
    statuses: list[int] = []

    def send(part: list[object]) -> None:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        statuses.append(phone.post(gzip.compress(json.dumps(part).encode(), mtime=0), headers).status)
        if statuses[-1] == 413:
            send(part[: len(part) // 2])
            send(part[len(part) // 2 :])

    send(events)
    assert len(phone.world.lines("events")) == 500
    assert statuses == [413, *[413, 202, 202] * 2]
