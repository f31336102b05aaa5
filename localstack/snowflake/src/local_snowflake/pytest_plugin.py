"""A plugin that pytest loads automatically. It provides the fixture `snowflake_server`, a local Snowflake.
Nothing slow is imported until a test uses the fixture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from local_snowflake.testing import LocalProcess

# Nothing listens on the discard port, so access to S3, SNS or SQS fails with "could not connect".
NO_AWS = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def snowflake_aws_endpoint_url() -> str:
    """Return the URL of the AWS endpoint from which files are read. Nothing listens at the default URL. To
    load files, override this fixture with the URL of moto or LocalStack.
    """
    return NO_AWS


@pytest.fixture(scope="session")
def snowflake_server(
    tmp_path_factory: pytest.TempPathFactory, snowflake_aws_endpoint_url: str
) -> Iterator["LocalProcess"]:
    """Yield a running local Snowflake. `port` is its port, and `connect()` returns a new connection.

    It starts once per test session (with pytest-xdist, once per worker), and has no databases at first.
    """
    from local_snowflake.testing import LocalProcess

    folder = tmp_path_factory.mktemp("local-snowflake") / "databases"
    server = LocalProcess(folder, snowflake_aws_endpoint_url)
    try:
        yield server.start()
    finally:
        if server.process:
            server.stop()
