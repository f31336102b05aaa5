"""Test that rejected events are grouped, repaired with a patch and sent once, even after an interruption."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import boto3
import pytest
import typer
from botocore.exceptions import ClientError
from click.testing import Result
from moto import mock_aws
from typer.testing import CliRunner

from cli.refusal import Refusal
from contract.archive_object import lines_object
from contract.events import Reason
from contract.geofence_event_types import GEOFENCE_KINDS
from handler.parse_body import parse_body
from handler.receipt import errors_of
from handler.request_limits import MAX_BODY_BYTES
from handler.validate import validate
from ops import quarantine, rejects, rejects_commands, terminal
from ops.edit_events import Patch
from ops.rejects import RESENT, Box, Selection, Sent, groups, repaired, send, try_out
from tests.rejects import reject_line, unreadable_line
from tests.unit.tools.fleet.test_send import server

NOW = datetime.now(UTC)
BUCKET = "archive"
EVERYTHING = Selection(NOW - timedelta(hours=1), NOW)


def bad(n: int, **fields: object) -> dict[str, object]:
    """Return an event that is rejected because its time field is named `created`."""
    return {
        "_id": f"e{n}",
        "type": "pickup.started",
        "created": NOW.isoformat(),
        "deviceId": f"d{n % 7}",
    } | fields


RENAME = Patch.of([], ["created=createdAt"], [], [])


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        yield Box(s3, BUCKET)


def keep(*events: object, code: str = "missing_created_at", app_version: str | None = "4.2") -> str:
    lines = [
        reject_line([Reason(code, "createdAt", "is missing")], json.dumps(event).encode(), index=n, event_id=None,
                    app_version=app_version)
        for n, event in enumerate(events)
    ]  # fmt: skip
    made = lines_object("rejected", lines, NOW)
    boto3.client("s3").put_object(Bucket=BUCKET, Key=made.key, Body=made.body)
    return made.key


class Endpoint:
    """A fake of the API that validates like the handler and keeps the accepted events."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.accepted: list[dict[str, object]] = []
        self.calls = 0
        self._breaks_at = breaks_at

    def post(self, body: bytes) -> dict[str, object]:
        if self.calls == self._breaks_at:
            raise KeyboardInterrupt
        self.calls += 1
        batch = validate(parse_body(body, "ndjson"), "ndjson", GEOFENCE_KINDS, NOW)
        self.accepted += map(json.loads, batch.lines)
        errors, omitted = errors_of(batch)
        return {"rejected": len(batch.rejected), "errors": errors, "errors_omitted": omitted}


def resend(box: Box, post: Callable[[bytes], dict[str, object]], patch: Patch = RENAME) -> Sent:
    sent = Sent()
    for _ in send(post, box, repaired(box.find(EVERYTHING), patch, sent), sent):
        pass
    return sent


def test_rejects_are_grouped_by_code_and_a_chosen_field(box: Box) -> None:
    key = keep(bad(1), bad(2), bad(8))
    keep(bad(3), app_version=None, code="missing_id")
    rows = groups(box.find(EVERYTHING), ["app_version"])
    assert [(r["code"], r["app_version"], r["rejects"], r["devices"]) for r in rows] == [
        ("missing_created_at", "4.2", 3, 2),
        ("missing_id", "", 1, 1),
    ]
    assert rows[0]["example"] == f"{key}:1"
    by_device = groups(box.find(EVERYTHING), ["device"])
    assert {(r["device"], r["rejects"]) for r in by_device} == {("d1", 2), ("d2", 1), ("d3", 1)}


@pytest.mark.parametrize(
    ("chosen", "number"),
    [
        ({}, 4),
        ({"code": "missing_id"}, 1),
        ({"app_version": "4.2"}, 3),
        ({"device": "d1"}, 2),
        ({"device": "x"}, 0),
    ],
    ids=["all", "code", "version", "device", "nobody"],
)
def test_only_the_selected_rejects_are_found(box: Box, chosen: dict[str, str], number: int) -> None:
    keep(bad(1), bad(2), bad(8))
    keep(bad(3), app_version=None, code="missing_id")
    assert sum(1 for _ in box.find(Selection(NOW, NOW, **chosen))) == number


def test_repaired_event_refers_to_its_reject_and_is_sent_once(box: Box) -> None:
    key = keep(bad(1), bad(2))
    endpoint = Endpoint()
    sent = resend(box, endpoint.post)
    assert (sent.found, sent.accepted, dict(sent.rejected)) == (2, 2, {})
    assert [(e["_id"], e[RESENT], "created" in e) for e in endpoint.accepted] == [
        ("e1", f"{key}:1", False), ("e2", f"{key}:2", False),
    ]  # fmt: skip
    again = resend(box, endpoint.post)
    assert (again.found, endpoint.calls) == (0, 1)


