"""Test that the console uses the stage's geofence event types when it reads an event from the archive."""

from datetime import UTC, datetime

import boto3
from moto import mock_aws

from contract.archive_object import lines_object
from tests.unit.tools.console.test_server import Served
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
