"""Test that requests from a malicious or broken client do no harm, from the endpoint to the marts."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import urllib3

from contract.archive_object import object_name
from contract.events import Fence
from ops import read_stores
from ops.build_marts import build_marts
from tests.e2e.pipeline import crossing, event, eventually
from tests.faults.fault_proxy import Fault, Rule
from tests.faults.faulty_stack import FaultyStack

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
NOW = datetime.now(UTC)
http = urllib3.PoolManager(retries=False, timeout=30)


def post(faulty_stack: FaultyStack, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, object]]:
    key = {"x-api-key": faulty_stack.outputs.api_key}
    answer = http.request("POST", faulty_stack.outputs.endpoint, body=body, headers=key | headers)
    return answer.status, json.loads(answer.data)


def sent(
    faulty_stack: FaultyStack, *events: object, headers: dict[str, str] | None = None
) -> dict[str, object]:
    status, answer = post(faulty_stack, json.dumps(events).encode(), headers or JSON)
    assert status == 202, answer
    return answer


@pytest.fixture
def device() -> str:
    return f"hostile-{uuid4().hex[:12]}"


def nested(levels: int) -> bytes:
    return b'[{"_id":"deep","x":' + b"[" * levels + b"]" * levels + b"}]"


BOMB = gzip.compress(b"[" + b" " * 50_000_000, 9)
BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "lines bomb": (gzip.compress(b"{}\n" * 5_000_000, 9), NDJSON | {"content-encoding": "gzip"}, 413),
    "nested gzip bomb": (gzip.compress(BOMB), JSON | {"content-encoding": "gzip"}, 400),
    "thousand gzip members": (gzip.compress(b" ") * 1000, JSON | {"content-encoding": "gzip"}, 400),
    "thousand levels": (nested(1000), JSON, 400),
    "hundred thousand levels": (nested(100_000), JSON, 400),
    "unclosed levels": (b"[" * 500_000, JSON, 400),
    "number of a million digits": (b'[{"_id":"n","x":' + b"9" * 1_000_000 + b"}]", JSON, 400),
    "number beyond a double": (b'[{"_id":"n","x":1e999}]', JSON, 400),
    "exponent of ten thousand digits": (b'[{"_id":"n","x":1e' + b"9" * 10_000 + b"}]", JSON, 400),
    "two encodings": (b"[]", JSON | {"content-encoding": "gzip, gzip"}, 415),
    "encoding in capitals": (gzip.compress(b"[]"), JSON | {"content-encoding": "GZIP"}, 400),
    "content type with a path": (b"[]", {"content-type": "../../application/json"}, 415),
    "other charset": (b"[]", {"content-type": "application/json; charset=utf-16"}, 415),
    "false length in another header": (b"[]", JSON | {"x-content-length": "99999999"}, 400),
    "only null bytes": (b"\0" * 1000, JSON, 400),
    "byte order mark": (b"\xef\xbb\xbf[]", JSON, 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_hostile_body_is_rejected_and_the_next_request_succeeds(
    faulty_stack: FaultyStack, device: str, name: str
) -> None:
    body, headers, expected = BODIES[name]
    status, answer = post(faulty_stack, body, headers)
    assert status == expected, answer
    assert sent(faulty_stack, event(device))["accepted"] == 1


@pytest.mark.parametrize(
    "version",
    ["../../etc/passwd", "a" * 7000, "1'; DROP TABLE x; --", "%0d%0aX-Evil: 1", "${jndi:ldap://x}", "é"],
)
def test_app_version_header_is_stored_as_short_ascii_text(
    faulty_stack: FaultyStack, device: str, version: str
) -> None:
    receipt = sent(
        faulty_stack,
        event(device),
        headers=JSON | {"x-app-version": version.encode("utf-8").decode("latin1")},
    )
    head = faulty_stack.aws("s3").head_object(Bucket=faulty_stack.outputs.bucket, Key=receipt["object_key"])
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


def test_ids_in_events_are_never_used_as_paths(faulty_stack: FaultyStack, device: str) -> None:
    """Object keys must not contain ids such as `../../x`; DynamoDB and the warehouse must store the ids unchanged."""
    before = set(faulty_stack.all_keys())
    fences = [Fence(f"{path}", f"{path}-2") for path in PATHS]
    ids = [f"{path}-{device}" for path in PATHS]
    devices = [f"{path}-{device}" for path in PATHS]
    receipt = sent(
        faulty_stack,
        *(
            crossing(device, "enter", NOW - timedelta(minutes=5), fence, _id=id_)
            for device, fence, id_ in zip(devices, fences, ids, strict=True)
        ),
    )
    assert receipt["accepted"] == len(PATHS)
    assert all(object_name(key) for key in set(faulty_stack.all_keys()) - before)
    dynamodb, table = faulty_stack.aws("dynamodb"), faulty_stack.outputs.visits_table

    def visits() -> list[tuple[str, Fence, str]]:
        stays = (stay for device in devices for stay in read_stores.device_stays(dynamodb, table, device))
        return [(stay.device_id, stay.fence, stay.entered_event_id) for stay in stays]

    eventually(lambda: visits() == list(zip(devices, fences, ids, strict=True)))

    def loaded() -> set[str]:
        sql = f"SELECT payload:_id::VARCHAR AS id FROM {faulty_stack.outputs.database}.RAW.EVENTS WHERE file_name = %s"
        return {row["id"] for row in faulty_stack.query(sql, [receipt["object_key"]])}

    eventually(lambda: loaded() == set(ids))


INJECTIONS = [
    "'; DROP TABLE RAW.EVENTS; --",
    '"; DELETE FROM STAGING.STG_EVENTS; --',
    "{{ 7 * 7 }} {% raw %} {{ var('x') }}",
    "%s %(x)s ? :1 $1 $$ &x",
    "\\'; SELECT 1 /* ",
    "Robert'); --\u2028\u0000",
]


def test_sql_and_templates_in_events_arrive_in_the_marts_as_text(
    faulty_stack: FaultyStack, device: str
) -> None:
    fences = [Fence(f"tag {text}", f"fence {text}") for text in INJECTIONS]
    devices = [f"{n} {text} {device}" for n, text in enumerate(INJECTIONS)]
    receipt = sent(
        faulty_stack,
        *(
            crossing(device, kind, NOW - timedelta(minutes=minutes), fence, _id=f"{text} {kind} {device}")
            for device, fence, text in zip(devices, fences, INJECTIONS, strict=True)
            for kind, minutes in (("enter", 30), ("exit", 20))
        ),
    )
    database = faulty_stack.outputs.database

    def loaded() -> int:
        sql = f"SELECT COUNT(*) AS n FROM {database}.RAW.EVENTS WHERE file_name = %s"
        return int(faulty_stack.query(sql, [receipt["object_key"]])[0]["n"])

    eventually(lambda: loaded() == 2 * len(INJECTIONS))
    assert build_marts(faulty_stack.environment)
    found = read_stores.mart_stays(faulty_stack.session, database, devices)
    assert {(stay.device_id, stay.fence) for stay in found} == set(zip(devices, fences, strict=True))
    assert all(stay.exited_at for stay in read_stores.mart_stays(faulty_stack.session, database, devices))


# --- personal data


def requests_with(secret: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Yield accepted, rejected and unreadable requests with `secret` in various fields and headers."""
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


