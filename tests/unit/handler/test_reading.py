"""Test the accepted body formats and headers, and the error codes of invalid, unsupported and too large requests."""

import base64
import gzip
import json
import time
import zlib

import pytest

from tests.unit.handler.conftest import Phone

TRIP: dict[str, object] = {
    "_id": "a",
    "type": "user.updated_trip",
    "createdAt": "2026-11-16T08:00:00Z",
    "user": {"deviceId": "van-1"},
}
OTHER = TRIP | {"_id": "b"}
NDJSON = {"Content-Type": "application/x-ndjson"}
GZIP = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


def text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def named_gzip(plain: bytes, name_bytes: int) -> bytes:
    """Return `plain` as gzip, with a file name of `name_bytes` bytes in its header.

    RFC 1952, section 2.3, describes this field as "FNAME".
    """
    packed = gzip.compress(plain, mtime=0)
    return packed[:3] + b"\x08" + packed[4:10] + b"n" * name_bytes + b"\0" + packed[10:]


# --- body formats ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(text([TRIP, OTHER]), {}, id="array"),
        pytest.param(json.dumps([TRIP, OTHER], indent=2).encode(), {}, id="array with whitespace"),
        pytest.param(b"\xef\xbb\xbf" + text([TRIP, OTHER]), {}, id="byte order mark"),
        pytest.param(text({"events": [TRIP, OTHER], "user": {"deviceId": "x"}}), {}, id="envelope"),
        pytest.param(text({"\u0065vents": [TRIP, OTHER], "live": True}), {}, id="envelope without user"),
        pytest.param(b'{"\\u0065vents":[%b,%b]}' % (text(TRIP), text(OTHER)), {}, id="escaped name"),
        pytest.param(text(TRIP) + b"\n" + text(OTHER), NDJSON, id="NDJSON"),
        pytest.param(text(TRIP) + b"\r\n\n \n " + text(OTHER) + b"\r\n", NDJSON, id="NDJSON with blanks"),
        pytest.param(gzip.compress(text([TRIP, OTHER])), GZIP, id="gzip"),
        pytest.param(gzip.compress(text([TRIP, OTHER])[:9]) + gzip.compress(text([TRIP, OTHER])[9:]), GZIP,
                     id="gzip of two members"),
        pytest.param(gzip.compress(text([TRIP, OTHER])) + b"\0\0", GZIP, id="gzip with padding"),
        pytest.param(text([TRIP, OTHER]), GZIP, id="gzip that a gateway inflated"),
        pytest.param(text([TRIP, OTHER]), {"content-type": "Application/JSON; charset=UTF-8",
                                          "content-encoding": "identity"}, id="headers in any case"),
    ],
)  # fmt: skip
def test_same_lines_are_stored_whatever_the_body_format(
    phone: Phone, body: bytes, headers: dict[str, str]
) -> None:
    answer = phone.post(body, headers)
    assert (answer.status, answer.body["accepted"], answer.body["errors"]) == (202, 2, [])
    assert phone.world.lines("events") == [text(TRIP), text(OTHER)]


@pytest.mark.parametrize("body", [text(TRIP), text({"event": TRIP}), text({"event": TRIP, "user": None})])
def test_single_event_may_be_bare_or_in_an_envelope(phone: Phone, body: bytes) -> None:
    assert phone.post(body).status == 202
    assert phone.world.lines("events") == [text(TRIP)]


def test_event_with_a_field_called_events_is_not_an_envelope(phone: Phone) -> None:
    event = TRIP | {"events": [1], "event": "x"}
    assert phone.post(event).status == 202
    assert phone.world.lines("events") == [text(event)]


def test_payload_format_2_with_a_body_that_is_not_base64_is_accepted(phone: Phone) -> None:
    event = {
        "version": "2.0",
        "headers": {"content-type": "application/json"},
        "requestContext": {"requestId": "r-2", "http": {"method": "POST", "path": "/v1/events"}},
        "body": json.dumps([TRIP | {"x": "é"}], ensure_ascii=False),
        "isBase64Encoded": False,
    }
    answer = phone.send(event)
    assert (answer.status, answer.body["request_id"]) == (202, "fallback-id")
    (line,) = phone.world.lines("events")
    assert line == text(TRIP)[:-1] + ',"x":"é"}'.encode()


def test_request_without_a_gateway_request_id_gets_lambdas_request_id(phone: Phone) -> None:
    assert phone.send({"body": text([TRIP]).decode(), "headers": None}).body["request_id"] == "fallback-id"


