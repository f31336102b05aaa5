"""Test the output for phones and operators: receipts, problem responses, log lines and object metadata."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from contract.settings import SettingsError
from handler import main
from handler.request_log import DeviceCounts
from handler.settings import Settings
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import RECEIVED_AT, Context, Fault

ENTER: dict[str, object] = {
    "_id": "a",
    "type": "user.entered_geofence",
    "createdAt": "2026-11-16T08:00:00Z",
    "user": {"deviceId": "van-1"},
    "geofence": {"tag": "farm", "externalId": "7"},
}
PING = {"deviceId": "van-1", "latitude": 53.2, "longitude": 5.8, "updatedAt": "2026-11-16T08:00:00Z"}


def test_receipt_accounts_for_every_event(phone: Phone) -> None:
    answer = phone.post([ENTER, ENTER, ENTER | {"duration": 2}, {"_id": "b", "type": 5}])

    assert answer.status == 202
    assert answer.headers == {"Content-Type": "application/json"}
    (object_key,), (rejected_key,) = phone.world.keys("events"), phone.world.keys("rejected")
    errors = answer.body.pop("errors")
    assert answer.body == {
        "request_id": "request-1",
        "received": 4,
        "accepted": 2,
        "duplicates": 1,
        "rejected": 1,
        "object_key": object_key,
        "rejected_key": rejected_key,
        "errors_omitted": 0,
    }
    assert [(e["index"], e["event_id"], e["code"], e["field"]) for e in errors] == [
        (3, "b", "wrong_type", "type"),
        (3, "b", "missing_created_at", "createdAt"),
        (2, "a", "event_id_conflict", "_id"),
    ]
    assert errors[0]["message"] == "`type` must be a string."


def test_event_id_used_by_two_devices_is_not_a_conflict(phone: Phone) -> None:
    other = ENTER | {"user": {"deviceId": "van-2"}}
    trip = {"_id": "a", "type": "x", "createdAt": ENTER["createdAt"]}
    users = [trip | {"user": {"userId": name}} for name in ("van-1", "driver-1", "driver-1")]
    answer = phone.post([ENTER, other, *users])
    assert (answer.status, answer.body["accepted"], answer.body["duplicates"]) == (202, 4, 1)
    assert answer.body["errors"] == []


def test_repeated_events_in_a_request_count_as_duplicates(phone: Phone) -> None:
    answer = phone.post([ENTER] * 3)
    assert (answer.status, answer.body["accepted"], answer.body["duplicates"]) == (202, 1, 2)
    assert len(phone.world.stream) == 1


def test_request_without_a_valid_event_gets_a_problem_response(phone: Phone) -> None:
    answer = phone.post([{"_id": "b"}])
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.body["status"], answer.body["title"], answer.body["code"]) == (
        400, "Bad Request", "no_valid_event",
    )  # fmt: skip
    assert (answer.body["received"], answer.body["rejected"]) == (1, 1)
    assert answer.body["rejected_key"] == phone.world.keys("rejected")[0]


def test_geofence_events_are_published_as_stored_and_partitioned_by_device(phone: Phone) -> None:
    phone.post([ENTER | {"type": "custom"}, ENTER | {"_id": "n", "user": {"deviceId": "van-2"}}])
    (record,) = phone.world.stream
    assert (record.partition_key, record.line) == ("van-2", 2)
    assert record.data == phone.world.lines("events")[1]


@pytest.mark.parametrize("event", [ENTER, PING], ids=["geofence event", "ping"])
@pytest.mark.parametrize(
    ("since_receipt", "code"),
    [
        (timedelta(hours=1), None),
        (timedelta(hours=1, microseconds=1), "created_at_in_future"),
        (-timedelta(days=400), None),
        (-timedelta(days=400, microseconds=1), "created_at_too_old"),
        (datetime(8, 11, 28, 8, tzinfo=UTC) - RECEIVED_AT, "created_at_too_old"),
        (datetime(1, 1, 1, tzinfo=UTC) - RECEIVED_AT, "created_at_too_old"),
        (datetime(9999, 12, 31, tzinfo=UTC) - RECEIVED_AT, "created_at_in_future"),
    ],
    ids=["an hour ahead", "more", "400 days ago", "longer ago", "year 8", "year 1", "year 9999"],
)
def test_device_time_is_accepted_from_400_days_ago_to_an_hour_ahead(
    phone: Phone, event: dict[str, object], since_receipt: timedelta, code: str | None
) -> None:
    field = "updatedAt" if "updatedAt" in event else "createdAt"
    answer = phone.post([event | {field: (RECEIVED_AT + since_receipt).isoformat()}])
    assert answer.codes == ([code] if code else [])


def test_geofence_types_are_configurable(phone: Phone) -> None:
    phone.settings = {"GEOFENCE_KINDS": '{"yard.in": "enter"}'}
    phone.post([ENTER, ENTER | {"_id": "y", "type": "yard.in"}])
    assert [json.loads(record.data)["_id"] for record in phone.world.stream] == ["y"]


def test_object_metadata_contains_receipt_time_request_id_and_app_version(phone: Phone) -> None:
    phone.post([ENTER, {}], {"X-App-Version": "7.1 (β)"})
    for key in (*phone.world.keys("events"), *phone.world.keys("rejected")):
        metadata = dict(phone.world.metadata[key])
        assert datetime.fromisoformat(metadata.pop("received-at")).utcoffset() == timedelta(0)
        assert metadata == {"request-id": "request-1", "app-version": "7.1%20%28%CE%B2%29"}


def test_log_line_contains_counts_but_no_personal_data(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    phone.post([ENTER, ENTER, {"_id": "secret-id"}], {"X-App-Version": "secret-app"})
    printed = capsys.readouterr().out
    (line,) = map(json.loads, printed.splitlines())
    assert line["event"] == "events_ingested"
    assert {name: line[name] for name in ("status", "received", "accepted", "duplicates", "rejected")} == {
        "status": 202, "received": 3, "accepted": 1, "duplicates": 1, "rejected": 1,
    }  # fmt: skip
    assert line["object_key"] == phone.world.keys("events")[0]
    assert line["rejected_key"] == phone.world.keys("rejected")[0]
    assert (line["published"], line["queued"], line["rejected_by_code"]) == (1, 0, {"missing_type": 1})
    assert line["lateness_seconds"] > 0
    assert not [word for word in ("van-1", "secret", "farm") if word in printed]


def test_refused_request_is_logged_in_one_line_without_personal_data(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    phone.post([ENTER], {"Content-Type": "text/secret", "X-App-Version": "secret-app"})
    printed = capsys.readouterr().out
    (line,) = map(json.loads, printed.splitlines())
    assert {name: line[name] for name in ("event", "status", "code", "refused", "request_id")} == {
        "event": "request_refused",
        "status": 415,
        "code": "unsupported_media_type",
        "refused": 1,
        "request_id": "request-1",
    }
    assert not [word for word in ("van-1", "secret", "farm") if word in printed]


def test_quarantined_records_get_a_log_line_of_their_own(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    phone.world.faults = [Fault.NONE, Fault.MALFORMED]
    assert phone.post([ENTER]).status == 202
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    (key,) = phone.world.keys("set-aside")
    assert (first["event"], first["set_aside"], first["published"]) == ("events_ingested", 1, 0)
    assert (last["event"], last["set_aside"], last["set_aside_key"]) == ("records_set_aside", 1, key)


def test_log_line_of_a_failed_request_names_the_stored_object(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    phone.world.faults = [Fault.NONE, *[Fault.BEFORE] * 30]
    answer = phone.post([ENTER])
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (answer.status, answer.body["code"], answer.headers["Retry-After"]) == (503, "unavailable", "5")
    assert answer.body["title"] == "Service Unavailable"
    assert (line["status"], line["object_key"]) == (503, phone.world.keys("events")[0])


def test_unexpected_exception_is_logged_with_its_traceback_and_causes_a_503(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    phone.world.faults = [Fault.CRASH]
    assert phone.post([ENTER]).status == 503
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], last["event"], last["error"]) == (
        "ingest_failed",
        "events_ingested",
        "RuntimeError",
    )
    assert first["exception"].endswith("RuntimeError\n")
    assert "next_fault" in first["exception"]
    assert ": simulated failure" not in first["exception"]  # a message may quote an event


def test_missing_setting_is_logged_and_causes_a_503(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAM_NAME", "s")
    monkeypatch.delenv("ARCHIVE_BUCKET", raising=False)
    main._app.cache_clear()
    assert main.ingest({}, Context())["statusCode"] == 503
    assert "ARCHIVE_BUCKET" in capsys.readouterr().out


def test_events_are_not_stored_if_storing_may_exceed_the_remaining_time(phone: Phone) -> None:
    assert phone.post([ENTER], remaining_ms=12_900).status == 503
    assert phone.world.calls == [], "a call began that may leave less than 0.5 s for the response"


def test_claim_check_for_a_malformed_record_is_enqueued_if_little_time_is_left(phone: Phone) -> None:
    """The redrive function has a timeout of one minute, enough to find the malformed record and quarantine it."""
    phone.world.faults = [Fault.NONE, Fault.MALFORMED]
    assert phone.post([ENTER], remaining_ms=20_000).status == 202
    assert phone.world.calls == ["store", "put", "enqueue"]


def test_stream_is_called_at_most_ten_times_before_a_claim_check_is_enqueued(phone: Phone) -> None:
    phone.world.faults = [Fault.NONE, *[Fault.BEFORE] * 5, *[Fault.PARTLY] * 50]
    answer = phone.post([ENTER | {"_id": str(n)} for n in range(1, 40)])
    assert answer.status == 202
    assert phone.world.calls.count("put") <= 10
    assert len(phone.world.claims) == 1


def test_stage_may_allow_device_clocks_up_to_a_day_ahead(phone: Phone) -> None:
    ahead = [ENTER | {"createdAt": (RECEIVED_AT + timedelta(hours=hours)).isoformat()} for hours in (23, 25)]
    phone.settings = {"MAX_CLOCK_AHEAD_SECONDS": "86400"}
    assert phone.post(ahead).codes == ["created_at_in_future"]
    with pytest.raises(ValueError, match="MAX_CLOCK_AHEAD_SECONDS"):
        Settings.of(
            {"ARCHIVE_BUCKET": "archive", "STREAM_NAME": "s", "REDRIVE_QUEUE_URL": "q"}
            | {"MAX_CLOCK_AHEAD_SECONDS": "86401"}
        )


def test_empty_clock_limit_means_the_default_of_one_hour(phone: Phone) -> None:
    ahead = [ENTER | {"createdAt": (RECEIVED_AT + timedelta(minutes=n)).isoformat()} for n in (59, 61)]
    phone.settings = {"MAX_CLOCK_AHEAD_SECONDS": ""}
    assert phone.post(ahead).codes == ["created_at_in_future"]


@pytest.mark.parametrize("name", ["IDENTITY", "SIGNATURE_SCHEME", "STREAM_NAME", "JWT_ALGORITHMS"])
def test_empty_setting_on_which_security_or_data_depends_is_refused(name: str) -> None:
    """For example, an empty value must not turn authentication off."""
    variables = {"ARCHIVE_BUCKET": "archive", "STREAM_NAME": "s", "REDRIVE_QUEUE_URL": "q"}
    with pytest.raises(SettingsError, match=name):
        Settings.of(variables | {name: ""})


def test_error_for_an_unknown_log_level_names_the_setting() -> None:
    variables = {"ARCHIVE_BUCKET": "archive", "STREAM_NAME": "s", "REDRIVE_QUEUE_URL": "q"}
    with pytest.raises(SettingsError, match="LOG_LEVEL"):
        Settings.of(variables | {"LOG_LEVEL": "info"})


def test_log_line_names_the_publish_error_if_a_claim_check_is_enqueued(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    phone.world.faults = [Fault.NONE, *[Fault.BEFORE] * 10]
    assert phone.post([ENTER]).status == 202
    (line,) = [each for each in map(json.loads, capsys.readouterr().out.splitlines()) if "store_ms" in each]
    assert (line["queued"], line["publish_error"]) == (1, "simulated failure")


@pytest.mark.parametrize(
    ("faults", "store_ms", "publish_ms"),
    [
        ([Fault.BEFORE], 12_000, None),
        ([Fault.NONE, Fault.NONE], 12_000, 12_000),
        ([Fault.NONE, *[Fault.BEFORE] * 30], 12_000, 132_000),
    ],
)
def test_log_line_contains_the_duration_of_each_step_even_if_the_step_fails(
    phone: Phone,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Fault],
    store_ms: float,
    publish_ms: float | None,
) -> None:
    """The runbook's section `api-latency` uses these durations to decide whether S3 or Kinesis is slow."""
    clock = SimpleNamespace(perf_counter=lambda: 12.0 * len(phone.world.calls))
    monkeypatch.setattr("handler.ingest.time", clock)
    phone.world.faults = faults
    phone.post([ENTER])
    (line,) = [each for each in map(json.loads, capsys.readouterr().out.splitlines()) if "store_ms" in each]
    assert (line["store_ms"], line["publish_ms"]) == (store_ms, publish_ms)


