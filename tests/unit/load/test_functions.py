"""Test how the load test measures the functions, which it runs against a simulated AWS."""

import pytest

from tests.load.functions import FUNCTIONS, memory_of, simulated_aws


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_processes_its_prepared_invocations(name: str) -> None:
    with simulated_aws("--scale", "0"):
        assert len(memory_of(FUNCTIONS[name], calls=3, every=1, leak=None)) == 3


def broken(_: object) -> None:
    raise ValueError("artificial failure")


@pytest.mark.timeout(60)
def test_failure_in_a_measured_process_ends_the_measurement() -> None:
    with simulated_aws("--scale", "0"), pytest.raises(EOFError):
        memory_of(FUNCTIONS["ingest@20"], 10, 1, broken)
