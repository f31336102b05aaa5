"""Test reading stores that contain data of others, and the settings of the deployed functions."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from consumer.visit_diff import Rule
from contract.events import GEOFENCE_KINDS
from ops.stores import StreamRecord, event_ids_among, geofence_kinds, rule


@pytest.mark.parametrize(
    "poison", [b"\xff\xfe", b"not json", b"[]", b"7", b"null", b"{}", b"", b"[" * 100_000]
)
def test_records_that_are_not_events_do_not_hide_events(poison: bytes) -> None:
    ours = [json.dumps({"_id": name}).encode() for name in ("a", "b")]
    at = datetime.now(UTC)
    records = [StreamRecord("shard", str(n), at, data) for n, data in enumerate([ours[0], poison, ours[1]])]
    assert list(event_ids_among(records)) == ["a", "b"]


class Deployed:
    """A stage whose functions have these environment variables."""

    def __init__(self, **variables: str) -> None:
        self._variables = {
            "ARCHIVE_BUCKET": "archive",
            "STREAM_NAME": "stream",
            "REDRIVE_QUEUE_URL": "https://queue",
            "VISITS_TABLE": "visits",
            "EVENT_BUS_NAME": "bus",
            **variables,
        }

    def aws(self, service: str) -> "Deployed":
        assert service == "lambda"
        return self

    def get_function_configuration(self, FunctionName: str) -> dict[str, object]:
        assert FunctionName in ("milkrun-dev-ingest", "milkrun-dev-consume")
        return {"Environment": {"Variables": self._variables}}


def test_geofence_types_are_read_from_the_stages_function() -> None:
    told = Deployed(GEOFENCE_KINDS='{"fence.crossed_in": "enter"}')
    assert geofence_kinds(told, "dev") == {"fence.crossed_in": "enter"}
    for silent in (Deployed(), Deployed(GEOFENCE_KINDS="")):
        assert geofence_kinds(silent, "dev") == GEOFENCE_KINDS


def test_visit_rule_is_read_from_the_stages_consumer() -> None:
    told = Deployed(MERGE_GAP_SECONDS="300", MIN_CONFIDENCE="2")
    assert rule(told, "dev") == Rule(timedelta(minutes=5), 2)
    assert rule(Deployed(), "dev") == Rule()
