"""Provide one stack for the whole session; its functions call AWS through the fault proxy.

MILKRUN_E2E_OUTPUTS may contain the path of a running stack's outputs.json; that stack must have been started
with MILKRUN_LAMBDA_ENDPOINT=http://127.0.0.1:<its port + 3>. Without MILKRUN_E2E_OUTPUTS, the tests start their
own stack (by default in the folder .local-faults, with ports from 4766) and delete it afterwards.
"""

import os
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ops.stage_outputs import Outputs
from tests.faults import report
from tests.faults.faulty_stack import FaultyStack, proxy_url
from tests.faults.harness import Result, Scenario
from tools.stack.stack import Stack

PORT = 4766
SCENARIOS = Path(__file__).with_name("test_scenarios.py")
RESULTS = pytest.StashKey[list[Result]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=1, help="Seed of the load, and of the choice of affected calls."
    )
    parser.addoption("--write-table", action="store_true", help="Write the table in docs/reliability.md.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    results = session.config.stash[RESULTS]
    if results and session.config.getoption("--write-table"):
        names = re.findall(r"^def (test_\w+)\(\s*scenario", SCENARIOS.read_text(), re.MULTILINE)
        report.write(results, {sentence(name): n for n, name in enumerate(names)})


PROPER = {"s3": "S3", "aws": "AWS", "kcl": "KCL", "kinesis": "Kinesis", "dynamodb": "DynamoDB"}
PROPER |= {"eventbridge": "EventBridge", "snowflake": "Snowflake", "snowflakes": "Snowflake's"}


def sentence(name: str) -> str:
    """Convert a test's name to the sentence that describes its fault in the table of docs/reliability.md."""
    words = name.removeprefix("test_promises_hold_if_").split("_")
    text = " ".join(PROPER.get(word, word) for word in words)
    return text[0].upper() + text[1:]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of Snowflake's log to the report of a failed test; the log is deleted with the stack."""
    report = yield
    stack = item.funcargs.get("faulty_stack")
    if report.failed and isinstance(stack, FaultyStack):
        log = stack.stack.settings.log_folder / "snowflake.log"
        report.sections.append((f"end of {log.name}", "\n".join(log.read_text().splitlines()[-50:])))
    return report


@pytest.fixture(scope="session")
def faulty_stack() -> Iterator[FaultyStack]:
    named = os.environ.get("MILKRUN_E2E_OUTPUTS", "")
    environment = dict(os.environ)
    with ExitStack() as until_the_end:
        if named:
            endpoint = Outputs.read(Path(named)).aws_endpoint_url or ""
            environment["MILKRUN_PORT"] = endpoint.rpartition(":")[2]
            environment["MILKRUN_LOCAL"] = str(Path(named).resolve().parent)
            stack = Stack.of(environment)
        else:
            port = int(environment.setdefault("MILKRUN_PORT", str(PORT)))
            environment.setdefault("MILKRUN_LOCAL", ".local-faults")
            environment["MILKRUN_LAMBDA_ENDPOINT"] = proxy_url(port)
            stack = until_the_end.enter_context(Stack.of(environment))
        opened = until_the_end.enter_context(FaultyStack(stack).open())
        yield opened
        assert not opened.proxy.breaches, "functions sent requests that AWS would reject"


@pytest.fixture
def scenario(faulty_stack: FaultyStack, request: pytest.FixtureRequest) -> Scenario:
    return Scenario(
        faulty_stack,
        sentence(request.node.name),
        request.config.getoption("--seed"),
        request.config.stash[RESULTS],
    )
