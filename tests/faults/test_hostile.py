"""What a hostile or broken sender may try, through the endpoint and on to the marts."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import urllib3

from contract.events import Fence
from contract.objects import object_name
from ops import stores
from ops.marts import build_marts
from tests.e2e.vocabulary import crossing, event, eventually
from tests.faults.proxy import Fault, Rule
from tests.faults.yard import Yard

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
NOW = datetime.now(UTC)
http = urllib3.PoolManager(retries=False, timeout=30)


def post(yard: Yard, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    key = {"x-api-key": yard.outputs.api_key}
    answer = http.request("POST", yard.outputs.endpoint, body=body, headers=key | headers)
    return answer.status, json.loads(answer.data)


def sent(yard: Yard, *events: object, headers: dict[str, str] | None = None) -> dict[str, Any]:
    status, told = post(yard, json.dumps(events).encode(), headers or JSON)
    assert status == 202, told
    return told


@pytest.fixture
def device() -> str:
    return f"hostile-{uuid4().hex[:12]}"


def nested(levels: int) -> bytes:
    return b'[{"_id":"deep","x":' + b"[" * levels + b"]" * levels + b"}]"


BOMB = gzip.compress(b"[" + b" " * 50_000_000, 9)
BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "a bomb of lines": (gzip.compress(b"{}\n" * 5_000_000, 9), NDJSON | {"content-encoding": "gzip"}, 413),
    "a bomb in a bomb": (gzip.compress(BOMB), JSON | {"content-encoding": "gzip"}, 400),
    "a thousand gzip members": (gzip.compress(b" ") * 1000, JSON | {"content-encoding": "gzip"}, 400),
    "a thousand levels": (nested(1000), JSON, 400),
    "a hundred thousand levels": (nested(100_000), JSON, 400),
    "levels without an end": (b"[" * 500_000, JSON, 400),
    "a number of a million digits": (b'[{"_id":"n","x":' + b"9" * 1_000_000 + b"}]", JSON, 400),
    "a number beyond a double": (b'[{"_id":"n","x":1e999}]', JSON, 400),
    "an exponent of ten thousand digits": (b'[{"_id":"n","x":1e' + b"9" * 10_000 + b"}]", JSON, 400),
    "two encodings": (b"[]", JSON | {"content-encoding": "gzip, gzip"}, 415),
    "an encoding in capitals": (gzip.compress(b"[]"), JSON | {"content-encoding": "GZIP"}, 400),
    "a content type with a path in it": (b"[]", {"content-type": "../../application/json"}, 415),
    "another charset": (b"[]", {"content-type": "application/json; charset=utf-16"}, 415),
    "a length that is a lie of a header's": (b"[]", JSON | {"x-content-length": "99999999"}, 400),
    "only null bytes": (b"\0" * 1000, JSON, 400),
    "a byte order mark": (b"\xef\xbb\xbf[]", JSON, 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_it_is_refused_as_the_contract_says_and_the_next_request_is_served(
    yard: Yard, device: str, name: str
) -> None:
    body, headers, expected = BODIES[name]
    status, told = post(yard, body, headers)
    assert status == expected, told
    assert sent(yard, event(device))["accepted"] == 1


@pytest.mark.parametrize(
    "version",
    ["../../etc/passwd", "a" * 7000, "1'; DROP TABLE x; --", "%0d%0aX-Evil: 1", "${jndi:ldap://x}", "é"],
)
def test_a_header_is_kept_as_text_or_not_at_all(yard: Yard, device: str, version: str) -> None:
    told = sent(
        yard, event(device), headers=JSON | {"x-app-version": version.encode("utf-8").decode("latin1")}
    )
    head = yard.aws("s3").head_object(Bucket=yard.outputs.bucket, Key=told["object_key"])
    kept = head["Metadata"]["app-version"]
    assert kept.isascii()
    assert len(kept) <= 64
    assert set(head["Metadata"]) == {"received-at", "request-id", "app-version"}


PATHS = [
    "../../rejected/x",
    "/",
    "..",
    "a/b/c",
    "events/dt=2026-01-01/hh=00/x",
    "a\\b",
    "a#b",
    "#",
    "%2e%2e%2f",
    "a\nb",
]


def test_an_id_never_becomes_a_path(yard: Yard, device: str) -> None:
    """Not in S3, not in DynamoDB's keys, not in the warehouse: it is the same text everywhere."""
    before = set(yard.all_keys())
    fences = [Fence(f"{path}", f"{path}-2") for path in PATHS]
    ids = [f"{path}-{device}" for path in PATHS]
    devices = [f"{path}-{device}" for path in PATHS]
    told = sent(
        yard,
        *(
            crossing(device, "enter", NOW - timedelta(minutes=5), fence, _id=id_)
            for device, fence, id_ in zip(devices, fences, ids, strict=True)
        ),
    )
    assert told["accepted"] == len(PATHS)
    assert all(object_name(key) for key in set(yard.all_keys()) - before)
    dynamodb, table = yard.aws("dynamodb"), yard.outputs.visits_table

    def visits() -> list[tuple[str, Fence, str]]:
        stays = (stay for device in devices for stay in stores.device_stays(dynamodb, table, device))
        return [(stay.device_id, stay.fence, stay.entered_event_id) for stay in stays]

    eventually(lambda: visits() == list(zip(devices, fences, ids, strict=True)), within=60)

    def loaded() -> set[str]:
        sql = (
            f"SELECT payload:_id::VARCHAR AS id FROM {yard.outputs.database}.RAW.EVENTS WHERE file_name = %s"
        )
        return {row["id"] for row in yard.query(sql, [told["object_key"]])}

    eventually(lambda: loaded() == set(ids), within=60)


