"""Test that the console reads an archived event with the stage's geofence event types, and that its searches for an
event can be limited to one device, do not list the whole archive, and do not make other requests wait.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import boto3
import pytest
from moto import mock_aws

from contract.archive_object import lines_object
from ops.stage_outputs import Outputs
from ops.trace_steps import Step
from snowpipe.archive import Object
from snowpipe.warehouse import Row, Warehouse
from tests.unit.tools.console.test_server import Served
from tools.console import store_queries
from tools.console.polling import Session
from tools.console.store_queries import StoreQueries

NOW = datetime(2026, 11, 16, 8, tzinfo=UTC)
EVENT = (
    b'{"_id":"e1","type":"truck.arrived","createdAt":"2026-11-16T08:00:00Z","user":{"deviceId":"van-1"},'
    b'"geofence":{"tag":"farm","externalId":"farm-7"}}'
)


def test_event_of_a_type_that_the_stage_configures_as_a_geofence_event_has_a_fence() -> None:
    outputs = Served.outputs()
    stored = lines_object("events", [EVENT], NOW)
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket=outputs.bucket)
        s3.put_object(Bucket=outputs.bucket, Key=stored.key, Body=stored.body)
        queries = StoreQueries(
            outputs, "dev", lambda _: s3, Session(outputs, 1), lambda: {"truck.arrived": "enter"}
        )
        found = queries.event_in(stored.key, 1, None)
    assert found is not None
    assert found.fence_id is not None


def test_visits_can_be_counted_while_the_archive_is_searched_for_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Snowflake:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            return [{"n": 7}]

    @contextmanager
    def warehouse(_: Outputs, __: int) -> Iterator[Snowflake]:
        yield Snowflake()

    class Finder:
        searched: Sequence[str] = ()

        def __init__(self, _: Outputs, __: str, warehouse: Warehouse) -> None:
            self.warehouse = warehouse

        def loaded_event(self, *_: object) -> list[Step]:
            return []

        def archived_event(self, *_: object) -> list[Step]:
            self.warehouse.query("SELECT 1")
            counting = others.submit(queries.count_visits, NOW, NOW, None)
            assert counting.result(timeout=1) == 7
            return []

    monkeypatch.setattr(Outputs, "warehouse", warehouse)
    monkeypatch.setattr(store_queries, "Finder", Finder)
    outputs = Served.outputs()
    queries = StoreQueries(outputs, "dev", lambda _: None, Session(outputs, 1), dict)
    with ThreadPoolExecutor(1) as others:
        assert queries.where("e1")["found"] is False


def test_search_for_an_event_is_limited_to_the_given_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        searched: Sequence[str] = ()

        def __init__(self, *_: object) -> None:
            pass

        def loaded_event(self, event_id: str, device: str | None) -> list[Step]:
            return [Step("archived", NOW, {"key": f"events/{event_id}-{device}.ndjson.gz"})]

    @contextmanager
    def warehouse(_: Outputs, __: int) -> Iterator[None]:
        yield

    monkeypatch.setattr(Outputs, "warehouse", warehouse)
    monkeypatch.setattr(store_queries, "Finder", Finder)
    outputs = Served.outputs()
    queries = StoreQueries(outputs, "dev", lambda _: None, Session(outputs, 1), dict)
    for device, named in (("van-2", "van-2"), ("", "None")):
        [uri] = queries.where("e1", device)["s3_uris"]
        assert uri.endswith(f"/e1-{named}.ndjson.gz")


def test_search_for_the_beginning_of_a_key_does_not_list_the_whole_archive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Archive:
        def __init__(self, *_: object) -> None:
            pass

        def objects(self, prefix: str) -> Iterator[Object]:
            yield Object(f"{prefix}dt=2026-11-16/hh=08/a.ndjson.gz", NOW, 1)
            pytest.fail("the rest of the archive was listed")

    monkeypatch.setattr(store_queries, "Archive", Archive)
    outputs = Served.outputs()
    queries = StoreQueries(outputs, "dev", lambda _: None, Session(outputs, 1), dict)
    assert queries.event_in("events/", 1, None) is None
