"""Share one Spark session among all tests, because starting a session takes seconds.

Each task has four attempts, as on a cluster.
"""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from glue.session import session


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    with session("milkrun-tests", "local[2,4]") as started:
        yield started