INJECTIONS = [
    "'; DROP TABLE RAW.EVENTS; --",
    '"; DELETE FROM STAGING.STG_EVENTS; --',
    "{{ 7 * 7 }} {% raw %} {{ var('x') }}",
    "%s %(x)s ? :1 $1 $$ &x",
    "\\'; SELECT 1 /* ",
    "Robert'); --\u2028\u0000",
]


def test_sql_and_templates_arrive_in_the_marts_as_the_text_that_they_are(yard: Yard, device: str) -> None:
    fences = [Fence(f"tag {text}", f"fence {text}") for text in INJECTIONS]
    devices = [f"{n} {text} {device}" for n, text in enumerate(INJECTIONS)]
    told = sent(
        yard,
        *(
            crossing(device, kind, NOW - timedelta(minutes=minutes), fence, _id=f"{text} {kind} {device}")
            for device, fence, text in zip(devices, fences, INJECTIONS, strict=True)
            for kind, minutes in (("enter", 30), ("exit", 20))
        ),
    )
    database = yard.outputs.database

    def loaded() -> int:
        sql = f"SELECT COUNT(*) AS n FROM {database}.RAW.EVENTS WHERE file_name = %s"
        return int(yard.query(sql, [told["object_key"]])[0]["n"])

    eventually(lambda: loaded() == 2 * len(INJECTIONS), within=60)
    assert build_marts(yard.environment)
    found = stores.mart_stays(yard.session, database, devices)
    assert {(stay.device_id, stay.fence) for stay in found} == set(zip(devices, fences, strict=True))
    assert all(stay.exited_at for stay in stores.mart_stays(yard.session, database, devices))


# --- personal data


def planted_everywhere(secret: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Requests that are taken, refused and unreadable, with the value wherever a sender may put something."""
    device = f"hostile-{uuid4().hex[:12]}"
    user = {
        "deviceId": device,
        "userId": secret,
        "name": secret,
        "metadata": {"phone": secret, "mail": secret},
    }
    whole = crossing(device, "enter", NOW, user=user, metadata={"note": secret}, description=secret)
    yield json.dumps({"events": [whole], "user": user | {"ip": secret, "_id": secret}}).encode(), JSON
    yield json.dumps([whole | {secret: secret, "location": {"coordinates": [secret, 53.2]}}]).encode(), JSON
    yield (
        json.dumps([whole | {"_id": uuid4().hex}]).encode(),
        JSON | {"x-app-version": secret, "user-agent": secret},
    )
    for broken in (
        {"createdAt": secret},
        {"confidence": secret},
        {"duration": secret},
        {"geofence": secret},
        {"user": secret},
        {"_id": secret * 12},
        {"type": 5},
    ):
        yield json.dumps([whole | broken]).encode(), JSON
    yield b'[{"name":"' + secret.encode() + b'"', JSON
    yield secret.encode(), NDJSON
    yield b'{"_id":"' + secret.encode() + b'","_id":"x"}', NDJSON
    yield secret.encode(), {"content-type": "text/plain"}
    yield secret.encode(), JSON | {"content-encoding": "gzip"}
    yield json.dumps([whole]).encode(), {"content-type": f"application/json; {secret}"}


def test_no_log_shows_what_a_phone_says_of_a_person(yard: Yard) -> None:
    """Not when all goes well, and not when each part fails while it has the event in its hands."""
    secret = f"planted{uuid4().hex}"
    requests = list(planted_everywhere(secret))
    rules = [
        Rule(Fault.REFUSED, "s3", "PutObject", "ingest", share=0.4),
        Rule(Fault.THROTTLED, "kinesis", share=0.4),
        Rule(Fault.WRONG_BYTES, "kinesis", share=0.3),
        Rule(Fault.THROTTLED, "dynamodb", caller="consume", share=0.4),
        Rule(Fault.PARTLY, "events", caller="consume", share=0.4),
        Rule(Fault.REFUSED, "s3", "GetObject", "snowflake", share=0.3),
    ]
    for body, headers in requests:
        assert post(yard, body, headers)[0] in (202, 400, 415)
    with yard.proxy.rules(*rules):
        for body, headers in requests:
            assert post(yard, body.replace(b"hostile-", b"hostile2-"), headers)[0] in (202, 400, 415, 503)
        poison = json.dumps({"note": secret}).encode()
        yard.aws("kinesis").put_record(StreamName=yard.outputs.stream, Data=poison, PartitionKey="hostile")
        aside = eventually(
            lambda: [key for key in yard.all_keys() if key.startswith("set-aside/")], within=90
        )
    assert aside
    wait_until_consumed(yard)
    logs = {
        path.name: path.read_text(errors="replace").splitlines()
        for path in sorted(yard.stack.settings.log_folder.rglob("*.log"))
    }
    assert any("records_set_aside" in line for lines in logs.values() for line in lines), "no logs to look at"
    showing = [
        f"{name}: {line[max(0, line.find(secret) - 200) : line.find(secret) + 20]}"
        for name, lines in logs.items()
        for line in lines
        if secret in line
    ]
    assert showing == []
    for group in yard.aws("logs").describe_log_groups()["logGroups"]:
        pages = (
            yard.aws("logs").get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"])
        )
        lines = [found["message"] for page in pages for found in page["events"] if secret in found["message"]]
        assert lines == [], group["logGroupName"]


def wait_until_consumed(yard: Yard) -> None:
    """A last event is behind all others of its shard."""
    last = f"hostile-{uuid4().hex[:12]}"
    sent(yard, crossing(last, "enter", NOW))
    dynamodb, table = yard.aws("dynamodb"), yard.outputs.visits_table
    eventually(lambda: list(stores.device_stays(dynamodb, table, last)), within=90)
