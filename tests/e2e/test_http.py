"""Test the HTTP statuses and error codes of a running stack's endpoint (docs/openapi.yaml).
tests/e2e/test_tokens.py tests the codes that only stages with tokens return.
"""

import gzip
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, assume, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from handler.signature import sign
from tests.e2e.faults import FaultProxy, environment_of
from tests.e2e.pipeline import Answer, Pipeline, crossing, event, eventually, written
from tests.faults.fault_proxy import Fault

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "docs/openapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
NOW = datetime.now(UTC)
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
GZIP = JSON | {"Content-Encoding": "gzip"}


def assert_documented(answer: Answer) -> None:
    """Assert that this response matches its schema in docs/openapi.yaml."""
    response = DOCUMENT["paths"]["/v1/events"]["post"]["responses"][str(answer.status)]
    media_type = answer.headers["content-type"]
    schema = {**response["content"][media_type]["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer.body)


def codes_of(answer: Answer) -> list[str]:
    return [error["code"] for error in answer.body.get("errors", [])] or [answer.body["code"]]


# --- 202 ----------------------------------------------------------------------------------------


@pytest.mark.stage
def test_accepted_events_are_archived_published_and_become_visits(pipeline: Pipeline, device: str) -> None:
    entered = crossing(device, "enter", NOW - timedelta(minutes=10))
    left = crossing(device, "exit", NOW)
    trip = event(device)

    answer = pipeline.post(entered, trip, left, trip, {"_id": "no-type"}, zipped=True)

    assert_documented(answer)
    assert answer.status == 202
    receipt = answer.body
    assert [receipt[n] for n in ("received", "accepted", "duplicates", "rejected")] == [5, 3, 1, 1]
    assert pipeline.archived(receipt["object_key"]) == [entered, trip, left]
    (reject,) = pipeline.archived(receipt["rejected_key"])
    assert (reject["event"], reject["index"]) == ({"_id": "no-type"}, 4)
    assert pipeline.published(device) == [entered, left]
    assert eventually(lambda: [stay for stay in pipeline.visits_of(device) if stay.exited_at])


@pytest.mark.stage
def test_request_repeated_within_the_hour_adds_no_object(pipeline: Pipeline, device: str) -> None:
    sent = crossing(device, "enter", NOW)
    answers = [pipeline.post(sent), pipeline.post(sent)]
    if len({answer.body["object_key"][:26] for answer in answers}) > 1:  # an hour began between the requests
        answers.append(pipeline.post(sent))
    first, second = answers[-2:]
    assert first.body["object_key"] == second.body["object_key"]
    versions = pipeline.aws("s3").list_object_versions(
        Bucket=pipeline.outputs.bucket, Prefix=first.body["object_key"]
    )["Versions"]
    assert len(versions) == 1
    assert pipeline.published(device) == [sent] * len(answers)


@pytest.mark.stage
@pytest.mark.parametrize("form", ["single", "array", "envelope", "envelope of one", "NDJSON"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_body_form_is_accepted_uncompressed_and_gzipped(
    pipeline: Pipeline, device: str, form: str, zipped: bool
) -> None:
    sent = event(device, note="ö, \u2028 and 1.50")
    bodies: dict[str, object] = {
        "single": sent,
        "array": [sent],
        "envelope": {"events": [sent], "user": {"deviceId": "another"}},
        "envelope of one": {"event": sent},
        "NDJSON": sent,
    }
    body = json.dumps(bodies[form], ensure_ascii=False).encode()
    headers = dict(NDJSON if form == "NDJSON" else JSON)
    if zipped:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"

    answer = pipeline.post_body(body, headers)

    assert_documented(answer)
    assert answer.status == 202
    assert pipeline.archived(answer.body["object_key"]) == [sent]


@pytest.mark.stage
def test_object_metadata_contains_receipt_time_app_version_and_request_id(
    pipeline: Pipeline, device: str
) -> None:
    answer = pipeline.post(event(device), {"of": device}, headers={"X-App-Version": "7.1 (b)"})
    for key in (answer.body["object_key"], answer.body["rejected_key"]):
        head = pipeline.aws("s3").head_object(Bucket=pipeline.outputs.bucket, Key=key)
        assert head["Metadata"]["app-version"] == "7.1%20%28b%29"
        assert head["Metadata"]["request-id"] == answer.body["request_id"]
        assert abs(datetime.fromisoformat(head["Metadata"]["received-at"]) - datetime.now(UTC)) < timedelta(
            minutes=1
        )


# --- every code ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A request, the expected HTTP status of its response, and the expected error codes."""

    status: int
    codes: list[str]
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


def wrong(*codes: str, **changes: object) -> Case:
    """Return a case: a geofence event with these changes must be rejected with `codes`.

    The value None removes a field.
    """
    broken = crossing("e2e-codes", "enter", NOW) | changes
    kept = {name: value for name, value in broken.items() if value is not None}
    return Case(400, list(codes), json.dumps([kept]).encode())


VALID = json.dumps([event("e2e-codes")]).encode()
CASES = [
    wrong("missing_id", _id=None),
    wrong("missing_type", type=None),
    wrong("missing_created_at", createdAt=None),
    wrong("missing_device", user={"userId": "u"}),
    wrong("missing_identity", type="user.updated_trip", user={}),
    wrong("missing_geofence", geofence=None),
    wrong("wrong_type", user="me"),
    wrong("field_length", _id="x" * 129),
    wrong("out_of_range", confidence=7),
    wrong("invalid_created_at", createdAt="yesterday"),
    wrong("created_at_in_future", createdAt=written(NOW + timedelta(days=2))),
    wrong("created_at_too_old", createdAt=written(NOW - timedelta(days=401))),
    wrong("event_too_large", note="x" * 65536),
    Case(400, ["not_an_object"], b"[5]"),
    Case(400, ["invalid_json_value"], b'[{"_id":"a","_id":"b"}]'),
    Case(400, ["not_json"], b"{_id}", NDJSON),
    Case(400, ["not_json"], b"{"),
    Case(400, ["empty_body"], b" "),
    Case(400, ["no_events"], b"[]"),
    Case(400, ["invalid_envelope"], b'{"events":{}}'),
    Case(400, ["bad_gzip"], gzip.compress(VALID)[:-4], GZIP),
    Case(400, ["bad_gzip"], b"no gzip at all", GZIP),
    Case(413, ["body_too_large"], b" " * (1024 * 1024 + 1)),
    Case(413, ["inflated_body_too_large"], gzip.compress(b"[" + b" " * 200_000_000, 9), GZIP),
    Case(413, ["too_many_events"], b"[" + b"{}," * 500 + b"{}]"),
    Case(415, ["unsupported_media_type"], VALID, {"Content-Type": "text/plain"}),
    Case(415, ["unsupported_media_type"], b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}),
    Case(415, ["unsupported_encoding"], VALID, JSON | {"Content-Encoding": "br"}),
]


@pytest.mark.stage
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.codes[0])
def test_every_refused_request_gets_the_documented_code(pipeline: Pipeline, case: Case) -> None:
    answer = pipeline.post_body(case.body, case.headers)
    assert (answer.status, codes_of(answer)) == (case.status, case.codes)
    assert_documented(answer)
    if case.status == 400:
        assert answer.body["rejected"] == len(pipeline.archived(answer.body["rejected_key"])) == 1
    else:
        assert "rejected_key" not in answer.body


@pytest.mark.stage
def test_events_with_one_id_but_different_content_are_accepted_and_reported_as_a_conflict(
    pipeline: Pipeline, device: str
) -> None:
    sent = event(device)
    answer = pipeline.post(sent, sent | {"live": False})
    assert_documented(answer)
    assert (answer.status, answer.body["accepted"], codes_of(answer)) == (202, 2, ["event_id_conflict"])


# --- 403 ----------------------------------------------------------------------------------------


@pytest.mark.stage
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "nobody's"}])
def test_request_without_a_valid_api_key_is_refused(pipeline: Pipeline, headers: dict[str, str]) -> None:
    answer = pipeline.post_body(VALID, JSON | headers, with_key=False)
    assert answer.status == 403
    assert "not_json" not in answer.body