# --- the user of the envelope -------------------------------------------------------------------


def test_events_without_a_user_get_only_the_ids_from_the_envelope(phone: Phone) -> None:
    bare = {name: value for name, value in TRIP.items() if name != "user"}
    user = {"_id": "u-1", "userId": "driver", "deviceId": "van-9", "ip": "192.0.2.7", "metadata": {"x": 1}}
    phone.post({"events": [bare, OTHER], "user": user})

    first, second = map(json.loads, phone.world.lines("events"))
    assert first == bare | {"user": {"userId": "driver", "deviceId": "van-9", "_id": "u-1"}}
    assert second == OTHER
    assert b"192.0.2.7" not in b"".join(phone.world.lines("rejected"))


@pytest.mark.parametrize("event", [
    b'{"user":null,"_id":"a","type":"t","createdAt":"2026-11-16T08:00:00Z"}',
    b'{"_id":"a","type":"t","createdAt":"2026-11-16T08:00:00Z","user" : null}',
    b'{"_id":"a","\\u0075ser":null,"type":"t","createdAt":"2026-11-16T08:00:00Z"}',
])  # fmt: skip
def test_null_user_is_replaced_with_the_ids_from_the_envelope(phone: Phone, event: bytes) -> None:
    assert phone.post(b'{"events":[%b],"user":{"deviceId":"van-9"}}' % event).status == 202
    (line,) = phone.world.lines("events")
    expected = {"_id": "a", "type": "t", "createdAt": "2026-11-16T08:00:00Z", "user": {"deviceId": "van-9"}}
    assert json.loads(line, object_pairs_hook=list) == json.loads(
        json.dumps(expected), object_pairs_hook=list
    )


def test_nested_null_user_is_kept(phone: Phone) -> None:
    event = b'{"_id":"a","type":"t","createdAt":"2026-11-16T08:00:00Z","x":[{"user":null},"user:null",1.50]}'
    phone.post(b'{"event":%b,"user":{"deviceId":"d"}}' % event)
    assert phone.world.lines("events") == [event[:-1] + b',"user":{"deviceId":"d"}}']


@pytest.mark.parametrize("field", ["duration", "confidence", "deviceId"])
def test_optional_field_that_is_null_counts_as_absent(phone: Phone, field: str) -> None:
    crossing = TRIP | {"type": "user.exited_geofence", "geofence": {"tag": "farm", "externalId": "f"}}
    assert phone.post([crossing | {field: None}]).status == 202


@pytest.mark.parametrize("field", ["_id", "userId", "deviceId"])
def test_null_id_in_user_counts_as_absent(phone: Phone, field: str) -> None:
    others = {"_id": "u", "userId": "u", "deviceId": "d"}
    assert phone.post([TRIP | {"user": others | {field: None}}]).status == 202
    assert phone.post([TRIP | {"user": dict.fromkeys(others)}]).codes == ["missing_identity"]


@pytest.mark.parametrize("absent", ["_id", "event", "user"])
def test_null_member_in_the_envelope_counts_as_absent(phone: Phone, absent: str) -> None:
    assert phone.post({"events": [TRIP], absent: None}).status == 202
    assert phone.world.lines("events") == [text(TRIP)]


def test_envelope_whose_events_are_null_contains_no_event(phone: Phone) -> None:
    assert phone.post({"event": None, "user": {"deviceId": "d"}}).codes == ["no_events"]
    assert phone.post({"event": None, "events": None}).codes == ["no_events"]


def test_invalid_ids_in_the_envelope_are_not_copied_to_its_events(phone: Phone) -> None:
    bare = {name: value for name, value in TRIP.items() if name != "user"}
    answer = phone.post({"events": [bare], "user": {"deviceId": "x" * 100_000, "userId": 7, "_id": ""}})
    [error] = answer.body["errors"]
    assert error["code"] == "missing_identity"
    assert error["message"].endswith("a valid string in the event, or in the envelope's `user`.")


# --- violations inside one event ----------------------------------------------------------------

