"""Test that the handler keeps its contract for any bytes and headers: for a few seconds here, longer in `make
fuzz`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.handler import costly

SECONDS = os.environ.get("MILKRUN_FUZZ_SECONDS", "5")


def test_fuzzer_finds_no_input_that_breaks_the_contract(tmp_path: Path) -> None:
    limits = [f"-max_total_time={SECONDS}", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.handler", *limits], capture_output=True, text=True, check=False
    )
    broken = [path.read_bytes()[:500] for path in tmp_path.iterdir()]
    assert ran.returncode == 0, f"{broken}\n{ran.stderr[-3000:]}"
    assert "Done " in ran.stderr, "the fuzzer stopped early"


@pytest.mark.parametrize("name", [*costly.TEXTS, *costly.MEMBERS])
def test_body_costs_at_most_five_times_the_cpu_of_an_ordinary_one(name: str) -> None:
    body, headers, size = costly.requests()[name]
    limit = costly.limit(max(size, len(body)))
    assert costly.cpu_seconds(body, headers, 1) <= limit or costly.cpu_seconds(body, headers) <= limit
