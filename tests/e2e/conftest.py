"""Provide one stack for the whole session, and a new device id for each test.

MILKRUN_E2E_OUTPUTS selects an existing stack by the path of its outputs.json, or a deployed stage by its name.
`milkrun verify` sets this variable and MILKRUN_E2E_LABEL, the prefix of every device id. Without
MILKRUN_E2E_OUTPUTS, the tests start their own stack (by default in the folder .local-test, with ports from 4666)
and delete it afterwards.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from xdist.remote import Producer

from local_snowflake.testing import Aws, LocalProcess
from ops.stage_outputs import Outputs
from tests.e2e.pipeline import Pipeline
from tests.scopes import ScopeScheduling
from tests.service_models import validated
from tests.statements import parsed_by_others
from tools.stack.stack import Stack

# Files whose tests do not use the fixture `pipeline`, so that each file is a scope of its own. Most of these tests
# start moto and a local Snowflake instead.
INDEPENDENT_TESTS = frozenset(
    f"test_{name}.py"
    for name in (
        "daily_report",
        "dbt_models",
        "grants",
        "hostile_environment",
        "hostile_text",
        "marts",
        "upgrade",
        "warehouse",
        "warehouse_account",
        "warehouse_by_hand",
        "warehouse_drift",
    )
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ScopeScheduling:
    return ScopeScheduling(config, log, lambda file: file if file in INDEPENDENT_TESTS else "stack")


@pytest.fixture(scope="session", autouse=True)
def _only_messages_valid_on_aws() -> Iterator[None]:
    # AWS may already return enumerated values that this version of botocore does not know.
    deployed = not os.environ.get("MILKRUN_E2E_OUTPUTS", ".json").endswith(".json")
    with validated("ignore" if deployed else "raise"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _only_statements_that_other_parsers_accept() -> Iterator[None]:
    with parsed_by_others():
        yield


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Pipeline]:
    named = os.environ.get("MILKRUN_E2E_OUTPUTS", "")
    environment = dict(os.environ)
    with ExitStack() as until_the_end:
        if named.endswith(".json"):
            environment["MILKRUN_LOCAL"] = str(Path(named).resolve().parent)
            outputs = Outputs.read(Path(named))
        elif named:
            outputs = Outputs.find(named, environment)
        else:
            environment |= {
                "MILKRUN_LOCAL": environment.get("MILKRUN_LOCAL", ".local-test"),
                "MILKRUN_PORT": environment.get("MILKRUN_PORT", "4666"),
            }
            outputs = until_the_end.enter_context(Stack.of(environment)).outputs()
        warehouse = until_the_end.enter_context(outputs.warehouse())
        stage = "local" if not named or named.endswith(".json") else named
        yield Pipeline(outputs, environment, warehouse, stage, os.environ.get("MILKRUN_E2E_LABEL", ""))


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    """Yield moto's S3, SNS and SQS for the warehouse tests, which need no stack."""
    with Aws.running() as aws:
        yield aws


@pytest.fixture(scope="module")
def local(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProcess]:
    """Yield a local Snowflake that uses the S3, SNS and SQS of the `aws` fixture."""
    process = LocalProcess(tmp_path_factory.mktemp("local") / "snowflake", aws.endpoint).start()
    yield process
    process.stop()


@pytest.fixture
def device(pipeline: Pipeline) -> str:
    return f"{pipeline.label or 'e2e'}-{uuid4().hex[:12]}"
