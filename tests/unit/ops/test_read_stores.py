"""Test that event ids, dwell times and the settings of a stage's functions are read correctly from the stores."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from consumer.visits import Rule
from contract.geofence_event_types import GEOFENCE_KINDS
from ops.read_stores import StreamRecord, event_ids_among, geofence_kinds, latest_mart_visits, rule
from snowpipe.warehouse import Row


@pytest.mark.parametrize(
    "poison", [b"\xff\xfe", b"not json", b"[]", b"7", b"null", b"{}", b"", b"[" * 100_000]
)
def test_event_ids_are_read_despite_records_that_are_not_events(poison: bytes) -> None:
    ours = [json.dumps({"_id": name}).encode() for name in ("a", "b")]
    at = datetime.now(UTC)
    records = [StreamRecord("shard", str(n), at, data) for n, data in enumerate([ours[0], poison, ours[1]])]
    assert list(event_ids_among(records)) == ["a", "b"]


class Deployed:
    """The outputs of a stage whose functions have the given environment variables."""

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


def test_geofence_types_are_read_from_the_ingest_function_of_the_stage() -> None:
    stage = Deployed(GEOFENCE_KINDS='{"fence.crossed_in": "enter"}')
    assert geofence_kinds(stage, "dev") == {"fence.crossed_in": "enter"}
    for silent in (Deployed(), Deployed(GEOFENCE_KINDS="")):
        assert geofence_kinds(silent, "dev") == GEOFENCE_KINDS


def test_visit_rule_is_read_from_the_consumer_of_the_stage() -> None:
    stage = Deployed(MERGE_GAP_SECONDS="300", MIN_CONFIDENCE="2")
    assert rule(stage, "dev") == Rule(timedelta(minutes=5), 2)
    assert rule(Deployed(), "dev") == Rule()


class Marts:
    """A warehouse that returns NUMBER columns with a scale as Decimal, like Snowflake's connector."""

    def __init__(self, *dwells: Decimal | None) -> None:
        self._dwells = dwells

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        at = datetime(2026, 11, 27, 6)
        columns = {"device_id": "truck-1", "geofence_tag": "farm", "geofence_external_id": "farm-1"}
        times = {"entered_at": at, "exited_at": at, "exit_missed": False}
        return [columns | times | {"dwell_seconds": dwell} for dwell in self._dwells]


def test_dwell_minutes_are_a_json_number_even_if_zero_and_null_if_unknown() -> None:
    dwells = (Decimal("90.000000"), Decimal("0.000000"), None)
    rows = latest_mart_visits(Marts(*dwells), "DB", ["truck-1"], 3)
    assert json.dumps([row["dwell_minutes"] for row in rows]) == "[1.5, 0.0, null]"