BREACHES = {
    "a repeated name": b'{"_id":"x","_id":"y"}',
    "NaN": b'{"_id":"x","a":NaN}',
    "a lone surrogate": b'{"_id":"x","a":"\\ud800"}',
    "not UTF-8": b'{"_id":"x","a":"\xff"}',
    "a number that exceeds a double": b'{"_id":"x","a":1e999}',
    "deep nesting": b'{"_id":"x","a":' + b"[" * 40 + b"]" * 40 + b"}",
    "deeper nesting": b'{"_id":"x","a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "no JSON": b"{_id:x}",
    "a bracket in a string": b'{"_id":"x]}","a":NaN}',
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES.keys())
@pytest.mark.parametrize("form", ["array", "envelope"])
def test_violation_inside_one_event_rejects_only_that_event(phone: Phone, breach: bytes, form: str) -> None:
    array = b"[%b, %b ,%b]" % (text(TRIP), breach, text(OTHER))
    answer = phone.post(array if form == "array" else b'{"user":{"deviceId":"d"},"events":%b}' % array)

    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (202, 2, 1)
    assert [(e["index"], e["code"]) for e in answer.body["errors"]] == [(1, "invalid_json_value")]
    assert phone.world.lines("events") == [text(TRIP), text(OTHER)]
    (reject,) = map(json.loads, phone.world.lines("rejected"))
    assert base64.b64decode(reject["body_base64"]) == breach


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES.keys())
def test_violation_in_one_line_rejects_only_that_line(phone: Phone, breach: bytes) -> None:
    answer = phone.post(b"\n".join([text(TRIP), breach, text(OTHER)]), NDJSON)
    assert (answer.status, answer.body["accepted"], answer.codes) == (202, 2, ["not_json"])


def test_only_the_event_over_64_kib_is_rejected(phone: Phone) -> None:
    fits = TRIP | {"_id": "fits", "x": ""}
    fits["x"] = "x" * (64 * 1024 - len(text(fits)))
    answer = phone.post([fits, fits | {"_id": "over", "x": fits["x"] + "x"}])
    assert (answer.body["accepted"], answer.codes) == (1, ["event_too_large"])
    assert json.loads(phone.world.lines("rejected")[0])["event_id"] == "over"


def test_response_has_at_most_64_kib_and_counts_the_omitted_errors(phone: Phone) -> None:
    wrong: dict[str, object] = dict.fromkeys(("createdAt", "deviceId", "duration", "confidence"), ())
    wrong |= {"_id": "\x01" * 129, "type": "user.entered_geofence"}
    wrong["user"] = dict.fromkeys(("_id", "userId", "deviceId"), 5)
    wrong["geofence"] = dict.fromkeys(("tag", "externalId"), 5)
    answer = phone.post([wrong] * 500)
    assert answer.body["rejected"] == 500
    assert len(answer.codes) + answer.body["errors_omitted"] == 500 * 10
    assert len(json.dumps(answer.body, separators=(",", ":"), ensure_ascii=False).encode()) <= 64 * 1024


def test_ids_added_from_the_envelope_do_not_count_towards_the_event_size(phone: Phone) -> None:
    bare = {name: value for name, value in TRIP.items() if name != "user"} | {"x": ""}
    bare["x"] = "x" * (64 * 1024 - len(text(bare)))
    assert phone.post({"events": [bare], "user": {"deviceId": "van-1"}}).status == 202
    assert phone.post({"events": [bare | {"x": bare["x"] + "x"}]}).codes == ["event_too_large"]


# --- bodies that cannot be split into events ----------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"", {}, "empty_body"),
        (b" \n", {}, "empty_body"),
        (b"\xef\xbb\xbf", {}, "empty_body"),
        (b"[]", {}, "no_events"),
        (b'{"events":[]}', {}, "no_events"),
        (b"hello", {}, "not_json"),
        (b'[{"_id":"a"', {}, "not_json"),
        (b'[{"_id":"a"}]]', {}, "not_json"),
        (b'[{"_id":NaN}] x', {}, "not_json"),
        (b'[{"_id":"a"},]', {}, "not_json"),
        (b'[{"_id":"a]', {}, "not_json"),
        (b'{"_id":NaN]', {}, "not_json"),
        (b'{"events" [1]}', {}, "not_json"),
        (b"[" * 100_000, {}, "not_json"),
        (b"\xff\xfe[\x00]\x00", {}, "not_json"),
        (text({"events": [TRIP], "event": TRIP}), {}, "invalid_envelope"),
        (text({"events": TRIP}), {}, "invalid_envelope"),
        (text({"events": [TRIP], "user": "me"}), {}, "invalid_envelope"),
        (b'{"events":[%b],"user":{"_id":"a","_id":"b"}}' % text(TRIP), {}, "invalid_envelope"),
        (b'{"events":[],"events":[%b]}' % text(TRIP), {}, "invalid_envelope"),
        (b'{"events":[NaN],"events":[%b]}' % text(TRIP), {}, "invalid_envelope"),
        (b"\x1f\x8b nonsense", GZIP, "bad_gzip"),
        (b"nonsense", GZIP, "bad_gzip"),
        (b"", GZIP, "empty_body"),
        (gzip.compress(text([TRIP]))[:-9], GZIP, "bad_gzip"),
        (gzip.compress(text([TRIP])) + b"more", GZIP, "bad_gzip"),
        (zlib.compress(text([TRIP])), GZIP, "bad_gzip"),
        (gzip.compress(text([TRIP])) + gzip.compress(b"") * 63, GZIP, "bad_gzip"),
    ],
)
def test_body_that_contains_no_readable_list_of_events_is_rejected_and_stored_unchanged(
    phone: Phone, body: bytes, headers: dict[str, str], code: str
) -> None:
    answer = phone.post(body, headers | {"X-App-Version": "4.2 ✓"})
    assert (answer.status, answer.codes) == (400, [code])
    assert (answer.body["received"], answer.body["rejected"], answer.body["object_key"]) == (1, 1, None)
    (reject,) = map(json.loads, phone.world.lines("rejected"))
    assert base64.b64decode(reject["body_base64"]) == body
    assert reject["content_encoding"] == headers.get("Content-Encoding")
    assert reject["app_version"] == "4.2 ✓"


