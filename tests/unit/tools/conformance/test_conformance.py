"""Run the conformance kit against Milkrun's own client (`send`), and post the kit's sample payloads to the handler."""

import itertools
import json
import threading
from pathlib import Path

import pytest
import urllib3
from jsonschema import Draft202012Validator

from handler.content_type import form_of
from handler.http import Refused, Request
from milkrun_conformance.__main__ import PAYLOADS, SCHEMA
from milkrun_conformance.kit import play
from milkrun_conformance.parse_body import unsupported
from milkrun_conformance.scenarios import SCENARIOS
from milkrun_conformance.server import Stage, serving
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import World
from tools import error_codes as codes
from tools import openapi
from tools.fleet.client import Client
from tools.fleet.phones import Post
from tools.fleet.rounds import Planned


def deliver(endpoint: str, events: list[dict[str, object]]) -> None:
    """Send the events as `milkrun send` does, but with a timeout of one second per request."""
    numbers = itertools.count()
    client = Client(
        endpoint,
        "key",
        timeout_s=20,
        first_pause=0.1,
        token_of=lambda device, renew: f"{device} {next(numbers) if renew else 0}",
    )
    client._http.connection_pool_kw["timeout"] = urllib3.Timeout(1.0)
    post = Post(tuple(Planned(json.dumps(event), event["_id"]) for event in events), None, gzipped=True)
    client.deliver(post)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_milkrun_send_passes_the_conformance_kit(scenario: str) -> None:
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:

        def hand_over(events: list[dict[str, object]]) -> None:
            threading.Thread(target=deliver, args=(f"{url}/v1/events", events), daemon=True).start()

        (report,) = play(stage, hand_over, [scenario], timeout_s=15.0, quiet=0.3)
    assert report["faults"] == []
    assert report["requests"] >= 2


def test_responses_of_the_kit_match_the_openapi_document() -> None:
    """An app may decode responses with code that was generated from the document."""
    document = openapi.openapi()
    described = document["paths"]["/v1/events"]["post"]["responses"]
    stage, statuses = Stage(), set()
    with serving(stage, "127.0.0.1", 0) as url:
        for scenario in set(SCENARIOS) - {"cut", "timeout", "proxy-200", "proxy-400", "gateway-400"}:
            stage.begin(scenario)
            answer = urllib3.request("POST", f"{url}/v1/events", json=[{"_id": "a"}, {"_id": "b"}])
            response = described[str(answer.status)]
            schema = response["content"][answer.headers["Content-Type"]]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())
            names = {name.lower() for name in response.get("headers", {})}
            assert names <= {name.lower() for name in answer.headers}
            assert "WWW-Authenticate" not in answer.headers  # API Gateway would rename this header
            statuses.add(answer.status)
    assert statuses == {202, 400, 401, 403, 413, 429, 503}


def test_readmes_and_openapi_document_name_the_member_by_which_an_app_recognizes_a_receipt() -> None:
    """A 400 of API Gateway contains `request_id`, too (serverless/gateway-responses.js), but not `received`."""
    root = openapi.DOCS.parent
    document = openapi.openapi()
    for schema in ("Receipt", "NoValidEvent"):
        described = document["components"]["schemas"][schema]
        [receipt] = [part for part in described.get("allOf", [described]) if "received" in part["properties"]]
        assert "received" in receipt["required"]
    texts = [(root / page).read_text() for page in ("README.md", "tools/conformance/README.md")]
    for text in (*texts, document["info"]["description"]):
        assert "2xx or 400 whose body is not a JSON object with `received`" in text


TYPES = [
    "",
    ";charset=utf-8",
    "application/json",
    "Application/JSON ; Charset=UTF-8",
    'application/json; charset="utf-8"',
    "application/json; charset=iso-8859-1",
    "text/json",
    "application/vnd.radar+json",
    "application/x-ndjson",
    "application/jsonl; charset=us-ascii",
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/gzip",
]
CODINGS = ["", "gzip", "X-GZIP", "identity", "gzip, identity", "deflate", "br", "gzip, gzip"]


def test_kit_refuses_the_same_content_types_and_codings_as_the_handler() -> None:
    for content_type, coding in itertools.product(TYPES, CODINGS):
        headers = {"content-type": content_type, "content-encoding": coding}
        try:
            form_of(Request({name: value for name, value in headers.items() if value}, b""))
            expected = ""
        except Refused as refused:
            expected = refused.code
        assert unsupported(content_type, coding) == expected, headers


def test_readmes_and_openapi_document_say_that_the_app_must_wait_as_long_as_retry_after_requires() -> None:
    """The kit reports a fault if the app resends a batch earlier, even after a 503."""
    root = openapi.DOCS.parent
    readme, kit_readme = (root / "README.md").read_text(), (root / "tools/conformance/README.md").read_text()
    rows = [row for row in kit_readme.splitlines() if row.startswith(("| any other 4xx", "| 5xx"))]
    assert ["not before `Retry-After`" in row for row in rows] == [True, True]
    assert "After a response with `Retry-After`" in readme
    assert "After a response with `Retry-After`" in openapi.openapi()["info"]["description"]


# --- sample payloads ----------------------------------------------------------------------------


def headers_of(path: Path) -> dict[str, str]:
    return {"Content-Type": "application/x-ndjson" if path.suffix == ".ndjson" else "application/json"}


@pytest.mark.parametrize("path", sorted((PAYLOADS / "good").iterdir()), ids=lambda path: path.name)
def test_good_sample_payloads_are_accepted_and_match_the_event_schema(path: Path) -> None:
    world = World()
    answer = Phone(world).post(path.read_bytes(), headers_of(path))
    assert (answer.status, answer.body["errors"]) == (202, [])
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    for line in world.lines("events"):
        validator.validate(json.loads(line))


@pytest.mark.parametrize("path", sorted((PAYLOADS / "bad").iterdir()), ids=lambda path: path.name)
def test_bad_sample_payloads_are_rejected_with_the_error_code_in_their_file_name(path: Path) -> None:
    answer = Phone(World()).post(path.read_bytes(), headers_of(path))
    assert (answer.status, answer.codes) == (400, [path.stem])


def test_every_error_code_that_a_body_alone_can_cause_has_a_bad_sample_payload() -> None:
    named = {path.stem for path in (PAYLOADS / "bad").iterdir()}
    # These two also depend on headers: Content-Encoding, and a token that names a device.
    assert named == {*codes.EVENT_CODES, *codes.BODY_CODES} - {"bad_gzip", "device_mismatch"}
