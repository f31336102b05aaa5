"""Whatever bytes and headers come, the handler keeps its contract: for a bounded time here, longer by `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.handler import costly

SECONDS = os.environ.get("MILKRUN_FUZZ_SECONDS", "5")


def test_no_input_that_a_fuzzer_finds_breaks_the_contract(tmp_path: Path) -> None:
    limits = [f"-max_total_time={SECONDS}", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.handler", *limits], capture_output=True, text=True, check=False
    )
    broken = [path.read_bytes()[:500] for path in tmp_path.iterdir()]
    assert ran.returncode == 0, f"{broken}\n{ran.stderr[-3000:]}"
    assert "Done " in ran.stderr, "the fuzzer has not come to its end"


@pytest.mark.parametrize("name", [*costly.TEXTS, *costly.MEMBERS])
def test_a_body_costs_at_most_five_times_the_cpu_of_an_honest_one_of_its_size(name: str) -> None:
    body, headers, size = costly.requests()[name]
    limit = costly.limit(max(size, len(body)))
    assert costly.cpu_seconds(body, headers, 1) <= limit or costly.cpu_seconds(body, headers) <= limit