def test_departure_dated_hours_ahead_is_stored_as_rejected(phone: Phone) -> None:
    """If it were accepted, `departed` would be sent too early, and the real departure would only restate the visit."""
    ahead = (RECEIVED_AT + timedelta(hours=23, minutes=48)).isoformat()
    answer = phone.post([ENTER | {"type": "user.exited_geofence", "createdAt": ahead}])
    assert (answer.codes, phone.world.stream) == (["created_at_in_future"], [])
    assert len(phone.world.lines("rejected")) == 1


def test_events_per_device_are_counted_across_requests_within_an_hour() -> None:
    counts = DeviceCounts()
    assert counts.most({"van-1": 300, "": 900}, RECEIVED_AT) == 300
    assert counts.most({"van-1": 300, "van-2": 5}, RECEIVED_AT + timedelta(minutes=59)) == 600
    assert counts.most({"van-2": 5}, RECEIVED_AT + timedelta(minutes=59)) == 10
    assert counts.most({"van-1": 1}, RECEIVED_AT + timedelta(hours=1)) == 1


def test_log_line_contains_the_highest_event_count_of_a_device_but_no_device_id(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    phone.post([ENTER | {"_id": str(n)} for n in range(7)])
    printed = capsys.readouterr().out
    assert '"events_per_device":7' in printed
    assert "van-1" not in printed


def test_events_of_requests_that_failed_are_not_counted(
    phone: Phone, capsys: pytest.CaptureFixture[str]
) -> None:
    """While S3 is down, phones send the same batches again and again, which must look neither like more accepted events
    nor like a loop in the app.
    """
    phone.world.faults = [Fault.BEFORE] * 9
    statuses = [phone.post([ENTER, {"_id": "b"}]).status for _ in range(10)]
    *failed, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert statuses == [503] * 9 + [202]
    assert (last["accepted"], last["rejected_by_code"]) == (1, {"missing_type": 1})
    assert last["events_per_device"] == 1
    counts = {"received", "accepted", "rejected", "rejected_by_code", "events_per_device", "lateness_seconds"}
    assert not [line for line in failed if counts & set(line)]
