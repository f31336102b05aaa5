"""Fixtures: per test run, one moto server (S3, SNS and SQS) and one local Snowflake; per test, one database and one
bucket.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_snowflake.testing import Aws, LocalProcess, Warehouse


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    with Aws.running() as aws:
        yield aws


@pytest.fixture(scope="session")
def local(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProcess]:
    process = LocalProcess(tmp_path_factory.mktemp("local") / "snowflake", aws.endpoint).start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def warehouse(local: LocalProcess, aws: Aws) -> Iterator[Warehouse]:
    warehouse = Warehouse(local, aws)
    yield warehouse
    warehouse.run("USE ROLE ACCOUNTADMIN")
    warehouse.run(f"DROP DATABASE {warehouse.database}")
    warehouse.connection.close()


@pytest.fixture
def loading(warehouse: Warehouse) -> Warehouse:
    """Return the test's own database with a table, a stage and a pipe."""
    return warehouse.with_pipe()


@pytest.fixture
def warehouse_of(aws: Aws) -> Callable[[LocalProcess], Warehouse]:
    """Return a function that creates a database with a table, a stage and a pipe in a given local Snowflake."""
    return lambda local: Warehouse(local, aws).with_pipe()


@pytest.fixture
def own_local(aws: Aws, tmp_path: Path) -> Iterator[LocalProcess]:
    """Yield a local Snowflake that only this test uses. The test starts it, and may kill it."""
    process = LocalProcess(tmp_path / "snowflake", aws.endpoint)
    yield process
    if process.process:
        process.stop()