def test_repeated_command_continues_an_interrupted_repair_of_thousands_of_rejects(box: Box) -> None:
    for first in range(0, 10_000, 400):
        keep(*(bad(n) for n in range(first, first + 400)))
    endpoint = Endpoint(breaks_at=4)
    with pytest.raises(KeyboardInterrupt):
        resend(box, endpoint.post)
    sent = resend(box, (rest := Endpoint()).post)
    ids = [event["_id"] for event in endpoint.accepted + rest.accepted]
    assert sorted(ids) == sorted(f"e{n}" for n in range(10_000))
    assert sent.found == 10_000 - len(endpoint.accepted)


NUMBERS = b'"odo":9007199254740993,"price":1.50,"neg0":-0.0,"small":0.12345678901234567890'


def test_numbers_are_shown_and_resent_exactly_as_received(box: Box) -> None:
    event = b'{"_id":"e1","type":"x","created":"2026-11-28T12:00:00Z","deviceId":"\\u0064",%b}' % NUMBERS
    line = reject_line([Reason("missing_created_at", "createdAt", "m")], event, index=0, event_id=None)
    made = lines_object("rejected", [line], NOW)
    boto3.client("s3").put_object(Bucket=BUCKET, Key=made.key, Body=made.body)
    [reject] = box.find(EVERYTHING)
    assert (reject.text, reject.device) == (event.decode(), "d")
    [again] = repaired([reject], RENAME, Sent())
    assert NUMBERS in again.line
    changed = [each for each in again.diff().splitlines() if each[:1] in ("+", "-")]
    assert not [each for each in changed if "odo" in each or "price" in each or "neg0" in each]


def test_reject_whose_repaired_event_is_rejected_is_counted_and_still_listed(box: Box) -> None:
    keep(bad(1), bad(2, deviceId=None))
    endpoint = Endpoint()
    assert dict(resend(box, endpoint.post).rejected) == {"missing_identity": 1}
    assert [reject.line for reject in box.find(EVERYTHING)] == [2]


def test_failed_repair_is_not_found_while_the_original_reject_exists(box: Box) -> None:
    """If both were found, each attempt would double the number of rejects, and one event would get two derived ids."""
    keep(event := {"type": "pickup.started", "created": NOW.isoformat(), "deviceId": "d1"}, code="missing_id")
    endpoint = Endpoint()
    for patch in (
        Patch.of(["_id=@sha256"], [], [], []),
        Patch.of(["_id=@sha256"], ["created=createdAt"], [], []),
    ):
        sent = Sent()
        for _ in send(endpoint.post, box, repaired(box.find(EVERYTHING), patch, sent), sent):
            pass
        assert sent.found == 1
        if sent.rejected:
            keep(
                event | {"_id": "derived from the text", RESENT: f"{next(iter(box.find(EVERYTHING))).key}:1"}
            )
    assert len(endpoint.accepted) == 1
    assert list(box.find(EVERYTHING)) == []


def test_failed_repair_is_found_after_the_original_reject_is_deleted(box: Box) -> None:
    original = keep(bad(1))
    keep(bad(1) | {RESENT: f"{original}:1"})
    assert [reject.key for reject in box.find(EVERYTHING)] == [original]
    boto3.client("s3").delete_object(Bucket=BUCKET, Key=original)
    later = Box(boto3.client("s3"), BUCKET)
    assert [reject.key for reject in later.find(EVERYTHING)] != []
    later.note(original, [1])
    assert list(Box(boto3.client("s3"), BUCKET).find(EVERYTHING)) == []


def test_reject_whose_error_the_response_omits_is_not_recorded_as_accepted(box: Box) -> None:
    keep(
        *(
            bad(n, _id=f"{n}" + "\u00e9" * 100, geofence="x" * 10, type="user.entered_geofence")
            for n in range(400)
        )
    )
    keep(bad(401))
    endpoint = Endpoint()
    sent = resend(box, endpoint.post)
    assert (sent.found, sent.accepted, sum(sent.rejected.values())) == (401, 1, 400)
    assert endpoint.calls > 1
    assert len(list(box.find(EVERYTHING))) == 400


