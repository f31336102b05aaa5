"""Test NULL timestamps, FLATTEN without a database, and the order of large results, as the connector returns them."""

from datetime import UTC, datetime

import pytest

from local_snowflake.testing import LocalProcess, Warehouse


@pytest.mark.parametrize("kind", ["TIMESTAMP_TZ", "TIMESTAMP_NTZ"])
def test_null_timestamp_is_returned_as_null_and_not_as_1970(warehouse: Warehouse, kind: str) -> None:
    noon = f"'2026-11-22T12:00:00Z'::TIMESTAMP_TZ::{kind}"
    rows = warehouse.run(f"SELECT NULL::{kind} AS T, 1 AS N UNION ALL SELECT {noon}, 2 ORDER BY N")
    assert rows[0]["T"] is None
    assert rows[1]["T"].replace(tzinfo=UTC) == datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_flatten_works_in_a_session_without_a_database(local: LocalProcess) -> None:
    with local.connect() as session:
        rows = session.cursor().execute("SELECT value FROM TABLE(FLATTEN(PARSE_JSON('[1,2]')))").fetchall()
    assert [row[0] for row in rows] == ["1", "2"]


@pytest.mark.parametrize("limit", ["", "LIMIT 2500"])
def test_large_result_is_returned_in_the_order_of_its_order_by_clause(
    warehouse: Warehouse, limit: str
) -> None:
    warehouse.run(
        "CREATE TABLE NUMBERS AS SELECT MOD(SEQ4() * 7919, 50000) AS N FROM TABLE(GENERATOR(ROWCOUNT => 50000))"
    )
    # Without preserve_insertion_order (engine.py), three of eight results were out of order.
    for _ in range(5):
        numbers = [row["N"] for row in warehouse.run(f"SELECT N FROM NUMBERS ORDER BY N {limit}")]
        assert numbers == sorted(numbers)
