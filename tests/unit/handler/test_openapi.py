"""Test that docs/openapi.yaml and docs/event.schema.json match the code."""

import ast
import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from handler.request_limits import MAX_BODY_BYTES, MAX_EVENTS, MAX_INFLATED_BYTES
from handler.signature import WINDOW_SECONDS
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import Fault, World
from tests.unit.handler.strategies import broken_events, broken_pings, events, pings, requests
from tests.unit.handler.test_identity import Issuer, bearer, geofence_event, phone_of
from tools import error_codes as codes
from tools import openapi

ROOT = Path(openapi.__file__).parents[1]
DOCUMENT = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
RESPONSES = DOCUMENT["paths"]["/v1/events"]["post"]["responses"]
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs/event.schema.json").read_text()))
# The codes of rules that JSON Schema cannot express exactly
BEYOND_SCHEMA = {
    "field_length",
    "invalid_created_at",
    "created_at_in_future",
    "created_at_too_old",
    "invalid_json_value",
    "event_too_large",
}


def test_openapi_document_and_event_schema_match_the_code() -> None:
    assert openapi.main(["--check"]) == 0, "run python -m tools.openapi"


def test_misspelt_option_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openapi, "files", lambda: {tmp_path / "openapi.yaml": "new"})
    assert openapi.main(["--chek"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_event_schema_is_a_valid_json_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA.schema)


@given(st.one_of(events(), broken_events(), pings, broken_pings))
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_handler_and_schema_agree_except_on_rules_that_json_schema_cannot_express(
    new_phone: Callable[[], Phone], event: object
) -> None:
    answer = new_phone().post([event])
    if answer.status == 202:
        assert SCHEMA.is_valid(event)
    elif not BEYOND_SCHEMA & set(answer.codes):
        assert not SCHEMA.is_valid(event), answer.codes


def test_error_codes_in_the_source_match_the_documented_codes() -> None:
    documented = {*codes.EVENT_CODES, *codes.NOTICE_CODES, *codes.BODY_CODES}
    for refusals in codes.REFUSAL_CODES.values():
        documented |= set(refusals)
    documented |= {codes.NO_VALID_EVENT, codes.UNAVAILABLE}
    assert documented == set(codes_in_source())


@given(requests(), st.sampled_from([None, "text/plain"]), st.lists(st.sampled_from(Fault), max_size=2))
@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_response_has_a_documented_status_and_schema(
    new_phone: Callable[[], Phone],
    request: tuple[bytes, Mapping[str, str]],
    content_type: str | None,
    faults: list[Fault],
) -> None:
    phone, (body, headers) = new_phone(), request
    phone.world.faults = list(faults)
    answer = phone.post(body, {**headers, "Content-Type": content_type} if content_type else headers)
    schema = RESPONSES[str(answer.status)]["content"][answer.headers["Content-Type"]]["schema"]
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(answer.body)


def test_every_credential_that_the_operation_accepts_has_a_security_scheme() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    operation = DOCUMENT["paths"]["/v1/events"]["post"]
    assert {name for way in operation["security"] for name in way} == set(schemes) == {"apiKey", "token"}
    assert schemes["token"] == {**schemes["token"], "type": "http", "scheme": "bearer"}


def test_example_requests_are_accepted(new_phone: Callable[[], Phone]) -> None:
    content = DOCUMENT["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    for content_type, described in content.items():
        for example in described["examples"].values():
            body = example["value"].encode() if isinstance(example["value"], str) else example["value"]
            answer = new_phone().post(body, {"Content-Type": content_type})
            assert (answer.status, answer.body["errors"]) == (202, [])


def test_example_responses_match_the_schema_of_their_status() -> None:
    checked = [
        (status, name)
        for status, response in RESPONSES.items()
        for described in response["content"].values()
        for name, example in described.get("examples", {}).items()
        if Draft202012Validator({**described["schema"], "components": DOCUMENT["components"]}).validate(
            example["value"]
        )
        is None
    ]
    errors = [*codes.REFUSAL_CODES.items(), *codes.GATEWAY_CODES.items(), (503, [codes.UNAVAILABLE])]
    expected = {(str(status), code) for status, answers in errors for code in answers}
    assert set(checked) == expected | {("202", "one_rejected")}


def test_example_errors_and_problem_responses_are_those_that_the_handler_sends() -> None:
    issuer = Issuer()
    event = geofence_event("a", "truck-1")
    signed = Phone(World(), {"SIGNATURE_SCHEME": "milkrun"})
    now = signed.world.received_at.timestamp()

    def signature(at: float) -> dict[str, str]:
        return {"X-Milkrun-Timestamp": str(int(at)), "X-Milkrun-Signature": "0" * 64}

    tokens, unlucky = phone_of(issuer, "required"), Phone(World(faults=[Fault.BEFORE]))
    plain, zipped = Phone(World()), {"Content-Encoding": "gzip"}
    answers = [
        tokens.post(event),
        tokens.post(event, bearer(issuer.token(iss="https://other.example"))),
        tokens.post(event, bearer(issuer.token(exp=int(issuer.now) - 600))),
        tokens.post(event, bearer(issuer.token(device_id=None))),
        signed.post(event),
        signed.post(event, signature(now - WINDOW_SECONDS - 1)),
        signed.post(event, signature(now)),
        plain.post(b" " * (MAX_BODY_BYTES + 1)),
        plain.post(gzip.compress(random.Random(0).randbytes(50_000) + bytes(MAX_INFLATED_BYTES)), zipped),
        plain.post([event] * (MAX_EVENTS + 1)),
        plain.post(event, {"Content-Type": "text/plain"}),
        plain.post(event, {"Content-Encoding": "br"}),
        unlucky.post(event),
    ]
    other = geofence_event("6543d1f3a2c4e70011aabbcd", "truck-2")
    receipt = tokens.post([event, other], bearer(issuer.token())).body
    [example] = RESPONSES["202"]["content"]["application/json"]["examples"].values()
    assert receipt["errors"] == example["value"]["errors"]
    from_gateway = {code for answers in codes.GATEWAY_CODES.values() for code in answers}
    examples = {
        code: example["value"]
        for response in RESPONSES.values()
        for code, example in response["content"]
        .get("application/problem+json", {})
        .get("examples", {})
        .items()
        if code not in from_gateway
    }
    sent = {answer.body["code"]: answer.body for answer in answers}
    assert sent == {code: body | {"request_id": "request-1"} for code, body in examples.items()}


def test_responses_that_only_the_gateway_sends_are_marked_in_the_openapi_document() -> None:
    assert set(RESPONSES) == {"202", "400", "401", "403", "413", "415", "429", "500", "503", "504"}
    by_gateway = {status for status, response in RESPONSES.items() if response.get("x-given-by") == "gateway"}
    assert by_gateway == {"429", "500", "504"}


def codes_in_source() -> Iterator[str]:
    """Yield the error codes in the source: `event_id_conflict`, and the literals that are passed to the functions that
    create a reason or a refusal, except those in INTERNAL.
    """
    places = {
        "invalid": 0,
        "Reason": 0,
        "Unreadable": 0,
        "Refused": 1,
        "problem": 1,
        "_Rule": 1,
        "_Field": 1,
    }
    for path in [*(ROOT / "contract").glob("*.py"), *(ROOT / "handler").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name), args=arguments) if places.get(name, 9) < len(arguments):
                    match arguments[places[name]]:
                        case ast.Constant(value=str(code)) if code not in INTERNAL:
                            yield code
                case ast.Constant(value="event_id_conflict"):
                    yield node.value


# Codes that are never sent to a phone, because only the consumer uses them or they are stored with a quarantined record
INTERNAL = {"not_a_geofence_event", "refused_by_stream"}