@pytest.mark.parametrize("answer", [{}, {"rejected": 2, "errors": []}], ids=["no-receipt", "no-errors"])
def test_no_event_is_marked_as_accepted_if_the_response_does_not_name_the_rejected_events(
    box: Box, answer: dict[str, object]
) -> None:
    keep(bad(1), bad(2))
    with pytest.raises(Refusal, match="does not say which"):
        resend(box, lambda _: answer)
    assert len(list(box.find(EVERYTHING))) == 2


def test_dry_run_of_a_repair_shows_the_change_and_validates_like_the_handler(box: Box) -> None:
    keep(bad(1), bad(2, deviceId=None))
    sent = Sent()
    [first, *_] = events = list(repaired(box.find(EVERYTHING), RENAME, sent))
    try_out(events, GEOFENCE_KINDS, sent)
    assert (sent.accepted, dict(sent.rejected)) == (1, {"missing_identity": 1})
    assert '-  "created": ' in first.diff()
    assert '+  "createdAt": ' in first.diff()
    assert box.resent(first.reject.key) == set()


def test_unchanged_rejects_and_rejects_without_a_json_object_are_only_counted(box: Box) -> None:
    keep(bad(1), {"_id": "x"}, [1])
    line = unreadable_line([Reason("not_json", "", "m")], b"\xff", content_type=None, content_encoding=None)
    made = lines_object("rejected", [line, b'"somebody else"'], NOW)
    boto3.client("s3").put_object(Bucket=BUCKET, Key=made.key, Body=made.body)
    sent = resend(box, Endpoint().post)
    assert (sent.found, sent.accepted, sent.unchanged, sent.no_json) == (5, 1, 1, 3)


def test_patch_that_changes_only_the_json_type_of_a_value_is_a_change(box: Box) -> None:
    keep(bad(1, confidence=True, createdAt=NOW.isoformat()), code="invalid_confidence")
    sent = resend(box, Endpoint().post, Patch.of(["confidence=1"], [], [], []))
    assert (sent.unchanged, sent.accepted) == (0, 1)


def test_event_too_large_for_any_request_does_not_stop_other_events(box: Box) -> None:
    keep(bad(1), bad(2, note="x" * MAX_BODY_BYTES), bad(3))

    def post(body: bytes) -> dict[str, object]:
        assert len(body) <= MAX_BODY_BYTES, "the API would answer 413"
        return endpoint.post(body)

    endpoint = Endpoint()
    sent = resend(box, post)
    assert (sent.accepted, dict(sent.rejected)) == (2, {"event_too_large": 1})


def test_damaged_objects_are_listed_and_do_not_hide_other_rejects(box: Box) -> None:
    key = keep(bad(1), bad(2))
    keep(bad(3))
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"\x1f\x8btorn")
    assert len(list(box.find(EVERYTHING))) == 1
    assert box.unreadable == [key]


@pytest.fixture
def show(box: Box, monkeypatch: pytest.MonkeyPatch) -> Callable[[typer.Typer], Result]:
    """Return a function that runs the subcommand `show` of a command on the bucket of `box`."""
    outputs = SimpleNamespace(bucket=BUCKET, aws=lambda service, attempts=5: boto3.client(service))
    monkeypatch.setattr(terminal, "outputs_of", lambda _context, _stage: outputs)
    return lambda app: CliRunner().invoke(app, ["show"], obj={})


@pytest.mark.parametrize(
    ("app", "prefix"), [(rejects_commands.app, "rejected"), (quarantine.app, "set-aside")], ids=["r", "q"]
)
def test_show_names_damaged_objects_and_exits_with_code_1(
    show: Callable[[typer.Typer], Result], app: typer.Typer, prefix: str
) -> None:
    assert show(app).exit_code == 0
    key = lines_object(prefix, [b"{}"], NOW).key
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"\x1f\x8btorn")
    done = show(app)
    assert done.exit_code == 1
    assert key in done.stderr


def test_show_says_that_a_long_event_is_truncated(show: Callable[[typer.Typer], Result]) -> None:
    keep(bad(1, note="x" * 5000))
    assert "more characters" in show(rejects_commands.app).stderr


