"""The tests that fakesnow would need for each fix of `local_snowflake.fixes`."""

from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from local_snowflake.fixes import timestamps
from local_snowflake.testing import Warehouse

BEFORE_1970 = datetime(1969, 12, 31, 23, 59, 59, 500_000)
KINDS: dict[str, Callable[[pa.Array], pa.Array | pa.ChunkedArray]] = {
    "array": lambda column: column,
    "chunks": lambda column: pa.chunked_array([column.slice(0, 1), column.slice(1)]),
    "no chunk": lambda column: pa.chunked_array([], type=column.type),
}


@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize("kind", KINDS)
def test_null_timestamp_stays_null_and_others_are_unchanged(kind: str, zone: str | None) -> None:
    values = [None, BEFORE_1970.replace(tzinfo=UTC if zone else None), None]
    column = KINDS[kind](pa.array(values, pa.timestamp("us", tz=zone)))
    made = timestamps(column)
    instant = {"epoch": -1, "fraction": 500_000_000} | ({"timezone": 1440} if zone else {})
    assert made.to_pylist() == ([] if kind == "no chunk" else [None, instant, None])


def test_null_timestamp_reads_as_none_through_the_connector(warehouse: Warehouse) -> None:
    for type_ in ("TIMESTAMP_NTZ", "TIMESTAMP_LTZ"):
        rows = warehouse.run(f"SELECT NULL::{type_} AS A, '1969-12-31 23:59:59.5'::{type_} AS B")
        assert rows[0]["A"] is None
        assert rows[0]["B"].replace(tzinfo=None) == BEFORE_1970