# A secret for Radar must name the last day on which it is valid.
RADAR_SECRET = f"radar-token@{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}"


@pytest.fixture
def secrets(pipeline: Pipeline) -> Iterator[list[bytes]]:
    """Make the ingest function accept only signed requests; yield two of the accepted secrets."""
    name = "/milkrun/local/e2e-signature-secrets"
    pipeline.aws("ssm").put_parameter(
        Name=name, Value=f"old-secret new-secret {RADAR_SECRET}", Type="SecureString", Overwrite=True
    )
    wanted = {"SIGNATURE_SCHEME": "milkrun", "SIGNATURE_SECRETS": f"ssm:{name}"}
    with environment_of(pipeline, "ingest", wanted):
        yield [b"old-secret", b"new-secret"]
    pipeline.aws("ssm").delete_parameter(Name=name)


def signed(secret: bytes, at: float, body: bytes) -> dict[str, str]:
    return {"X-Milkrun-Timestamp": str(int(at)), "X-Milkrun-Signature": sign(secret, int(at), body)}


def test_requests_signed_with_either_of_two_secrets_are_accepted(
    pipeline: Pipeline, secrets: list[bytes]
) -> None:
    for secret in secrets:
        assert pipeline.post_body(VALID, JSON | signed(secret, time.time(), VALID)).status == 202
        zipped = pipeline.post_body(gzip.compress(VALID), GZIP | signed(secret, time.time(), VALID))
        assert zipped.status == 202