def test_purge_keeps_objects_that_contain_other_rejects(box: Box) -> None:
    whole, shared = keep(bad(1), bad(8)), keep(bad(1), bad(2))
    chosen = Selection(NOW, NOW, device="d1", resent=True)
    assert box.purge(box.find(chosen)) == (1, [shared])
    assert {reject.key for reject in box.find(EVERYTHING)} == {shared}
    assert whole != shared


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ((["user.deviceId=d"], [], [], []), {}, {"user": {"deviceId": "d"}}),
        ((["n=1.50"], [], [], []), {}, {"n": 1.5}),
        ((['n="1"'], [], [], []), {}, {"n": "1"}),
        (([], ["a.b=c"], [], []), {"a": {"b": 1}}, {"a": {}, "c": 1}),
        (([], ["a=c"], [], []), {"b": 1}, {"b": 1}),
        (([], ["a.b=c"], [], []), {"a": [1]}, {"a": [1]}),
        (([], [], ["a", "x.y"], []), {"a": 1, "b": 2}, {"b": 2}),
        (([], [], [], ["type=enter:user.entered_geofence,x:y"]), {"type": "enter"}, {"type": "user.entered_geofence"}),
        (([], [], [], ["type=enter:x"]), {"type": 5}, {"type": 5}),
        ((["a.b=1"], [], [], []), {"a": "text"}, {"a": {"b": 1}}),
    ],
    ids=str,
)  # fmt: skip
def test_patch_changes_only_the_named_fields(
    options: tuple[list[str], ...], before: dict[str, object], after: dict[str, object]
) -> None:
    assert Patch.of(*options).apply(before, "") == after


def test_derived_id_depends_only_on_the_events_text() -> None:
    patch = Patch.of(["_id=@sha256"], [], [], [])
    assert patch.apply({"a": 1}, "text")["_id"] == patch.apply({}, "text")["_id"]
    assert patch.apply({}, "text") != patch.apply({}, "other")
    assert len(patch.apply({}, "text")["_id"]) == 24


@pytest.mark.parametrize(
    "options",
    [(["a"], [], [], []), (["=1"], [], [], []), (["a={"], [], [], []), ([], ["a"], [], []), ([], [], [""], []),
     ([], [], ["a..b"], []), ([], [], [], ["a=b"])],
    ids=str,
)  # fmt: skip
def test_invalid_patch_is_refused(options: tuple[list[str], ...]) -> None:
    with pytest.raises(typer.BadParameter):
        Patch.of(*options)


def fake_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock of `ops.rejects`; return the list of its readings in seconds, to which each pause adds one.

    No other module gets this clock, because other threads, such as those of the Snowflake connector, also sleep.
    """
    clock = [0.0]
    paused = SimpleNamespace(
        sleep=lambda seconds: clock.append(clock[-1] + seconds), monotonic=lambda: clock[-1]
    )
    monkeypatch.setattr(rejects, "time", paused)
    return clock


@pytest.mark.parametrize(("status", "tries"), [(401, 1), (403, 1), (404, 1), (429, 3), (503, 3)])
def test_send_is_retried_only_after_a_transient_error_response(
    monkeypatch: pytest.MonkeyPatch, status: int, tries: int
) -> None:
    answers = []

    def post_once(body: bytes, content_type: str) -> tuple[int, bytes]:
        answers.append(status)
        return status, b'{"code":"invalid_api_key"}'

    monkeypatch.setattr(rejects.post_to_endpoint, "poster", lambda _: post_once)
    fake_clock(monkeypatch)
    post = rejects.poster(SimpleNamespace(endpoint="https://stage/v1/events"), timeout_s=1.0)
    with pytest.raises(Refusal, match=rf"answered {status}"):
        post(b"{}")
    assert len(answers) == tries


@pytest.mark.parametrize("status", [200, 400])
def test_send_is_retried_after_a_response_without_a_receipt(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A proxy may answer instead of the stage. Then nothing is stored, so no event may be recorded as accepted."""
    fake_clock(monkeypatch)
    with server(lambda *_: (status, {}, b'{"accepted": 1, "rejected": 0}')) as (url, got):
        post = rejects.poster(SimpleNamespace(endpoint=url, api_key="k", ingest_function=None), timeout_s=1.0)
        with pytest.raises(Refusal, match=rf"answered {status} without a receipt"):
            post(b"{}")
    assert len(got) == 3


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (429, 3), (500, 3)])
def test_send_by_invoking_the_function_is_retried_only_after_a_transient_error(
    monkeypatch: pytest.MonkeyPatch, status: int, tries: int
) -> None:
    def invoke(**_: object) -> None:
        asked.append(clock[-1])
        error = {"Error": {"Code": "E", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(error, "Invoke")

    asked: list[float] = []
    monkeypatch.setattr(rejects.post_to_endpoint.reachable_stores, "require", lambda *_: None)
    clock = fake_clock(monkeypatch)
    outputs = SimpleNamespace(ingest_function="ingest", aws=lambda _: SimpleNamespace(invoke=invoke))
    with pytest.raises(Refusal, match="Invoke"):
        rejects.poster(outputs, timeout_s=1.0)(b"{}")
    assert len(asked) == tries