def test_event_that_is_not_an_object_is_rejected(phone: Phone) -> None:
    assert phone.post(b"5").codes == ["not_an_object"]
    assert phone.post([TRIP, 5]).codes == ["not_an_object"]


# --- requests that are refused and not stored ---------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
        ({"Content-Type": "text/plain"}, "unsupported_media_type"),
        ({"Content-Type": "application/json; charset=latin-1"}, "unsupported_media_type"),
        ({"Content-Type": 'application/json; charset="utf-16"'}, "unsupported_media_type"),
        ({"Content-Type": "application/*json"}, "unsupported_media_type"),
        ({"Content-Type": "application/json, application/x-ndjson"}, "unsupported_media_type"),
        ({"Content-Type": "application/json-seq"}, "unsupported_media_type"),
        ({"Content-Type": "json"}, "unsupported_media_type"),
        ({"Content-Encoding": "br"}, "unsupported_encoding"),
        ({"Content-Encoding": "deflate, gzip"}, "unsupported_encoding"),
        ({"Content-Encoding": "x-br"}, "unsupported_encoding"),
        ({"Content-Encoding": "gzip, gzip"}, "unsupported_encoding"),
    ],
)
def test_unsupported_content_type_or_encoding_is_refused(
    phone: Phone, headers: dict[str, str], code: str
) -> None:
    answer = phone.post([TRIP], headers)
    assert (answer.status, answer.body["code"]) == (415, code)
    assert not phone.world.calls


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json;charset=utf8",
        "application/json; charset=UTF8",
        'Application/Json ; Charset="utf-8"',
        "application/json; charset='utf-8'",
        'application/json; charset="ut\\f-8"',
        "application/json; charset=us-ascii",
        "application/json; charset=csUTF8",
        'application/json; profile="a;charset=latin-1,b"; charset=utf-8',
        "application/json;",
        "application/json;;charset=utf-8",
        "\tapplication/json ",
        "application/json, application/json; charset=utf-8",
        "text/json",
        "application/vnd.radar+json",
        "application/cloudevents-batch+JSON; charset=UTF-8",
        'application/json; charset="utf-8',
        "application/json; charset*=utf-8''utf-8",
        pytest.param(f"application/json; part*{'1' * 5000}=x", id="continuation with a huge number"),
        " ",
    ],
)
def test_json_content_type_is_accepted_in_many_spellings(phone: Phone, content_type: str) -> None:
    assert phone.post([TRIP], {"Content-Type": content_type}).status == 202


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-ndjson; charset=utf8",
        "APPLICATION/NDJSON",
        "application/jsonl",
        "application/x-jsonlines",
    ],
)
def test_ndjson_content_type_is_accepted_in_many_spellings(phone: Phone, content_type: str) -> None:
    answer = phone.post(text(TRIP) + b"\n" + text(OTHER), {"Content-Type": content_type})
    assert (answer.status, answer.body["accepted"]) == (202, 2)