@pytest.mark.parametrize("code", ["missing_signature", "signature_expired", "bad_signature"])
def test_unsigned_expired_or_wrongly_signed_request_is_refused(
    pipeline: Pipeline, secrets: list[bytes], code: str
) -> None:
    headers = {
        "missing_signature": {},
        "signature_expired": signed(secrets[0], time.time() - 600, VALID),
        "bad_signature": signed(secrets[0], time.time(), VALID + b" "),
    }[code]
    answer = pipeline.post_body(VALID, JSON | headers)
    assert_documented(answer)
    assert (answer.status, answer.body["code"]) == (403, code)


def test_only_a_request_with_a_valid_radar_signature_is_accepted(
    pipeline: Pipeline, secrets: list[bytes]
) -> None:
    with environment_of(pipeline, "ingest", {"SIGNATURE_SCHEME": "radar"}):
        right = hmac.new(b"radar-token", b"id-1", hashlib.sha1).hexdigest()
        headers = JSON | {"X-Radar-Signing-Id": "id-1", "X-Radar-Signature": right}
        assert pipeline.post_body(VALID, headers).status == 202
        assert pipeline.post_body(VALID, headers | {"X-Radar-Signing-Id": "id-2"}).status == 403


# --- 503: S3 fails ------------------------------------------------------------------------------


@contextmanager
def s3_behind_a_proxy(pipeline: Pipeline) -> Iterator[FaultProxy]:
    with (
        FaultProxy(pipeline.outputs.aws_endpoint_url or "").running() as proxy,
        environment_of(pipeline, "ingest", {"AWS_ENDPOINT_URL_S3": proxy.url}),
    ):
        yield proxy


def test_request_during_an_s3_failure_gets_503_and_nothing_is_published(
    pipeline: Pipeline, device: str
) -> None:
    sent = crossing(device, "enter", NOW)
    with s3_behind_a_proxy(pipeline) as s3:
        for s3.fault in (Fault.REFUSED, Fault.CUT_BEFORE):
            answer = pipeline.post(sent)
            assert_documented(answer)
            assert (answer.status, answer.body["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert s3.seen >= 6, "a request made fewer than three attempts"
        assert pipeline.published(device) == []

        s3.fault = None
        answer = pipeline.post(sent)
    assert answer.status == 202
    assert pipeline.published(device) == [sent]


def test_lost_s3_response_creates_no_second_object(pipeline: Pipeline, device: str) -> None:
    """S3 stored the object, but its response was lost. The retry gets a 412, which means that the object
    already exists.
    """
    sent = crossing(device, "enter", NOW)
    with s3_behind_a_proxy(pipeline) as s3:
        s3.fault = Fault.CUT_AFTER
        assert pipeline.post(sent).status in (202, 503)
        s3.fault = None
        answer = pipeline.post(sent)
    assert answer.status == 202
    assert pipeline.archived(answer.body["object_key"]) == [sent]
    assert pipeline.published(device)[-1] == sent
    versions = pipeline.aws("s3").list_object_versions(
        Bucket=pipeline.outputs.bucket, Prefix=answer.body["object_key"]
    )["Versions"]
    assert len(versions) == 1


# --- the document -------------------------------------------------------------------------------


def test_every_documented_code_is_tested_in_this_module_except_those_of_stages_with_tokens() -> None:
    produced = {code for case in CASES for code in case.codes}
    produced |= {"missing_signature", "signature_expired", "bad_signature", "event_id_conflict"}
    # Only a stage with tokens returns this code; tests/e2e/test_tokens.py tests it.
    produced.add("device_mismatch")
    documented = {*SCHEMAS["Error"]["properties"]["code"]["enum"]}
    for status in (403, 413, 415):
        documented |= {*SCHEMAS[f"Refusal{status}"]["properties"]["code"]["enum"]}
    assert produced == documented

    responses = DOCUMENT["paths"]["/v1/events"]["post"]["responses"]
    ours = {int(status) for status, response in responses.items() if response.get("x-given-by") != "gateway"}
    assert ours == {202, 400, 401, 403, 413, 415, 503}


schemathesis.serializer.alias("application/x-ndjson", "text/plain")
schema = schemathesis.openapi.from_dict(DOCUMENT)
# This phase would send hundreds of requests. CASES above cover the important ones.
schema.config.phases.coverage.enabled = False


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
def test_every_response_matches_the_openapi_document(case: object, pipeline: Pipeline) -> None:
    """A request that violates the schema may still be accepted, because one invalid event does not reject its batch."""
    # LocalStack itself fails on multipart bodies without a boundary, so these never reach the function.
    assume("multipart" not in str(case.media_type) + str(case.headers.get("Content-Type")))
    headers = {"x-api-key": pipeline.outputs.api_key}
    case.call_and_validate(
        base_url=pipeline.outputs.endpoint.removesuffix("/v1/events"),
        headers=headers,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_headers_conformance,
            response_schema_conformance,
        ],
    )
