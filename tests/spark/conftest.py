"""One Spark for all tests here: to start one takes seconds. A task is tried four times, as on a cluster."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from glue.session import session


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    with session("milkrun-tests", "local[2,4]") as started:
        yield started