@pytest.mark.parametrize(
    "coding", ["gzip", "GZIP", "x-gzip", " X-Gzip ", "identity, gzip", "gzip,", ",x-gzip", "gzip, identity"]
)
def test_gzip_encoding_is_accepted_in_many_spellings(phone: Phone, coding: str) -> None:
    assert phone.post(gzip.compress(text([TRIP])), GZIP | {"Content-Encoding": coding}).status == 202
    assert phone.world.lines("events") == [text(TRIP)]


@pytest.mark.parametrize("coding", ["", "identity", "Identity", "identity, identity", " "])
def test_identity_encoding_is_accepted_in_many_spellings(phone: Phone, coding: str) -> None:
    assert phone.post([TRIP], {"Content-Encoding": coding}).status == 202


def test_header_without_a_value_counts_as_absent(phone: Phone) -> None:
    headers: dict[str, object] = {"Content-Type": None, "Content-Encoding": None, "X-App-Version": None}
    assert phone.post([TRIP], headers).status == 202


def test_body_inflated_by_the_gateway_may_start_with_a_bom(phone: Phone) -> None:
    assert phone.post(b"\xef\xbb\xbf" + text([TRIP]), GZIP).status == 202


@pytest.mark.parametrize("length", [1, 25, 26, 27, 100])
@pytest.mark.parametrize(("charset", "status"), [("UTF-8", 202), ('"utf-8"', 202), ("latin-1; x=utf-8", 415)])
def test_charset_is_recognized_at_any_position_in_the_header(
    phone: Phone, length: int, charset: str, status: int
) -> None:
    content_type = f"application/json; profile={'x' * length}; charset={charset}"
    assert phone.post([TRIP], {"Content-Type": content_type}).status == status


def test_malformed_header_text_does_not_cause_a_503(phone: Phone) -> None:
    """After a 503, the phone would send the same batch again and again."""
    odd = {"X-App-Version": "4.2\ud800", "Content-Type": "application/json; a=\udfff"}
    assert phone.post([TRIP, {}], odd).status == 202
    assert json.loads(phone.world.lines("rejected")[0])["app_version"] == "4.2?"


def test_body_without_a_content_type_is_read_as_json(phone: Phone) -> None:
    assert phone.post([TRIP], {"Accept": "*/*"}).status == 202


@pytest.mark.parametrize(
    ("body", "headers", "code", "limit"),
    [
        (b" " * (1024 * 1024 + 1), {}, "body_too_large", 1024 * 1024),
        (b" " * (8 * 1024 * 1024), {}, "body_too_large", 1024 * 1024),
        (named_gzip(b" " * (4 * 1024 * 1024 + 1), 50_000), GZIP, "inflated_body_too_large", 4 * 1024 * 1024),
        (named_gzip(b" " * (3 * 1024 * 1024), 50_000) * 2, GZIP, "inflated_body_too_large", 4 * 1024 * 1024),
        (gzip.compress(b" " * 1_000_000), GZIP, "inflated_body_too_large", 100 * 1004 + 64 * 1024),
        (text([{}] * 501), {}, "too_many_events", 500),
        (b"[" + b"NaN," * 500 + b"1]", {}, "too_many_events", 500),
        (text({"events": [{}] * 501}), {}, "too_many_events", 500),
        (b"{}\n" * 501, NDJSON, "too_many_events", 500),
    ],
)
def test_response_to_a_request_that_is_too_large_contains_the_limit(
    phone: Phone, body: bytes, headers: dict[str, str], code: str, limit: int
) -> None:
    answer = phone.post(body, headers)
    assert (answer.status, answer.body["code"], answer.body["limit"]) == (413, code, limit)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert not phone.world.calls


def test_largest_allowed_requests_are_accepted(phone: Phone) -> None:
    assert phone.post([TRIP | {"_id": str(n)} for n in range(500)]).body["accepted"] == 500
    padded = text([TRIP]) + b" " * (4 * 1024 * 1024 - len(text([TRIP])))
    assert phone.post(named_gzip(padded, 50_000), GZIP).status == 202
    assert phone.post(text([TRIP]) + b" " * (1024 * 1024 - len(text([TRIP])))).status == 202


def test_malformed_body_with_long_runs_of_spaces_takes_less_than_five_seconds_of_cpu(phone: Phone) -> None:
    """An earlier regular expression backtracked and took 16 s of CPU for 64 KB."""
    blanks = b" " * 100_000
    torn = b'{"events":[%b],"note"%b:%bx%bx}' % (text(TRIP), blanks, blanks, blanks)
    began = time.process_time()
    assert phone.post(torn).body["accepted"] == 1
    assert time.process_time() - began < 5
