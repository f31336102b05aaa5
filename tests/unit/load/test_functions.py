"""Test that the load test runs each function with its deployed settings, and ends if a measured process fails."""

import pytest
import yaml

from tests.load.functions import FUNCTIONS, ROOT, memory_of, simulated_aws
from tests.unit.serverless.test_template import CloudFormationTags


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_processes_its_prepared_invocations(name: str) -> None:
    with simulated_aws("--scale", "0"):
        assert len(memory_of(FUNCTIONS[name], calls=3, every=1, leak=None)) == 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_measured_function_has_the_deployed_memory_size_and_timeout(name: str) -> None:
    text = (ROOT / "serverless" / "functions.yml").read_text()
    deployed = yaml.load(text, CloudFormationTags)[name.partition("@")[0]]
    measured = FUNCTIONS[name]
    assert measured.memory_mb == deployed["memorySize"]
    assert measured.context.timeout_ms == deployed["timeout"] * 1000


def broken(_: object) -> None:
    raise ValueError("artificial failure")


@pytest.mark.timeout(60)
def test_failure_in_a_measured_process_ends_the_measurement() -> None:
    with simulated_aws("--scale", "0"), pytest.raises(EOFError):
        memory_of(FUNCTIONS["ingest@20"], 10, 1, broken)
