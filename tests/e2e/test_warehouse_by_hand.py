"""What an operator asks of the warehouse by hand, on a local Snowflake and moto; it needs no stack."""

import json
import logging
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from local_snowflake.testing import Aws, LocalProcess
from tests.unit.snowpipe.vocabulary import Stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A database of this module's own, with the DDL applied."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    aws = Aws(f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    folder = tmp_path_factory.mktemp("by-hand")
    local = LocalProcess(folder / "snowflake", aws.endpoint).start()
    stage = Stage(folder / "stage", local, aws)
    stage.done("apply")
    yield stage
    stage.close()
    local.stop()
    server.stop()


@pytest.mark.parametrize(
    ("sql", "row"),
    [
        ("SELECT 1 AS id, 2 AS id", {"id": 1, "id_2": 2}),
        ("SELECT 1 AS id, 2 AS id, 3 AS id", {"id": 1, "id_2": 2, "id_3": 3}),
        ("SELECT 1 AS id, 2 AS id, 3 AS id_2", {"id": 1, "id_3": 2, "id_2": 3}),
        ('SELECT 1 AS "id", 2 AS ID', {"id": 1, "id_2": 2}),
        ("SELECT a.n, b.n FROM (SELECT 1 AS n) a JOIN (SELECT 2 AS n) b ON a.n < b.n", {"n": 1, "n_2": 2}),
    ],
)
def test_query_shows_every_column_also_of_the_same_name(stage: Stage, sql: str, row: dict[str, int]) -> None:
    assert stage.run("query", sql, "--json").rows == [row]
    shown = stage.run("query", sql).out
    assert all(name in shown for name in row)


def test_query_shows_a_columns_name_as_it_is(stage: Stage) -> None:
    assert "[red]" in stage.run("query", 'SELECT 1 AS "[red]"').out


@pytest.mark.parametrize(
    "sql", ["SELEC", "SELECT 1;; nonsense", "SELECT no_such_column", "USE nowhere.at.all"]
)
def test_a_statement_that_snowflake_refuses_is_one_line(stage: Stage, sql: str) -> None:
    said = stage.run("query", sql)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    assert "unexpected" not in said.err


@pytest.mark.parametrize(
    "sql", ["CREATE TEMPORARY TABLE RAW.T (a INT)", "SELECT 1 AS a WHERE FALSE", "SELECT NULL AS a"]
)
def test_a_statement_without_a_row_to_show_is_no_error(stage: Stage, sql: str) -> None:
    assert stage.run("query", sql).code == 0
    json.loads(stage.run("query", sql.replace("RAW.T", "RAW.U"), "--json").out)
