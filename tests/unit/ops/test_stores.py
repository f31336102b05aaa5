"""What lies in the stores need not be ours."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from consumer.visit_diff import Rule
from contract.events import GEOFENCE_KINDS
from ops.stores import StreamRecord, event_ids_among, geofence_kinds, rule


@pytest.mark.parametrize(
    "poison", [b"\xff\xfe", b"not json", b"[]", b"7", b"null", b"{}", b"", b"[" * 100_000]
)
def test_what_is_no_event_on_the_stream_hides_none_that_is(poison: bytes) -> None:
    ours = [json.dumps({"_id": name}).encode() for name in ("a", "b")]
    at = datetime.now(UTC)
    records = [StreamRecord("shard", str(n), at, data) for n, data in enumerate([ours[0], poison, ours[1]])]
    assert list(event_ids_among(records)) == ["a", "b"]


class Deployed:
    """A stage whose function was told so."""

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


def test_what_counts_as_a_geofence_event_is_what_the_stages_function_was_told() -> None:
    told = Deployed(GEOFENCE_KINDS='{"fence.crossed_in": "enter"}')
    assert geofence_kinds(told, "dev") == {"fence.crossed_in": "enter"}
    for silent in (Deployed(), Deployed(GEOFENCE_KINDS="")):
        assert geofence_kinds(silent, "dev") == GEOFENCE_KINDS


def test_by_which_rule_visits_are_made_is_what_the_stages_consumer_was_told() -> None:
    told = Deployed(MERGE_GAP_SECONDS="300", MIN_CONFIDENCE="2")
    assert rule(told, "dev") == Rule(timedelta(minutes=5), 2)
    assert rule(Deployed(), "dev") == Rule()
