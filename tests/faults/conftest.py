"""One stack for the whole session, its functions behind a proxy from deploy on.

MILKRUN_E2E_OUTPUTS names the outputs.json of a stack that runs already; it must have been started with
MILKRUN_LAMBDA_ENDPOINT=http://127.0.0.1:<its port + 3>. Without it one is started and wiped afterwards.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ops.outputs import Outputs
from tests.faults import report
from tests.faults.story import Result, Story
from tests.faults.yard import Yard, proxy_url
from tools.stack.stack import Stack

PORT = 4766
SCENARIOS = Path(__file__).with_name("test_scenarios.py")
RESULTS = pytest.StashKey[list[Result]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=1, help="Of the load and of what is done to which call.")

    parser.addoption("--write-table", action="store_true", help="Into docs/reliability.md.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    results = session.config.stash[RESULTS]
    if results and session.config.getoption("--write-table"):
        names = re.findall(r"^def (test_\w+)\(story", SCENARIOS.read_text(), re.MULTILINE)
        report.write(results, {sentence(name): n for n, name in enumerate(names)})


PROPER = {"s3": "S3", "aws": "AWS", "kcl": "KCL", "kinesis": "Kinesis", "dynamodb": "DynamoDB"}
PROPER |= {"eventbridge": "EventBridge", "snowflake": "Snowflake", "snowflakes": "Snowflake's"}


def sentence(name: str) -> str:
    """Of a test's name, as it stands in the table."""
    words = name.removeprefix("test_").split("_")
    text = " ".join(PROPER.get(word, word) for word in words)
    return text[0].upper() + text[1:]


@pytest.fixture(scope="session")
def yard() -> Iterator[Yard]:
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
        opened = until_the_end.enter_context(Yard(stack).open())
        yield opened
        assert not opened.proxy.breaches, "functions sent what AWS would refuse"


@pytest.fixture
def story(yard: Yard, request: pytest.FixtureRequest) -> Story:
    return Story(
        yard, sentence(request.node.name), request.config.getoption("--seed"), request.config.stash[RESULTS]
    )
