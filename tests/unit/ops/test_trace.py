"""Test the verdict, the exit code and the steps of `milkrun trace`, and which stores it searches."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

from cli.deadline import NoAnswerError
from cli.refusal import Refusal
from contract import logs
from contract.archive_object import lines_object
from contract.events import Reason
from contract.rejected_lines import quarantine_line
from ops import trace_steps
from ops.reachable_stores import unreachable
from ops.trace import EXIT_CODES, steps_of, verdict
from ops.trace_steps import Finder, Line, Step, _covers, in_order, is_key, lags
from snowpipe.warehouse import Row
from tests.unit.ops.test_terminal import NOWHERE

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)
KEY = "events/dt=2026-11-28/hh=12/x.1.ndjson.gz"
STORED = [Step("received", AT), Step("archived", AT, {"key": KEY}), Step("answered", AT)]
LOADED = [*STORED, Step("loaded", AT, {"table": "RAW.EVENTS"}), Step("staged", None)]
PUBLISHED = [*LOADED, Step("published", AT, {"shard": "0"})]
LOST = Step("not on the stream", None), Step("not consumed", None)
REJECTED_KEY = KEY.replace("events", "rejected")
REJECT = [
    Step("archived", AT, {"key": REJECTED_KEY}),
    Step("rejected", None, {"reasons": "missing_geofence geofence: m"}),
    Step("loaded", AT),
]

SEEN = {"received", "archived", "happened (the phone's clock)"}


@pytest.mark.parametrize(
    ("steps", "said", "code"),
    [
        (LOADED, "ARRIVED: archived, loaded, staged", 0),
        ([*PUBLISHED, Step("consumed", AT), Step("in a visit", None)], "ARRIVED", 0),
        (REJECT, "REJECTED: missing_geofence geofence: m, stored in s3://…/rejected/dt=", 0),
        ([*STORED, Step("not loaded", None, {"key": KEY})], "NOT LOADED", 1),
        (
            [Step("gone from S3", None, {"key": KEY}), Step("not loaded", None), Step("answered", AT)],
            "GONE",
            1,
        ),
        ([*LOADED, *LOST], "NOT PUBLISHED", 1),
        ([*LOADED, Step("answered, some events enqueued for redrive", AT), *LOST], "WAITS FOR THE STREAM", 1),
        ([*PUBLISHED, Step("not consumed", None)], "NOT CONSUMED", 1),
        ([*PUBLISHED, Step("set aside", None, {"reasons": "no_device"})], "QUARANTINED: no_device", 1),
        (
            [*LOADED, Step("set aside", None, {"reasons": "no_device", "key": "set-aside/x"})],
            "QUARANTINED: no_device, stored in s3://…/set-aside/x",
            1,
        ),
        ([Step("archived", AT, {"key": "set-aside/x"})], "QUARANTINED: stored in s3://…/set-aside/x", 1),
        ([], "NOT FOUND", 1),
        ([Step("gone from S3", None, {"key": KEY}), Step("not loaded", None, {"key": KEY})], "NOT FOUND", 1),
        (
            [*REJECT, *LOADED],
            "ARRIVED: archived, loaded, staged; another delivery was rejected: missing_g",
            0,
        ),
    ],
    ids=[
        "arrived",
        "visit",
        "rejected",
        "not-loaded",
        "gone",
        "lost",
        "redrive",
        "behind",
        "quarantine",
        "quarantine-key",
        "quarantine-object",
        "not-found",
        "unknown-key",
        "repaired",
    ],
)
def test_steps_determine_the_verdict_and_the_exit_code_of_trace(
    steps: list[Step], said: str, code: int
) -> None:
    line, arrival = verdict(steps, {})
    assert line.startswith(said)
    assert EXIT_CODES[arrival] == code


@pytest.mark.parametrize("steps", [[], STORED, LOADED], ids=["nothing", "stored", "loaded"])
def test_arrival_is_unknown_if_no_problem_is_found_and_snowflake_is_unreachable(steps: list[Step]) -> None:
    assert EXIT_CODES[verdict(steps, {"Snowflake": "frozen"})[1]] == 2


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (REJECT[:2], "REJECTED: missing_geofence geofence: m, stored in"),
        ([*REJECT[:2], *STORED], "NO PROBLEM FOUND"),
    ],
    ids=["rejected", "also accepted"],
)
def test_arrival_of_a_rejected_event_is_unknown_if_snowflake_is_unreachable(
    steps: list[Step], said: str
) -> None:
    line, arrival = verdict(steps, {"Snowflake": "frozen"})
    assert (line[: len(said)], EXIT_CODES[arrival]) == (said, 2)


def test_rejected_event_that_is_loaded_has_arrived_even_if_another_store_is_unreachable() -> None:
    assert EXIT_CODES[verdict(REJECT, {"Kinesis": "frozen"})[1]] == 0


def test_trace_lists_unreachable_stores_and_does_not_query_them() -> None:
    unasked = unreachable(NOWHERE)
    assert set(unasked) == {"S3", "Kinesis", "DynamoDB", "CloudWatch Logs", "Lambda"}
    finder = Finder(NOWHERE, "local", None, unasked)
    now = datetime.now(UTC)
    assert finder.event("e", now - timedelta(hours=1), now, lambda _: None) == []
    assert finder.object(KEY) == []
    assert finder.searched == []
    assert finder.request("r", now, now) == []
    assert in_order([]) == []


def test_trace_searches_the_whole_first_and_last_hour_of_the_log_for_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def log_lines(*_: object, start: datetime, end: datetime, request_id: str) -> Iterator[object]:
        assert request_id == "r"
        for at in (AT, AT + timedelta(hours=1, minutes=59)):
            if start <= at <= end:
                found.append(at)
        return iter(())

    found: list[datetime] = []
    monkeypatch.setattr(trace_steps, "log_lines", log_lines)
    finder = Finder(NOWHERE, "local", None, {"Lambda": "no answer"})
    finder.request("r", AT + timedelta(minutes=30), AT + timedelta(hours=1))
    assert len(set(found)) == 2


def test_trace_of_a_request_that_was_not_stored_shows_the_response_and_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = {
        "request_id": "r",
        "status": 503,
        "error": "S3: SlowDown",
        "object_key": None,
        "rejected_key": None,
    }
    monkeypatch.setattr(trace_steps, "log_lines", lambda *_, **__: iter([(AT, line)]))
    finder = Finder(NOWHERE, "local", None, {"Lambda": "no answer", "S3": "no answer"})
    steps = steps_of(finder, "r", AT, AT, lambda _: None)
    assert steps == [Step("answered, nothing stored", AT, {"status": 503, "error": "S3: SlowDown"})]
    said = "NOT STORED: the response was 503 (S3: SlowDown)"
    assert verdict(steps, {}) == (said, "not arrived")


def test_trace_of_a_refused_request_shows_the_error_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def log_lines(_outputs: object, _stage: str, _function: str, name: str, **_: object) -> Iterator[object]:
        line = {"request_id": "r", "status": 401, "code": "invalid_token", "refused": 1}
        return iter([(AT, line)] if name == logs.REQUEST_REFUSED else [])

    monkeypatch.setattr(trace_steps, "log_lines", log_lines)
    finder = Finder(NOWHERE, "local", None, {"Lambda": "no answer", "S3": "no answer"})
    steps = steps_of(finder, "r", AT, AT, lambda _: None)
    assert verdict(steps, {}) == ("NOT STORED: the response was 401 (invalid_token)", "not arrived")


def test_trace_of_a_request_shows_the_response_even_if_s3_and_snowflake_are_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = {"request_id": "r", "status": 202, "object_key": KEY}
    monkeypatch.setattr(trace_steps, "log_lines", lambda *_, **__: iter([(AT, line)]))
    unasked = {"S3": "no answer", "Snowflake": "no answer", "Lambda": "no answer"}
    steps = steps_of(Finder(NOWHERE, "local", None, unasked), "r", AT, AT, lambda _: None)
    assert steps == [Step("answered", AT, {"status": 202})]
    said = "NO PROBLEM FOUND, but not every store answered; steps found: answered"
    assert verdict(steps, unasked) == (said, "unknown")


def test_trace_of_a_loaded_event_searches_neither_the_log_nor_the_archive() -> None:
    finder = Mock(Finder, loaded_event=Mock(return_value=LOADED))
    assert steps_of(finder, "e", AT, AT, lambda _: None) == LOADED
    finder.request.assert_not_called()
    finder.archived_event.assert_not_called()


def test_trace_of_a_device_omits_events_of_other_devices_with_the_same_id(stores: Any) -> None:
    class Raw:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            if "SELECT MIN(scanned_at)" in sql:
                return [{"at": AT, "n": 1}]
            found = [device for device in ("d1", "d2") if device in parameters or len(parameters) < 2]
            if "STG_EVENTS" in sql:
                return [{"file_name": KEY, "n": 1, "received_at": AT, "device_id": each} for each in found]
            if "RAW.REJECTED" in sql:
                return []
            return [{"file_name": KEY, "n": int(each[1]), "said": '{"_id": "e"}'} for each in found]

    stores.database = "MILKRUN"
    finder = Finder(stores, "dev", Raw(), {"S3": "no answer", "Lambda": "no answer"})
    ask = partial(steps_of, finder, "e", AT, AT, lambda _: None)
    assert [step.what for step in ask()] == ["loaded", "staged", "staged"]
    assert [step.what for step in ask("d2")] == ["loaded", "staged"]


def test_trace_asks_for_a_device_if_many_devices_use_the_id(stores: Any) -> None:
    class Raw:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            if "SELECT MIN(scanned_at)" in sql:
                return [{"at": AT, "n": 1}]
            devices = [parameters[1]] if len(parameters) > 1 else [f"d{n}" for n in range(21)]
            return [
                {"file_name": KEY, "n": n, "said": json.dumps({"_id": "1", "deviceId": device})}
                for n, device in enumerate(devices, 1)
                if "RAW.EVENTS" in sql
            ]

    stores.database = "MILKRUN"
    finder = Finder(stores, "dev", Raw(), {"S3": "no answer", "Lambda": "no answer"})
    with pytest.raises(
        Refusal, match="21 devices sent an event with the id 1: choose one with --device and --at"
    ):
        steps_of(finder, "1", AT, AT, lambda _: None)
    assert [step.what for step in steps_of(finder, "1", AT, AT, lambda _: None, "d7")] == ["loaded"]


def test_trace_does_not_search_the_log_for_text_that_cannot_be_a_request_id() -> None:
    finder = Finder(NOWHERE, "local", None, {"Lambda": "no answer"})
    assert finder.request('e" or 1 = "1', AT, AT) == []
    assert finder.searched == []


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield the outputs of a stage on moto whose archive, stream and visits table are empty."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="archive")
        boto3.client("kinesis").create_stream(StreamName="stream", ShardCount=1)
        boto3.client("dynamodb").create_table(
            TableName="visits",
            KeySchema=[{"AttributeName": n, "KeyType": k} for n, k in (("pk", "HASH"), ("sk", "RANGE"))],
            AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
            BillingMode="PAY_PER_REQUEST",
        )
        access = SimpleNamespace(client=boto3.client)
        yield SimpleNamespace(
            bucket="archive", stream="stream", visits_table="visits", aws=boto3.client, access=lambda: access
        )


@pytest.mark.parametrize(
    ("received_days_ago", "age_days", "missing", "problem"),
    [
        (0, 1, {"not on the stream", "not consumed"}, "NOT PUBLISHED"),
        (5, 6, {"expired on the stream, or never published", "not consumed"}, "NOT CONSUMED"),
        (0, 81, {"not on the stream", "too old for the visits table"}, "ARRIVED"),
        (
            100,
            100,
            {"expired on the stream, or never published", "too old for the visits table"},
            "ARRIVED",
        ),
    ],
    ids=["lost", "stream expired", "too old for the consumer", "visits expired"],
)
def test_trace_reports_an_event_as_missing_only_in_stores_that_would_still_contain_it(
    stores: Any, received_days_ago: int, age_days: int, missing: set[str], problem: str
) -> None:
    now = datetime.now(UTC)
    received = now - timedelta(days=received_days_ago)
    line = json.dumps(
        {
            "_id": "e",
            "type": "user.entered_geofence",
            "createdAt": (now - timedelta(days=age_days)).isoformat(),
            "user": {"deviceId": "d"},
            "geofence": {"tag": "farm", "externalId": "1"},
        }
    ).encode()
    made = lines_object("events", [line], received)
    boto3.client("s3").put_object(
        Bucket="archive", Key=made.key, Body=made.body, Metadata={"received-at": received.isoformat()}
    )
    finder = Finder(stores, "dev", None, {"CloudWatch Logs": "no answer", "Lambda": "no answer"})
    steps = finder.event("e", received, received, lambda _: None)
    assert {step.what for step in steps if step.what not in SEEN} == missing
    assert verdict(steps, {})[0].startswith(problem)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(("other", "problem"), [("d", "QUARANTINED"), ("d2", "NOT PUBLISHED")])
def test_quarantined_event_of_another_device_with_the_same_id_is_not_reported(
    stores: Any, other: str, problem: str, as_json: bool
) -> None:
    now = datetime.now(UTC)
    enter = {
        "_id": "e",
        "type": "user.entered_geofence",
        "createdAt": now.isoformat(),
        "user": {"deviceId": "d"},
        "geofence": {"tag": "farm", "externalId": "1"},
    }
    held = json.dumps(enter | {"user": {"deviceId": other}}).encode()
    if not as_json:  # Python's json module reads NaN, but strict JSON does not allow it
        held = held.replace(b"{", b'{"odd": NaN, ', 1)
    aside = quarantine_line([Reason("odd", "x", "Odd.")], held, {})
    assert as_json is (b"base64" not in aside)
    sent = json.dumps(enter).encode()
    archived, quarantined = lines_object("events", [sent], now), lines_object("set-aside", [aside], now)
    for made in (archived, quarantined):
        boto3.client("s3").put_object(
            Bucket="archive", Key=made.key, Body=made.body, Metadata={"received-at": now.isoformat()}
        )
    finder = Finder(stores, "dev", None, {"CloudWatch Logs": "no answer", "Lambda": "no answer"})
    steps = finder._of_lines([Line(archived.key, 1, sent)], "e")
    assert verdict(steps, {})[0].startswith(problem)


def test_object_that_the_operator_may_not_read_is_not_reported_as_gone(
    stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_client: BaseClient, name: str, _: dict[str, object]) -> object:
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, name)

    finder = Finder(stores, "dev", None, {"Lambda": "frozen"})
    monkeypatch.setattr(BaseClient, "_make_api_call", denied)
    with pytest.raises(Refusal, match=rf"could not read s3://archive/{KEY}: .*403"):
        finder.object(KEY)


def test_trace_of_an_object_omits_an_unreachable_s3_from_the_searched_stores(stores: Any) -> None:
    class Raw:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            return [{"at": AT, "n": 1}]

    stores.database = "MILKRUN"
    finder = Finder(stores, "dev", Raw(), {"S3": "no answer", "Lambda": "no answer"})
    assert [step.what for step in finder.object(KEY)] == ["loaded"]
    assert finder.searched == ["MILKRUN.RAW.EVENTS"]


def test_trace_ends_with_an_error_if_snowflake_stops_responding_during_the_search(stores: Any) -> None:
    class Raw:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            if "STG_EVENTS" in sql:
                raise NoAnswerError("no answer from Snowflake within 10 s")
            return []

    stores.database = "MILKRUN"
    finder = Finder(stores, "dev", Raw(), {"S3": "no answer", "Lambda": "no answer"})
    with pytest.raises(NoAnswerError):
        finder.event("e", AT, AT, lambda _: None)


@pytest.mark.parametrize(("days_ago", "said"), [(100, "REJECTED: missing_geofence"), (10, "GONE: ")])
def test_missing_object_of_a_rejected_event_is_a_problem_unless_it_has_expired(
    stores: Any, days_ago: int, said: str
) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    key = lines_object("rejected", [b"{}"], at).key
    reasons = [{"code": "missing_geofence", "field": "geofence", "message": "m"}]
    line = json.dumps({"event_id": "e", "reasons": reasons})

    class Raw:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            if "RAW.REJECTED" in sql:
                return [{"file_name": key, "n": 1, "said": line}]
            return [{"at": at, "n": 1}] if "SELECT MIN(scanned_at)" in sql else []

    stores.database = "MILKRUN"
    finder = Finder(stores, "dev", Raw(), {"CloudWatch Logs": "no answer", "Lambda": "no answer"})
    assert verdict(finder.event("e", at, at, lambda _: None), {})[0].startswith(said)


@pytest.mark.parametrize(
    "event",
    [
        {"_id": "e", "type": "x"},
        {"_id": "e", "type": ["x"]},
        {"_id": "e", "type": "x", "createdAt": 1763280000},
    ],
    ids=["event", "type is a list", "createdAt is a number"],
)
@pytest.mark.parametrize("indent", [None, 2], ids=["one line", "indented"])
def test_trace_shows_an_event_in_a_file_that_was_added_by_hand(
    stores: Any, event: dict[str, object], indent: int | None
) -> None:
    key = "events/by-hand.json"
    boto3.client("s3").put_object(Bucket="archive", Key=key, Body=json.dumps(event, indent=indent).encode())

    class Raw:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            if "SELECT MIN(scanned_at)" in sql:
                return [{"at": AT, "n": 1}]
            return [{"file_name": key, "n": 1, "said": json.dumps(event)}] if "RAW.EVENTS" in sql else []

    stores.database = "MILKRUN"
    finder = Finder(stores, "dev", Raw(), {"CloudWatch Logs": "no answer", "Lambda": "no answer"})
    assert verdict(finder.event("e", AT, AT, lambda _: None), {})[0] == "ARRIVED: archived, loaded"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("events/by-hand.json", True),
        ("rejected/dt=2026-11-16/hh=08/copy.ndjson.gz", True),
        ("set-aside/x", True),
        ("events", False),
        ("compacted/x.parquet", False),
        ("a/b", False),
    ],
)
def test_only_text_that_begins_with_an_archive_prefix_is_recognized_as_an_object_key(
    text: str, expected: bool
) -> None:
    assert is_key(text) is expected


def test_trace_sorts_steps_by_time_and_leaves_a_step_without_a_time_after_its_predecessor() -> None:
    steps = [
        Step("archived", AT + timedelta(seconds=2)),
        Step("received", AT + timedelta(seconds=1)),
        Step("consumed", None),
        Step("happened", AT),
        Step("loaded", AT + timedelta(seconds=5)),
    ]
    assert [step.what for step in in_order(steps)] == [
        "happened",
        "received",
        "archived",
        "consumed",
        "loaded",
    ]
    assert [row["lag_s"] for row in lags(in_order(steps))] == [-1, 0, 1, None, 4]


@pytest.mark.parametrize(
    ("line", "covered"),
    [
        ({"first_sequence_number": "10", "last_sequence_number": "20"}, True),
        ({"first_sequence_number": "10", "last_sequence_number": "15"}, True),
        ({"first_sequence_number": "16", "last_sequence_number": "20"}, False),
        ({"first_sequence_number": "10", "last_sequence_number": "20", "stopped_at": "16"}, True),
        ({"first_sequence_number": "10", "last_sequence_number": "20", "stopped_at": "15"}, False),
        ({"records": 0}, False),
    ],
)
def test_log_line_of_a_batch_covers_only_the_sequence_numbers_that_the_consumer_processed(
    line: dict[str, object], covered: bool
) -> None:
    assert _covers(line, 15) == covered


def test_trace_shows_a_repeated_step_once() -> None:
    assert len(in_order([Step("archived", AT), Step("archived", AT)])) == 1