def test_no_log_contains_personal_data(faulty_stack: FaultyStack) -> None:
    """Logs must not contain personal data, either in normal operation or when a service fails while an event
    is processed.
    """
    secret = f"planted{uuid4().hex}"
    requests = list(requests_with(secret))
    before = set(faulty_stack.all_keys())
    rules = [
        Rule(Fault.REFUSED, "s3", "PutObject", "ingest", share=0.4),
        Rule(Fault.THROTTLED, "kinesis", share=0.4),
        Rule(Fault.WRONG_BYTES, "kinesis", share=0.3),
        Rule(Fault.THROTTLED, "dynamodb", caller="consume", share=0.4),
        Rule(Fault.PARTLY, "events", caller="consume", share=0.4),
        Rule(Fault.REFUSED, "s3", "GetObject", "snowflake", share=0.3),
    ]
    for body, headers in requests:
        assert post(faulty_stack, body, headers)[0] in (202, 400, 415)
    with faulty_stack.proxy.rules(*rules):
        for body, headers in requests:
            assert post(faulty_stack, body.replace(b"hostile-", b"hostile2-"), headers)[0] in (
                202,
                400,
                415,
                503,
            )
        poison = json.dumps({"note": secret}).encode()
        faulty_stack.aws("kinesis").put_record(
            StreamName=faulty_stack.outputs.stream, Data=poison, PartitionKey="hostile"
        )
        eventually(lambda: any(key.startswith("set-aside/") for key in {*faulty_stack.all_keys()} - before))
    wait_until_consumed(faulty_stack)
    logs = {
        path.name: path.read_text(errors="replace").splitlines()
        for path in sorted(faulty_stack.stack.settings.log_folder.rglob("*.log"))
    }
    assert any("records_set_aside" in line for lines in logs.values() for line in lines), (
        "records_set_aside was not logged"
    )
    leaks = [
        f"{name}: {line[max(0, line.find(secret) - 200) : line.find(secret) + 20]}"
        for name, lines in logs.items()
        for line in lines
        if secret in line
    ]
    assert leaks == []
    for group in faulty_stack.aws("logs").describe_log_groups()["logGroups"]:
        pages = (
            faulty_stack.aws("logs")
            .get_paginator("filter_log_events")
            .paginate(logGroupName=group["logGroupName"])
        )
        lines = [found["message"] for page in pages for found in page["events"] if secret in found["message"]]
        assert lines == [], group["logGroupName"]


def wait_until_consumed(faulty_stack: FaultyStack) -> None:
    """Send one more event from each of twenty new devices, and wait for their visits. Each of these events follows all
    earlier ones in its shard, and the devices are almost certainly spread over both shards.
    """
    devices = [f"hostile-{uuid4().hex[:12]}" for _ in range(20)]
    for device in devices:
        sent(faulty_stack, crossing(device, "enter", NOW))
    dynamodb, table = faulty_stack.aws("dynamodb"), faulty_stack.outputs.visits_table

    def all_have_a_visit() -> bool:
        return all(any(read_stores.device_stays(dynamodb, table, device)) for device in devices)

    eventually(all_have_a_visit)
